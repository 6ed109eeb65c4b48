"""The kernels of the comparison of keys against plain functions: on a GPU where there is one, else in the interpreter.

Keys whose cosines are to tie hold small whole numbers; others are random, so that no two are alike but for rounding.
"""

import math
import re

import pytest
import torch
from compiled_kernels import compile_and_read
from rounding import assert_rounded_alike

from fatr_hf.modeling import kernels_similarity, token_reduction
from fatr_hf.modeling.kernels_common import HAS_TRITON
from fatr_hf.modeling.token_reduction import COSINE_STEPS, dense_layout, feature_similarity, fold_similar, token_sources

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
CUT_OFF = {torch.float32: 0.0, torch.bfloat16: 2**-8 if INTERPRETED else 0.0, torch.float16: 0.0}


def name(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name)


@pytest.fixture(autouse=True)
def seeded_with_large_programs(monkeypatch):
    """Of which there are fewer: the interpreter takes about as long for a small one."""
    monkeypatch.setattr(kernels_similarity, "PROGRAMS", 1)
    torch.manual_seed(0)


def distinctness_of(keys, energies):
    return kernels_similarity.distinctness(kernels_similarity.feature_directions(keys), energies)


def plain_distinctness(keys, energies):
    return token_reduction.distinctness(feature_similarity(keys.float()), energies)


@runs_kernels
@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 33, 24), (2, 16, 128), (1, 70, 768)], ids=name)
@dtypes
def test_directions(shape, dtype):
    keys = torch.randn(shape).to(DEVICE, dtype)
    actual = kernels_similarity.feature_directions(keys)
    assert actual.is_contiguous()
    assert_rounded_alike(actual, token_reduction.feature_directions(keys.float()), roundings=4)


@runs_kernels
def test_directions_of_keys_whose_lengths_are_exact_equal_the_plain_ones_bit_for_bit():
    keys = torch.tensor([[3.0, 4, 0], [0, 5, -12], [2, -3, 6], [-7, 0, 24]], device=DEVICE)
    keys = torch.nn.functional.pad(keys, (0, 5))[None] * 2.0 ** torch.arange(-2, 2, device=DEVICE)[:, None]
    assert torch.equal(kernels_similarity.feature_directions(keys), token_reduction.feature_directions(keys))


@runs_kernels
def test_keys_that_are_like_nothing_have_no_direction():
    keys = torch.randn(1, 6, 16, device=DEVICE)
    keys[0, 1], keys[0, 2, 3], keys[0, 3, 5], keys[0, 4, 0] = 0, math.nan, math.inf, -math.inf
    directions = kernels_similarity.feature_directions(keys)[0]
    assert directions[1:5].count_nonzero() == 0
    assert (directions[[0, 5]] != 0).all()
    energies = torch.rand(1, 6, device=DEVICE)
    torch.testing.assert_close(distinctness_of(keys, energies), plain_distinctness(keys, energies), rtol=0, atol=2e-5)


def nearest_cosines(keys, energies):
    """In steps, not rounded, in float64: towards the most like token of more energy; of the first the least like."""
    directions = keys.double() / keys.double().norm(dim=2, keepdim=True)
    cosines = COSINE_STEPS * (directions @ directions.transpose(1, 2)).clamp(-1, 1)
    nearest = torch.empty(energies.shape, dtype=torch.float64)
    for image, own in enumerate(energies.tolist()):
        order = sorted(range(len(own)), key=lambda place, own=own: (-own[place], place))
        nearest[image, order[0]] = cosines[image, order[0]].min()
        for rank in range(1, len(order)):
            nearest[image, order[rank]] = cosines[image, order[rank], order[:rank]].max()
    return nearest.to(DEVICE)


@runs_kernels
@pytest.mark.parametrize(
    "shape", [(2, 2, 8), (3, 31, 16), (2, 33, 24), (1, 64, 128), (1, 196, 64), (1, 1025, 32)], ids=name
)
def test_distinctness_in_steps(shape):
    keys = torch.randn(shape, device=DEVICE)
    energies = torch.rand(shape[:2], device=DEVICE)
    steps = (1 - distinctness_of(keys, energies).double()) * COSINE_STEPS
    assert torch.equal(steps, steps.round())
    # The nearest step, unless the cosine lies between two steps but for the rounding of a float32 product.
    assert (steps - nearest_cosines(keys, energies)).abs().max() <= 0.5 + 0.03


@runs_kernels
@pytest.mark.parametrize("kind", ["distinct", "ties", "blank", "nan", "float64"])
def test_distinctness_of_equal_keys_and_energies(kind):
    """Cosines of these keys are no halves of a step: both ways round them alike."""
    keys = torch.randint(-1, 2, (2, 75, 8), device=DEVICE).float()
    energies = torch.rand(2, 75, device=DEVICE)
    if kind == "ties":
        energies = (4 * energies).round()
    elif kind == "blank":
        keys, energies = torch.full_like(keys, 0.3), torch.full_like(energies, 2.0)
    elif kind == "nan":
        energies[:, ::3], energies[:, 1::5] = math.nan, -math.inf
    elif kind == "float64":
        energies = 1 + energies.double() * 1e-12
    expected = plain_distinctness(keys, energies)
    assert torch.equal(distinctness_of(keys, energies), expected)
    if kind == "blank":
        assert expected.count_nonzero() == 0


@runs_kernels
def test_distinctness_of_views_and_of_few_patches():
    keys = torch.randn(2, 16, 50, device=DEVICE).transpose(1, 2)[:, 9:]
    energies = torch.rand(82, 2, device=DEVICE).t()[:, ::2]
    assert torch.equal(distinctness_of(keys, energies), distinctness_of(keys.contiguous(), energies.contiguous()))
    assert distinctness_of(keys[:, :1], energies[:, :1]).tolist() == [[0.0], [0.0]]
    assert distinctness_of(keys[:0], energies[:0]).shape == (0, 41)


# Batch, grid, prefix tokens, patches kept by an earlier fold, patches kept, hidden size, key channels.
FOLDS = {
    "2x16to9-prefix1-hidden40": (2, (4, 4), 1, None, 9, 40, 8),
    "2x12to5of16-prefix1-hidden24": (2, (4, 4), 1, 12, 5, 24, 16),
    "1x15to14-prefix5-hidden300": (1, (3, 5), 5, None, 14, 300, 24),
    "3x6to1-prefix0-hidden8": (3, (1, 6), 0, None, 1, 8, 8),
    "1x2to1-prefix0-hidden1": (1, (1, 2), 0, None, 1, 1, 8),
    "1x60to59of96-prefix2-hidden1536": (1, (4, 6, 4), 2, 60, 59, 1536, 40),
    "1x196to60-prefix1-hidden68": (1, (14, 14), 1, None, 60, 68, 64),
    "2x70to2of80-prefix1-hidden130": (2, (8, 10), 1, 70, 2, 130, 128),
}
folds = pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)


def make_fold(batch, grid, prefix, before, keep, hidden, channels, dtype=torch.float32):
    """Arguments of the plain function with keys in place of their similarity; sizes above 1 after an earlier fold."""
    layout, patches = dense_layout(batch, grid, prefix, DEVICE), math.prod(grid)
    if before is not None:
        scores, similarity = torch.rand(2, batch, patches, patches, device=DEVICE)
        states = torch.zeros(batch, prefix + patches, 1, device=DEVICE)
        _, layout = fold_similar(states, scores[:, 0], similarity, layout, before)
        assert layout.sizes.max() > 1
        patches = before
    hidden_states = torch.randn(batch, prefix + patches, hidden).to(DEVICE, dtype)
    scores = torch.randn(batch, patches, device=DEVICE)
    return hidden_states, scores, torch.randn(batch, patches, channels, device=DEVICE), layout, keep


def run_kernel(hidden_states, scores, keys, layout, keep):
    return kernels_similarity.fold_similar(
        hidden_states,
        scores,
        kernels_similarity.feature_directions(keys),
        layout.positions,
        layout.sizes,
        token_sources(layout) if layout.is_reduced else None,
        layout.num_prefix,
        keep,
    )


def run_plain(hidden_states, scores, keys, layout, keep):
    return fold_similar(hidden_states, scores, feature_similarity(keys), layout, keep)


def assert_same_fold(actual, hidden_states, *arguments):
    """The same tokens together, and means with at most twice the error of the plain function's in the same dtype."""
    reduced, positions, sizes, sources, destinations = actual
    plain, layout = run_plain(hidden_states, *arguments)
    exact, _ = run_plain(hidden_states.double(), *arguments)
    assert torch.equal(positions, layout.positions)
    assert torch.equal(sizes, layout.sizes)
    assert torch.equal(sources, layout.sources)
    assert destinations.dtype == torch.int32
    assert (reduced.dtype, reduced.shape) == (plain.dtype, plain.shape)
    largest = exact.abs().max()
    allowed = 2 * (plain.double() - exact).abs().max() + (CUT_OFF[plain.dtype] + 1e-7) * largest
    assert (reduced.double() - exact).abs().max() <= allowed
    for image, went in enumerate(destinations.tolist()):
        alone = [token for token, place in enumerate(went) if went.count(place) == 1]
        assert torch.equal(reduced[image, [went[token] for token in alone]], hidden_states[image, alone])


@runs_kernels
@dtypes
@folds
def test_fold(fold, dtype):
    arguments = make_fold(*fold, dtype)
    assert_same_fold(run_kernel(*arguments), *arguments)


@runs_kernels
def test_fold_with_a_program_for_every_row(monkeypatch):
    monkeypatch.setattr(kernels_similarity, "PROGRAMS", 512)
    arguments = make_fold(2, (3, 5), 3, None, 9, 260, 8)
    assert_same_fold(run_kernel(*arguments), *arguments)


@runs_kernels
def test_fold_of_1025_patches():
    arguments = make_fold(1, (25, 41), 1, None, 990, 8, 16)
    assert_same_fold(run_kernel(*arguments), *arguments)


@runs_kernels
@pytest.mark.parametrize("kind", ["ties", "nan", "infinite", "int64", "float64"])
def test_fold_by_scores(kind):
    hidden_states, scores, *rest = make_fold(2, (5, 8), 1, None, 23, 16, 8)
    if kind == "ties":
        scores = scores.round()
    elif kind == "nan":
        scores[:, ::2] = math.nan
    elif kind == "infinite":
        scores[scores > 0.5], scores[scores < -0.5] = math.inf, -math.inf
    elif kind == "int64":
        scores = (scores * 2**60).long()
    else:
        scores = 1 + scores.double() * 1e-12
    assert_same_fold(run_kernel(hidden_states, scores, *rest), hidden_states, scores, *rest)


@runs_kernels
def test_of_kept_tokens_that_are_equally_alike_the_first_is_joined():
    hidden_states, scores, keys, *rest = make_fold(2, (7, 12), 1, None, 70, 16, 8)
    keys = torch.randint(0, 2, keys.shape, device=DEVICE).float()
    assert_same_fold(run_kernel(hidden_states, scores, keys, *rest), hidden_states, scores, keys, *rest)
    blank = torch.full_like(keys, 0.3)
    _, positions, sizes, *_ = run_kernel(hidden_states, torch.zeros_like(scores), blank, *rest)
    assert positions.tolist() == [list(range(70))] * 2
    assert sizes.tolist() == [[15, *[1] * 69]] * 2


@runs_kernels
def test_keys_that_are_like_nothing_join_the_first_that_is_not_unlike_them():
    hidden_states, scores, keys, *rest = make_fold(1, (4, 5), 0, None, 9, 16, 8)
    keys[0, ::3], keys[0, 1::3, 2] = 0, math.nan
    assert_same_fold(run_kernel(hidden_states, scores, keys, *rest), hidden_states, scores, keys, *rest)


@runs_kernels
@dtypes
def test_a_token_that_none_joins_stays_bit_for_bit(dtype):
    layout = dense_layout(1, (2, 3), 1, DEVICE)
    hidden_states = torch.randn(1, 7, 16).to(DEVICE, dtype)
    keys = torch.tensor([[1.0, 0], [0, 1], [0, 1], [-1, 0], [0, -1], [0, 1]], device=DEVICE)[None]
    scores = torch.tensor([[5.0, 4, 1, 3, 2, 0]], device=DEVICE)
    reduced, _, sizes, *_ = run_kernel(hidden_states, scores, keys, layout, 4)
    assert sizes.tolist() == [[1, 3, 1, 1]]
    assert torch.equal(reduced[:, [0, 1, 3, 4]], hidden_states[:, [0, 1, 4, 5]])


@runs_kernels
def test_a_token_that_is_infinite_reaches_only_what_it_joins():
    hidden_states, *rest = make_fold(1, (4, 4), 1, None, 5, 16, 8, torch.float16)
    destinations = run_kernel(hidden_states, *rest)[4][0]
    hidden_states[0, 3] = math.inf
    finite = run_kernel(hidden_states, *rest)[0][0].isfinite().all(dim=1)
    assert (~finite).nonzero().flatten().tolist() == [destinations[3].item()]


@runs_kernels
def test_where_every_patch_is_kept_nothing_changes():
    hidden_states, scores, keys, layout, _ = make_fold(2, (3, 3), 1, None, 5, 16, 8)
    reduced, positions, sizes, sources, destinations = run_kernel(hidden_states, scores, keys, layout, 9)
    assert torch.equal(reduced, hidden_states)
    assert torch.equal(positions, layout.positions)
    assert torch.equal(sources, 1 + layout.positions)
    assert (sizes == 1).all()
    assert destinations.tolist() == [list(range(10))] * 2


@runs_kernels
def test_patches_that_were_dropped_stay_dropped():
    hidden_states, scores, keys, layout, keep = make_fold(2, (4, 4), 1, 12, 5, 16, 8)
    sources = layout.sources.clone()
    sources[:, [2, 9]] = -1
    layout = layout._replace(sources=sources)
    actual = run_kernel(hidden_states, scores, keys, layout, keep)
    assert (actual[3][:, [2, 9]] == -1).all()
    assert_same_fold(actual, hidden_states, scores, keys, layout, keep)


@runs_kernels
def test_fold_of_views():
    hidden_states, scores, keys, layout, keep = make_fold(2, (5, 5), 1, None, 9, 24, 8)
    view = torch.empty(2, 24, 40, device=DEVICE).transpose(1, 2)[:, 7:33]
    view.copy_(hidden_states)
    expected = run_kernel(hidden_states, scores, keys, layout, keep)
    actual = run_kernel(
        view, scores.t().contiguous().t(), keys.transpose(1, 2).contiguous().transpose(1, 2), layout, keep
    )
    assert all(map(torch.equal, actual, expected))


@runs_kernels
def test_fold_of_no_images():
    shapes = [each.shape for each in run_kernel(*make_fold(0, (2, 3), 1, None, 4, 8, 8))]
    assert shapes == [(0, 5, 8), (0, 4), (0, 4), (0, 6), (0, 7)]


@runs_kernels
def test_the_fold_is_the_same_bit_for_bit_in_every_run():
    arguments = make_fold(2, (5, 9), 1, None, 30, 64, 16, torch.bfloat16)
    assert all(map(torch.equal, run_kernel(*arguments), run_kernel(*arguments)))


@runs_kernels
@folds
def test_backward(fold):
    assert_backward_is_exact(fold, torch.float32)


@runs_kernels
@pytest.mark.parametrize("dtype", HALF, ids=name)
def test_backward_in_half_precision(dtype):
    assert_backward_is_exact(FOLDS["2x12to5of16-prefix1-hidden24"], dtype)


def assert_backward_is_exact(fold, dtype):
    hidden_states, *rest = make_fold(*fold, dtype)
    layout = rest[2]
    reduced, _, new_sizes, _, destinations = run_kernel(hidden_states, *rest)
    grad = torch.randn(reduced.shape).to(reduced)
    leaf = hidden_states.double().requires_grad_()
    run_plain(leaf, *rest)[0].backward(grad.double())
    actual = kernels_similarity.fold_similar_backward(grad, destinations, layout.sizes, new_sizes, layout.num_prefix)
    assert actual.dtype == dtype
    rounding = max(1e-6, torch.finfo(dtype).eps)
    torch.testing.assert_close(actual.double(), leaf.grad, rtol=rounding, atol=1e-6)


@runs_kernels
def test_backward_of_an_expanded_gradient():
    hidden_states, *rest = make_fold(2, (4, 4), 1, None, 5, 24, 8)
    reduced, _, new_sizes, _, destinations = run_kernel(hidden_states, *rest)
    expected = kernels_similarity.fold_similar_backward(torch.ones_like(reduced), destinations, None, new_sizes, 1)
    expanded = torch.ones((), device=DEVICE).expand(reduced.shape)
    actual = kernels_similarity.fold_similar_backward(expanded, destinations, None, new_sizes, 1)
    assert torch.equal(actual, expected)


@pytest.mark.skipif("nvidia" not in backends, reason="this triton has no backend for NVIDIA GPUs")
def test_all_kernels_compile_for_sm_80_and_sm_90_and_spill_no_registers(tmp_path):
    compiled, spilled = compile_and_read(kernels_similarity, tmp_path)
    kernels = {name for name in vars(kernels_similarity) if name.endswith("_kernel")}
    assert compiled == kernels
    assert len(spilled) >= 2 * len(kernels)
    assert max(spilled) <= 32  # bytes a thread
    # What rounds a cosine is added to the whole sum of products: as its first term it would round every product.
    assembly = "".join(path.read_text() for path in tmp_path.rglob("*.ptx"))
    assert re.search(r"add.*0f4B400000", assembly)
    assert not re.search(r"fma.*0f4B400000", assembly)
