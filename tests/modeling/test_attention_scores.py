"""Every way to the column means gives those of the float64 map, as closely as plain PyTorch in the same dtype."""

import pytest
import torch
from rounding import assert_rounded_alike
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.vit.modeling_vit import eager_attention_forward

from fatr_hf.modeling.attention_scores import (
    BLOCK_ELEMENTS,
    attention_with_log_sum_exp,
    blocked_column_means,
    naive_column_means,
)
from fatr_hf.modeling.frequency_attention import SCORE_IMPLEMENTATIONS, attend
from fatr_hf.modeling.operators import column_means

# Batch, heads, tokens, head_dim.
SHAPES = [
    (1, 2, 1, 32),
    (3, 1, 17, 64),
    (2, 3, 63, 80),
    (1, 2, 64, 96),
    (3, 2, 65, 128),
    (2, 2, 197, 64),
    (1, 1, 577, 32),
    (1, 1, 1025, 64),
    (257, 1, 5, 32),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def draw(shape, dtype, spread=2.0):
    """Query, key and value as a model has them: views of (batch, tokens, heads * head_dim)."""
    batch, heads, tokens, head_dim = shape
    flat = [spread * torch.randn(batch, tokens, heads * head_dim, dtype=torch.float64) for _ in range(3)]
    return [part.to(dtype).unflatten(2, (heads, head_dim)).transpose(1, 2) for part in flat]


def exact_means(query, key, scaling):
    return (query.double() @ key.double().transpose(2, 3) * scaling).softmax(dim=3).mean(dim=(1, 2))


def plain_means(query, key, scaling):
    """As eager attention has it: logits in the inputs' dtype, a softmax in float32 or better."""
    logits = query @ key.transpose(2, 3) * scaling
    return logits.softmax(dim=3, dtype=torch.promote_types(query.dtype, torch.float32)).mean(dim=(1, 2))


def assert_as_good_as_plain(actual, query, key, scaling):
    exact, plain = exact_means(query, key, scaling), plain_means(query, key, scaling)
    assert actual.dtype == plain.dtype
    assert actual.shape == exact.shape
    assert not actual.requires_grad
    # A mean of N weights cannot be held more finely than this.
    floor = 8 * torch.finfo(actual.dtype).eps * exact.max()
    assert (actual.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + floor


def log_sum_exp_means(query, key, scaling):
    attended = attention_with_log_sum_exp(query, key, key, scaling)
    assert attended is not None
    return blocked_column_means(query, key, scaling, attended[1])


WAYS = {
    "naive": naive_column_means,
    "blocked": blocked_column_means,
    "operator": lambda *inputs: column_means(*inputs, fused=False),
    "log_sum_exp": log_sum_exp_means,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@ways
@dtypes
@shapes
def test_column_means(shape, dtype, way):
    query, key, _ = draw(shape, dtype)
    scaling = shape[3] ** -0.5
    assert_as_good_as_plain(way(query, key, scaling), query, key, scaling)


@shapes
@dtypes
@pytest.mark.parametrize("way", ["naive", "blocked", "log-sum-exp", "operator"])
def test_weighted_column_means(shape, dtype, way):
    query, key, _ = draw(shape, dtype)
    scaling = shape[3] ** -0.5
    weights = torch.rand(shape[:3], dtype=torch.promote_types(dtype, torch.float32))
    log_sum_exp = (query.double() @ key.double().transpose(2, 3) * scaling).logsumexp(dim=3).to(weights.dtype)
    actual = {
        "naive": lambda: naive_column_means(query, key, scaling, weights),
        "blocked": lambda: blocked_column_means(query, key, scaling, weights=weights),
        "log-sum-exp": lambda: blocked_column_means(query, key, scaling, log_sum_exp, weights),
        "operator": lambda: column_means(query, key, scaling, weights=weights, fused=False),
    }[way]()
    maps = (query.double() @ key.double().transpose(2, 3) * scaling).softmax(dim=3)
    exact = (maps.mean(dim=2) * weights.double()).mean(dim=1)
    rounded = (query @ key.transpose(2, 3) * scaling).softmax(dim=3, dtype=weights.dtype)
    plain = (rounded.mean(dim=2) * weights).mean(dim=1)
    assert (actual.dtype, actual.shape) == (plain.dtype, plain.shape)
    floor = 8 * torch.finfo(actual.dtype).eps * exact.max()
    assert (actual.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + floor


@ways
@dtypes
@pytest.mark.parametrize("largest", [1e2, 1e4], ids="logits{:.0f}".format)
def test_extreme_logits(dtype, largest, way):
    query, key, _ = draw((2, 2, 33, 32), torch.float64, spread=1.0)
    query = (query * (largest / (query @ key.transpose(2, 3)).abs().max())).to(dtype)
    means = way(query, key.to(dtype), 1.0)
    assert means.isfinite().all()
    assert_as_good_as_plain(means, query, key.to(dtype), 1.0)


@ways
@dtypes
def test_equal_rows_give_equal_means(dtype, way):
    query, key, _ = draw((2, 2, 50, 32), dtype)
    means = way(query, key[:, :, :1].expand_as(key), 1.0)
    assert_rounded_alike(means, torch.full_like(means, 1 / 50))


@ways
def test_results_are_the_same_from_run_to_run(way):
    query, key, _ = draw((3, 2, 197, 64), torch.float32)
    assert torch.equal(way(query, key, 0.125), way(query, key, 0.125))


def test_blocks_do_not_change_the_result(monkeypatch):
    query, key, _ = draw((2, 2, 65, 16), torch.float64)
    expected = naive_column_means(query, key, 0.25)
    for elements in (1, 2 * 65 * 7, 2**30):
        monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", elements)
        assert_rounded_alike(blocked_column_means(query, key, 0.25), expected)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=["float64", "float32", "bfloat16"])
def test_the_attention_beside_the_log_sum_exp_is_sdpa_with_its_gradients(dtype):
    inputs = [part.requires_grad_() for part in draw((2, 3, 33, 16), dtype)]
    attended = attention_with_log_sum_exp(*inputs, 0.25)
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs, scale=0.25)
    assert torch.equal(attended[0], expected)
    exact = (inputs[0].double() @ inputs[1].double().transpose(2, 3) * 0.25).logsumexp(dim=3)
    assert_rounded_alike(attended[1], exact, torch.promote_types(dtype, torch.float32))
    assert not attended[1].requires_grad
    upstream = torch.randn_like(expected)
    actual, expected = (torch.autograd.grad(output, inputs, upstream) for output in (attended[0], expected))
    assert all(map(torch.equal, actual, expected))


def attended(attention_function, implementation, dropout=0.0, dtype=torch.float32, selection="high_frequency"):
    torch.manual_seed(1)
    query, key, value = draw((2, 2, 21, 16), dtype)
    module = torch.nn.Module()
    module.is_causal = False
    result = attend(
        attention_function,
        module,
        query,
        key,
        value,
        0.25,
        selection=selection,
        dropout=dropout,
        score_implementation=implementation,
    )
    return query, key, value, result


@pytest.mark.parametrize("selection", ["high_frequency", "low_frequency"])
@pytest.mark.parametrize("implementation", [*SCORE_IMPLEMENTATIONS, None])
@pytest.mark.parametrize("function", [eager_attention_forward, sdpa_attention_forward], ids=["eager", "sdpa"])
def test_every_implementation_by_name(function, implementation, selection):
    if (function, implementation) in ((eager_attention_forward, "log_sum_exp"), (sdpa_attention_forward, "map")):
        with pytest.raises(ValueError, match=f"score_implementation='{implementation}' needs"):
            attended(function, implementation, selection=selection)
        return
    query, key, value, result = attended(function, implementation, selection=selection)
    assert_as_good_as_plain(result.scores, query, key, 0.25)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.25).transpose(1, 2)
    assert_rounded_alike(result.output, expected)


@pytest.mark.parametrize("function", [eager_attention_forward, sdpa_attention_forward], ids=["eager", "sdpa"])
@pytest.mark.parametrize("implementation", ["map", "log_sum_exp"])
def test_dropout_leaves_no_map_to_score(function, implementation):
    with pytest.raises(ValueError, match="without"):
        attended(function, implementation, dropout=0.5)


def test_a_map_in_half_precision_is_not_exact():
    with pytest.raises(ValueError, match="in float32 or better"):
        attended(eager_attention_forward, "map", dtype=torch.bfloat16)


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match="'fast' must be one of map, log_sum_exp, triton, blocked, naive"):
        attended(sdpa_attention_forward, "fast")
