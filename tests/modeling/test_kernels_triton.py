# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The fused kernels against plain functions: on a GPU where there is one, else on the CPU in triton's interpreter.

Whether the kernels also compile is tested without a GPU, in processes of their own: there the interpreter is off.
"""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from compiled_kernels import compile_and_read
from rounding import assert_rounded_alike

from fatr_hf.modeling import kernels_triton
from fatr_hf.modeling.kernels_common import HAS_TRITON
from fatr_hf.modeling.token_plan import axis_windows, window_count
from fatr_hf.modeling.token_reduction import (
    TokenLayout,
    partition_tokens,
    reduce_tokens,
    window_indices,
)

if not HAS_TRITON:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
from triton.backends import backends

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")

runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="neither a GPU nor TRITON_INTERPRET=1"
)

HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALF]
# The interpreter cuts bfloat16 off where a GPU rounds.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def name(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)


def heads_of_a_projection(batch, heads, tokens, head_dim, dtype, scale=1.0):
    """(batch, heads, tokens, head_dim), a view of (batch, tokens, heads * head_dim) as in the model."""
    projected = torch.randn(batch, tokens, heads * head_dim) * scale
    return projected.to(DEVICE, dtype).view(batch, tokens, heads, head_dim).transpose(1, 2)


def column_means_of(dtype, query, key, scaling):
    """Plain PyTorch, with the map, in one dtype."""
    logits = query.to(dtype) @ key.to(dtype).transpose(2, 3) * scaling
    return logits.softmax(dim=3).mean(dim=(1, 2))


def error(actual, exact):
    return ((actual.double() - exact).abs().max() / exact.max()).item()


def assert_exact(actual, query, key, scaling, tolerance=1e-7):
    """At most twice the error of plain PyTorch in float32, and a tolerance relative to the highest mean."""
    exact = column_means_of(torch.float64, query, key, scaling)
    plain = column_means_of(torch.float32, query, key, scaling)
    assert actual.dtype == torch.float32
    assert actual.shape == exact.shape
    assert error(actual, exact) <= 2 * error(plain, exact) + tolerance


# Batch, heads, tokens, head dimension; the interpreter is slow, and slowest in float32, where tiles are small.
SHAPES = [
    (1, 2, 1, 8),
    (3, 1, 17, 32),
    (1, 2, 63, 64),
    (2, 1, 64, 96),
    (1, 2, 65, 128),
    (1, 3, 197, 64),
    (1, 1, 256, 80),
    (1, 1, 257, 80),
]
LARGE_SHAPES = [(1, 1, 577, 64), (1, 1, 1025, 32), (1, 1, 300, 128), (257, 1, 3, 8)]


@runs_kernels
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, dtype) for shape in SHAPES for dtype in DTYPES), *((shape, HALF[0]) for shape in LARGE_SHAPES)],
    ids=name,
)
def test_column_means_are_exact(shape, dtype):
    query, key = heads_of_a_projection(*shape, dtype), heads_of_a_projection(*shape, dtype)
    scaling = shape[3] ** -0.5
    assert_exact(kernels_triton.column_means(query, key, scaling), query, key, scaling)


@runs_kernels
@pytest.mark.parametrize("shape", [(2, 3, 65, 32), (1, 2, 197, 64), (2, 2, 260, 16), (1, 1, 1025, 32)], ids=name)
@pytest.mark.parametrize("given", [False, True], ids=["alone", "log-sum-exp"])
@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
def test_weighted_column_means_are_exact(shape, given, strided):
    query, key = heads_of_a_projection(*shape, torch.bfloat16), heads_of_a_projection(*shape, torch.bfloat16)
    weights = torch.rand(*shape[:3], 1 + strided).to(DEVICE)[..., 0]
    maps = {
        dtype: (query.to(dtype) @ key.to(dtype).transpose(2, 3) * 0.2).softmax(dim=3)
        for dtype in (torch.float64, torch.float32)
    }
    exact, plain = ((each.mean(dim=2) * weights.to(each.dtype)).mean(dim=1) for each in maps.values())
    log_sum_exp = (query.double() @ key.double().transpose(2, 3) * 0.2).logsumexp(dim=3).float() if given else None
    actual = kernels_triton.column_means(query, key, 0.2, log_sum_exp, weights)
    assert error(actual, exact) <= 2 * error(plain, exact) + (1e-6 if given else 1e-7)


@runs_kernels
@pytest.mark.parametrize("shape", [(2, 2, 65, 32), (1, 1, 300, 64)], ids=name)
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
def test_column_means_take_a_log_sum_exp(shape, padded):
    query, key = heads_of_a_projection(*shape, torch.bfloat16), heads_of_a_projection(*shape, torch.bfloat16)
    log_sum_exp = (query.double() @ key.double().transpose(2, 3) * 0.2).logsumexp(dim=3).float()
    if padded:  # as attention kernels give it that round the tokens up
        log_sum_exp = torch.nn.functional.pad(log_sum_exp, (0, 7), value=float("nan"))[:, :, :-7]
    # The logarithm is rounded itself.
    assert_exact(kernels_triton.column_means(query, key, 0.2, log_sum_exp), query, key, 0.2, tolerance=1e-6)


@runs_kernels
@pytest.mark.parametrize("programs", [1, 7, 10**6], ids="programs{}".format)
@pytest.mark.parametrize("shape", [(2, 3, 150, 32), (1, 2, 260, 16)], ids=name)
def test_column_means_however_the_work_is_split(programs, shape, monkeypatch):
    monkeypatch.setattr(kernels_triton, "PROGRAMS", programs)
    query, key = heads_of_a_projection(*shape, torch.float16), heads_of_a_projection(*shape, torch.float16)
    assert_exact(kernels_triton.column_means(query, key, 0.3), query, key, 0.3)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("tokens", [100, 257], ids="tokens{}".format)
@pytest.mark.parametrize("sign", ["both", "negative"])
# Keys beyond the last have logits of 0, far above the others; their columns are not stored.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")
def test_column_means_of_extreme_logits(dtype, tokens, sign):
    query, key = heads_of_a_projection(1, 1, tokens, 32, dtype), heads_of_a_projection(1, 1, tokens, 32, dtype)
    if sign == "negative":
        query, key = query.abs(), -key.abs()
    scaling = 1e4 / (query.float() @ key.float().transpose(2, 3)).abs().max().item()
    actual = kernels_triton.column_means(query, key, scaling)
    assert actual.isfinite().all()
    # Logits of 1e4 are rounded to 1e-3; a GPU multiplies and subtracts in one step, the interpreter does not.
    assert_exact(actual, query, key, scaling, tolerance=1e-5)


@runs_kernels
@pytest.mark.parametrize("tokens", [7, 270], ids="tokens{}".format)
def test_column_means_of_equal_logits(tokens):
    query, key = heads_of_a_projection(1, 2, tokens, 16, torch.bfloat16), torch.ones(1, 2, tokens, 16)
    actual = kernels_triton.column_means(query, key.to(query), 0.5)
    assert_rounded_alike(actual, torch.full_like(actual, 1 / tokens), roundings=64)


@runs_kernels
@pytest.mark.parametrize("tokens", [33, 260], ids="tokens{}".format)
@pytest.mark.parametrize("view", ["packed", "channels-first", "expanded", "among-nan"])
def test_column_means_of_views(tokens, view):
    options = {"dtype": torch.bfloat16, "device": DEVICE}
    if view == "packed":  # one projection for query, key and value
        query, key, _ = torch.randn(1, tokens, 3, 2, 24, **options).permute(2, 0, 3, 1, 4)
    elif view == "channels-first":
        query, key = torch.randn(2, 1, 2, 24, tokens, **options).transpose(3, 4)
    elif view == "expanded":
        query, key = torch.randn(2, 1, 1, tokens, 24, **options).expand(-1, 1, 2, -1, -1)
    else:
        query, key = torch.full((2, 2, 3, tokens + 9, 40), float("nan"), **options)[:, :1, 1:, :tokens, 16:]
        query.normal_()
        key.normal_()
    assert query.shape == key.shape == (1, 2, tokens, 24)
    assert_exact(kernels_triton.column_means(query, key, 0.2), query, key, 0.2)


@runs_kernels
@pytest.mark.parametrize("tokens", [70, 257], ids="tokens{}".format)
def test_column_means_are_the_same_bit_for_bit_in_every_run(tokens):
    query, key = (heads_of_a_projection(1, 1, tokens, 32, torch.bfloat16) for _ in range(2))
    first, second = (kernels_triton.column_means(query, key, 0.2) for _ in range(2))
    assert torch.equal(first, second)


# Batch, grid, prefix tokens, old windows, patches, kept patches, windows, hidden size.
REDUCTIONS = {
    "14x14-196to137-windows2-hidden40": (2, (14, 14), 1, 0, 196, 137, 2, 40),
    "14x14-137to95-windows2to1-hidden30": (1, (14, 14), 1, 2, 137, 95, 1, 30),
    "3x5-9to4-windows3to3-hidden68": (2, (3, 5), 2, 3, 9, 4, 3, 68),
    "8x9-30to29-windows6to3-hidden20": (1, (8, 9), 5, 6, 30, 29, 3, 20),
    "16x16-256to100-windows7-hidden36": (1, (16, 16), 1, 0, 256, 100, 7, 36),
    "1x6-5to1-windows1to1-hidden8": (2, (1, 6), 0, 1, 5, 1, 1, 8),
    "30x20-600to6-windows8to4-hidden16": (1, (30, 20), 1, 8, 600, 6, 4, 16),
    "4x6x5-90to41-windows2x3x1to1x3x1-hidden20": (2, (4, 6, 5), 1, (2, 3, 1), 90, 41, (1, 3, 1), 20),
}
reductions = pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())


def make_reduction(batch, grid, prefix, old_windows, patches, keep, windows, hidden, dtype, kind="float32"):
    """Arguments of the plain function, with random scores of some kind and random counts, among them zeros."""
    places = torch.rand(batch, math.prod(grid)).argsort(dim=1)[:, :patches].sort(dim=1).values
    if patches == math.prod(grid):
        places = torch.arange(patches).expand(batch, -1)
    old_windows, windows = axis_windows(old_windows, len(grid)), axis_windows(windows, len(grid))
    counts = torch.randint(0, 4, (batch, window_count(old_windows)))
    tokens = torch.randn(batch, prefix + patches + counts.shape[1], hidden)
    scores = torch.randn(batch, tokens.shape[1])
    if kind == "ties":
        scores = scores.round() * torch.tensor([1.0, -1.0])[torch.randint(0, 2, scores.shape)]
    elif kind == "infinite":
        scores[scores > 0.5], scores[scores < -0.5] = float("inf"), float("-inf")
    elif kind == "int64":
        scores = (scores * 2**60).long()
    elif kind == "float64":
        scores = 1 + scores.double() * 1e-12
    scores = scores[:, prefix : prefix + patches]
    embeddings = torch.randn(window_count(windows), hidden).to(DEVICE, dtype)
    layout = TokenLayout(grid, prefix, old_windows, places.to(DEVICE), counts.to(DEVICE))
    return tokens.to(DEVICE, dtype), scores.to(DEVICE), layout, keep, windows, embeddings


def run_kernel(hidden_states, scores, layout, keep, windows, embeddings):
    return kernels_triton.reduce_tokens(
        hidden_states,
        scores,
        layout.positions,
        layout.dc_counts,
        layout.grid,
        layout.num_prefix,
        layout.windows,
        keep,
        windows,
        embeddings,
    )


def plain_destinations(scores, layout, keep, windows):
    first_dc = layout.num_prefix + keep
    kept, _ = partition_tokens(scores, keep)
    patches = first_dc + window_indices(layout.grid, windows, DEVICE)[layout.positions]
    slots = layout.num_prefix + torch.arange(keep, device=DEVICE)
    patches = patches.scatter(1, kept, slots.expand_as(kept))
    batch = patches.shape[0]
    prefix = torch.arange(layout.num_prefix, device=DEVICE).expand(batch, -1)
    old_dc = patches[:, :0]
    if layout.windows:
        old_dc = (first_dc + window_indices(layout.windows, windows, DEVICE)).expand(batch, -1)
    return torch.cat([prefix, patches, old_dc], dim=1).int()


def assert_same_reduction(actual, expected, scores, layout, keep, windows):
    reduced, positions, dc_counts, destinations = actual
    expected_reduced, expected_layout = expected
    assert torch.equal(positions, expected_layout.positions)
    assert torch.equal(dc_counts, expected_layout.dc_counts)
    assert torch.equal(destinations, plain_destinations(scores, layout, keep, windows))
    assert destinations.dtype == torch.int32
    assert reduced.dtype == expected_reduced.dtype
    copied = layout.num_prefix + keep
    assert torch.equal(reduced[:, :copied], expected_reduced[:, :copied])
    rounding = 2 * ROUNDING[reduced.dtype]  # of the mean, and of its sum with the embedding
    torch.testing.assert_close(reduced[:, copied:], expected_reduced[:, copied:], rtol=rounding, atol=rounding)


@runs_kernels
@dtypes
@reductions
def test_reduction(reduction, dtype):
    arguments = make_reduction(*reduction, dtype)
    assert_same_reduction(run_kernel(*arguments), reduce_tokens(*arguments), *arguments[1:5])


@runs_kernels
@pytest.mark.parametrize("kind", ["ties", "infinite", "int64", "float64"])
def test_reduction_by_scores(kind):
    arguments = make_reduction(*REDUCTIONS["8x9-30to29-windows6to3-hidden20"], torch.float32, kind)
    assert_same_reduction(run_kernel(*arguments), reduce_tokens(*arguments), *arguments[1:5])


@runs_kernels
@pytest.mark.parametrize("share", [0.3, 1.0], ids="{:.0%}".format)
def test_scores_that_are_nan_count_as_the_lowest(share):
    hidden_states, scores, *rest = make_reduction(*REDUCTIONS["3x5-9to4-windows3to3-hidden68"], torch.float32)
    scores[torch.rand(scores.shape) < share] = float("nan")
    lowest = scores.nan_to_num(nan=float("-inf"))
    actual, expected = run_kernel(hidden_states, scores, *rest), reduce_tokens(hidden_states, lowest, *rest)
    assert_same_reduction(actual, expected, lowest, *rest[:3])


@runs_kernels
def test_equal_scores_keep_the_first_tokens_of_the_image():
    arguments = make_reduction(*REDUCTIONS["14x14-196to137-windows2-hidden40"], torch.float32)
    arguments[1].zero_()
    positions = run_kernel(*arguments)[1]
    assert torch.equal(positions, torch.arange(137, device=DEVICE).expand(2, -1))


@runs_kernels
@dtypes
def test_reduction_without_embeddings_and_with_few_programs(dtype, monkeypatch):
    monkeypatch.setattr(kernels_triton, "PROGRAMS", 1)
    *arguments, _ = make_reduction(1, (5, 5), 1, 2, 20, 9, 2, 260, dtype)
    assert_same_reduction(run_kernel(*arguments, None), reduce_tokens(*arguments), *arguments[1:])


@runs_kernels
def test_kept_tokens_that_are_infinite_do_not_reach_dc_tokens():
    hidden_states, scores, *rest = make_reduction(1, (4, 4), 1, 0, 16, 5, 2, 16, torch.float16)
    kept, _ = partition_tokens(scores, 5)
    hidden_states[0, 1 + kept[0]] = float("inf")
    assert run_kernel(hidden_states, scores, *rest)[0][:, 6:].isfinite().all()


@runs_kernels
def test_reduction_of_views():
    hidden_states, scores, *rest = make_reduction(2, (5, 5), 1, 0, 25, 9, 2, 24, torch.float32)
    view = torch.randn(2, 24, 40, device=DEVICE).transpose(1, 2)[:, 7:33]
    view.copy_(hidden_states)
    expected = reduce_tokens(hidden_states, scores, *rest)
    assert_same_reduction(run_kernel(view, scores.t().contiguous().t(), *rest), expected, scores, *rest[:3])


@runs_kernels
@reductions
def test_backward(reduction):
    assert_backward_is_exact(reduction, torch.float32)


@runs_kernels
@pytest.mark.parametrize("dtype", HALF, ids=name)
def test_backward_in_half_precision(dtype):
    assert_backward_is_exact(REDUCTIONS["3x5-9to4-windows3to3-hidden68"], dtype)


def assert_backward_is_exact(reduction, dtype):
    hidden_states, scores, layout, keep, windows, _ = make_reduction(*reduction, dtype)
    reduced, _, new_dc_counts, destinations = run_kernel(hidden_states, scores, layout, keep, windows, None)
    grad = torch.randn(reduced.shape).to(reduced)
    leaf = hidden_states.double().requires_grad_()
    reduce_tokens(leaf, scores, layout, keep, windows)[0].backward(grad.double())
    actual = kernels_triton.reduce_tokens_backward(
        grad, destinations, layout.dc_counts, new_dc_counts, layout.num_prefix + keep
    )
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), leaf.grad, rtol=ROUNDING[dtype], atol=1e-6)


@runs_kernels
def test_backward_of_an_expanded_gradient():
    hidden_states, scores, layout, keep, windows, _ = make_reduction(2, (4, 4), 1, 2, 12, 5, 2, 24, torch.float32)
    reduced, _, new_dc_counts, destinations = run_kernel(hidden_states, scores, layout, keep, windows, None)
    rest = (destinations, layout.dc_counts, new_dc_counts, layout.num_prefix + keep)
    expected = kernels_triton.reduce_tokens_backward(torch.ones_like(reduced), *rest)
    expanded = torch.ones((), device=DEVICE).expand(reduced.shape)
    assert torch.equal(kernels_triton.reduce_tokens_backward(expanded, *rest), expected)


@runs_kernels
@dtypes
@pytest.mark.parametrize("shape", [(2, 1, 8), (3, 37, 130), (1, 300, 33)], ids=name)
@pytest.mark.parametrize("programs", [1, 512], ids="programs{}".format)
def test_token_means(shape, dtype, programs, monkeypatch):
    monkeypatch.setattr(kernels_triton, "PROGRAMS", programs)
    hidden_states = torch.randn(shape).to(DEVICE, dtype)
    actual = kernels_triton.token_means(hidden_states)
    assert actual.dtype == dtype
    rounding = ROUNDING[dtype]
    torch.testing.assert_close(actual.double(), hidden_states.double().mean(dim=1), rtol=rounding, atol=1e-6)


@runs_kernels
@dtypes
@pytest.mark.parametrize("shape", [(2, 1, 8), (3, 37, 130)], ids=name)
def test_add_residual(shape, dtype):
    residual, update = torch.randn(2, *shape).to(DEVICE, dtype)
    vector = torch.randn(shape[0], shape[2]).to(DEVICE, dtype)
    actual = kernels_triton.add_residual(residual, update, vector)
    assert actual.dtype == dtype
    exact = residual.double() + update.double() + vector.double()[:, None]
    torch.testing.assert_close(actual.double(), exact, rtol=ROUNDING[dtype], atol=1e-6)


@runs_kernels
def test_means_and_residual_of_views():
    hidden_states = torch.randn(2, 40, 20, device=DEVICE).transpose(1, 2)[:, 3:]
    residual, vector = torch.randn(1, 17, 40, device=DEVICE).expand(2, -1, -1), hidden_states[:, 0]
    assert_rounded_alike(kernels_triton.token_means(hidden_states), hidden_states.mean(dim=1))
    actual = kernels_triton.add_residual(residual, hidden_states, vector)
    assert_rounded_alike(actual, residual + hidden_states + vector[:, None])


def test_the_files_load_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("kernels_common", "kernels_triton", "kernels_similarity"):
        path = Path(kernels_triton.__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"fatr_hf.modeling.{name}", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    assert not sys.modules["fatr_hf.modeling.kernels_common"].HAS_TRITON


@pytest.mark.skipif("nvidia" not in backends, reason="this triton has no backend for NVIDIA GPUs")
def test_all_kernels_compile_for_sm_80_and_sm_90_and_spill_few_registers(tmp_path):
    compiled, spilled = compile_and_read(kernels_triton, tmp_path)
    kernels = {name for name in vars(kernels_triton) if name.endswith("_kernel")}
    assert compiled == kernels
    assert len(spilled) >= 2 * len(kernels)
    assert max(spilled) <= 400  # bytes a thread, of more than 512 in registers
