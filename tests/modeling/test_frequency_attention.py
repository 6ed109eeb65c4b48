"""Scores, re-weighting and DC sizes, against explicit N x N attention maps in float64."""

import pytest
import reference
import torch
from rounding import FLOAT32

from fatr_hf.modeling.attention_scores import cls_attention
from fatr_hf.modeling.attention_scores import naive_column_means as column_means
from fatr_hf.modeling.frequency_attention import (
    append_sizes,
    attend,
    dc_dissimilarity,
    fixed_random_scores,
    reweight_values,
    selection_scores,
)
from fatr_hf.modeling.operators import Likeness
from fatr_hf.modeling.reduction_config import SELECTIONS
from fatr_hf.modeling.token_reduction import TokenLayout, distinctness, feature_similarity

CPU = torch.device("cpu")
# Accuracy of a result that is computed in float32 whatever the input.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}

DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
HEAD_DIMS = pytest.mark.parametrize("head_dim", [8, 12, 16, 64], ids="head_dim{}".format)
EXPONENTS = pytest.mark.parametrize("exponent", [0.5, 1.0], ids="exponent{}".format)
# Batch, heads, tokens, head_dim.
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1, 3, 8), (3, 2, 7, 12), (2, 3, 33, 16), (1, 4, 50, 64)], ids=lambda shape: "x".join(map(str, shape))
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def query_and_key(shape, generator, dtype=torch.float64, spread=1.5):
    return [(spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(2)]


def explicit_maps(query, key, scaling, dc_counts=None, exponent=0.0):
    """(batch, heads, N, N) in float64."""
    counts = [()] * len(query) if dc_counts is None else dc_counts.tolist()
    images = zip(query.double(), key.double(), counts, strict=True)
    return torch.stack([reference.attention_maps(*image[:2], scaling, image[2], exponent) for image in images])


def eager_map(query, key, scaling, mask=0.0):
    """Logits in the inputs' dtype, softmax in float32 or better, as eager attention has it."""
    logits = query @ key.transpose(2, 3) * scaling + mask
    return logits.softmax(dim=3, dtype=torch.promote_types(query.dtype, torch.float32))


def assert_scores(actual, expected, dtype):
    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    assert not actual.requires_grad
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@DTYPES
@SHAPES
def test_column_means(generator, shape, dtype):
    query, key = query_and_key(shape, generator, dtype)
    scaling = shape[3] ** -0.5
    means = column_means(query.requires_grad_(), key, scaling)
    maps = explicit_maps(query.detach(), key, scaling)
    high_pass = [reference.selection_scores("high_frequency", image, None) for image in maps]
    assert_scores(means - 1 / shape[2], high_pass, dtype)
    assert means.sum(dim=1).tolist() == pytest.approx([1.0] * shape[0], rel=FLOAT32)


@DTYPES
@SHAPES
def test_cls_attention(generator, shape, dtype):
    query, key = query_and_key(shape, generator, dtype)
    scaling = shape[3] ** -0.5
    maps = explicit_maps(query, key, scaling)
    expected = [reference.selection_scores("cls_attention", image, None) for image in maps]
    assert_scores(cls_attention(query.requires_grad_(), key, scaling), expected, dtype)


@pytest.mark.parametrize("score", [column_means, cls_attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_autocast_does_not_lower_scores(generator, score, dtype):
    query, key = query_and_key((2, 3, 33, 16), generator, dtype)
    expected = score(query, key, 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        scores = score(query, key, 0.25)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 3, 8), (3, 33, 5)], ids=str)
def test_dc_dissimilarity(generator, shape, dtype):
    hidden = (0.5 + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    maps = torch.zeros(1, shape[1], shape[1])
    expected = [reference.selection_scores("dc_similarity", maps, image) for image in hidden.double()]
    assert_scores(dc_dissimilarity(hidden.requires_grad_()), expected, dtype)


@pytest.mark.parametrize("patches", [1, 15, 196, 3136], ids="patches{}".format)
def test_fixed_random_scores(patches):
    layers = [fixed_random_scores(patches, layer, CPU) for layer in range(12)]
    for layer, scores in enumerate(layers):
        assert scores.shape == (patches,)
        assert scores.unique().numel() == patches
        assert torch.equal(scores, fixed_random_scores(patches, layer, CPU))
    if patches >= 196:
        # Ranks neither follow the place in the image nor those of another layer.
        ranks = torch.stack([torch.arange(patches), *(scores.argsort().argsort() for scores in layers)]).double()
        correlation = ranks.corrcoef() - torch.eye(len(ranks), dtype=torch.float64)
        assert correlation.abs().max() < 5 / patches**0.5


def with_map(module, query, key, value, mask, dropout, scaling):
    attention = torch.nn.functional.dropout(eager_map(query, key, scaling).to(query.dtype), dropout)
    return (attention @ value).transpose(1, 2), attention


def without_map(*arguments, **options):
    return with_map(*arguments, **options)[0], None


def with_log_sums(module, query, key, value, mask, dropout, scaling):
    """As flex attention on a GPU: what it returns beside the output is no map."""
    output, _ = with_map(module, query, key, value, mask, dropout, scaling)
    return output, (query @ key.transpose(2, 3) * scaling).logsumexp(dim=3)


@DTYPES
@pytest.mark.parametrize("dropout", [0.0, 0.5], ids="dropout{}".format)
@pytest.mark.parametrize("function", [with_map, without_map, with_log_sums])
def test_attention_scores_are_exact_whatever_computes_the_attention(generator, function, dropout, dtype):
    query, key = query_and_key((2, 3, 17, 8), generator, dtype)
    value = torch.randn(2, 3, 17, 8, generator=generator).to(dtype)
    arguments = (function, torch.nn.Identity(), query.requires_grad_(), key, value, 0.5)
    maps = explicit_maps(query.detach(), key, 0.5)
    column_weights = torch.rand(2, 3, 17, generator=generator, dtype=torch.promote_types(dtype, torch.float32))
    for selection in SELECTIONS:
        torch.manual_seed(0)
        weights = column_weights if selection == "high_frequency_energy" else None
        result = attend(*arguments, selection=selection, column_weights=weights, dropout=dropout)
        torch.manual_seed(0)
        assert torch.equal(result.output, function(None, *arguments[2:5], None, dropout, 0.5)[0])
        if selection in ("high_frequency", "low_frequency"):
            assert_scores(result.scores, maps.mean(dim=(1, 2)).tolist(), dtype)
        elif selection == "high_frequency_energy":
            weighted = (maps.mean(dim=2) * column_weights).mean(dim=1)
            assert_scores(result.scores, weighted.tolist(), dtype)
        elif selection == "cls_attention":
            assert_scores(result.scores, maps[:, :, 0].mean(dim=1).tolist(), dtype)
        else:
            assert result.scores is None
    assert attend(*arguments).scores is None


OMEGAS = {
    "both": ([0.7, -0.4, 2.0], [-0.9, 1.5, 0.3]),
    "omega1": ([0.7, -0.4, 2.0], None),
    "omega2": (None, [-0.9, 1.5, 0.3]),
    "none": (None, None),
}


@pytest.mark.parametrize("omegas", OMEGAS.values(), ids=OMEGAS.keys())
@pytest.mark.parametrize("num_dc", [0, 1, 4], ids="dc{}".format)
@pytest.mark.parametrize("tokens", [5, 18], ids="tokens{}".format)
def test_reweighted_values_equal_the_reweighted_map(generator, omegas, num_dc, tokens):
    omega1, omega2 = (None if omega is None else torch.tensor(omega, dtype=torch.float64) for omega in omegas)
    value = torch.randn(2, 3, tokens, 8, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 3, tokens, tokens, generator=generator, dtype=torch.float64) ** 3
    maps = maps / maps.sum(dim=3, keepdim=True)
    zeros = [0.0] * 3
    for image in range(2):
        for head in range(3):
            weights = [(omega or zeros)[head] for omega in omegas]
            expected = reference.reweighted(maps[image, head], *weights, num_dc) @ value[image, head]
            actual = (maps @ reweight_values(value, omega1, omega2, num_dc))[image, head]
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@DTYPES
def test_zero_omegas_change_no_bit(generator, dtype):
    value = torch.randn(2, 3, 9, 8, generator=generator).to(dtype)
    zero = torch.zeros(3)
    for omega1, omega2, num_dc in [(zero, zero, 4), (zero, None, 0), (None, zero, 1), (zero, zero, 0), (None, None, 4)]:
        reweighted = reweight_values(value, omega1, omega2, num_dc)
        assert reweighted.dtype == dtype
        assert torch.equal(reweighted, value)


@DTYPES
def test_reweighting_keeps_the_dtype_of_the_values(generator, dtype):
    value = torch.randn(2, 3, 9, 8, generator=generator).to(dtype)
    omega1, omega2 = torch.tensor([0.5, -0.25, 1.0]), torch.tensor([1.0, 0.5, -1.0])
    reweighted = reweight_values(value, omega1, omega2, 2)
    exact = reweight_values(value.double(), omega1.double(), omega2.double(), 2)
    assert reweighted.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(reweighted.double(), exact, rtol=tolerance, atol=tolerance)


def test_gradients_of_reweighting(generator):
    shapes = ((1, 2, 4, 3), (2,), (2,))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    maps = torch.rand(1, 2, 4, 4, generator=generator, dtype=torch.float64).softmax(dim=3)
    assert torch.autograd.gradcheck(lambda *inputs: maps @ reweight_values(*inputs, 2), inputs)

    def explicit(value, omega1, omega2):
        heads = [reference.reweighted(maps[0, head], omega1[head], omega2[head], 2) @ value[0, head] for head in (0, 1)]
        return torch.stack(heads)[None]

    outputs = [explicit(*inputs), maps @ reweight_values(*inputs, 2)]
    expected, actual = (torch.autograd.grad(output.square().sum(), inputs) for output in outputs)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


DC_COUNTS = torch.tensor([[5, 0, 1, 300], [17, 2, 0, 0]])


def sized_inputs(head_dim, generator, dtype, tokens=21):
    query, key = query_and_key((2, 3, tokens, head_dim), generator, dtype)
    value = torch.randn(2, 3, tokens, head_dim, generator=generator).to(dtype)
    return query, key, value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@EXPONENTS
@HEAD_DIMS
@pytest.mark.parametrize("scale", [None, 1.0, 0.3], ids=["scaling-usual", "scaling1", "scaling0.3"])
def test_dc_sizes_equal_an_explicit_bias(generator, dtype, exponent, head_dim, scale):
    scaling = scale or head_dim**-0.5
    query, key, value = sized_inputs(head_dim, generator, dtype)
    long_query, long_key, long_value = append_sizes(query, key, value, DC_COUNTS, exponent, scaling)
    actual = eager_map(long_query, long_key, scaling)
    expected = explicit_maps(query, key, scaling, DC_COUNTS, exponent)
    largest = (query @ key.transpose(2, 3)).abs().max().item() * scaling
    tolerance = 16 * torch.finfo(dtype).eps * max(1, largest)  # of a logit, which is a weight's relative error
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)
    empty = DC_COUNTS[:, None, None, :] == 0
    assert actual[..., -4:].masked_select(empty).count_nonzero() == 0
    assert torch.equal(long_value[..., :head_dim], value)
    output = torch.nn.functional.scaled_dot_product_attention(long_query, long_key, long_value, scale=scaling)
    assert output[..., head_dim:].count_nonzero() == 0
    torch.testing.assert_close(output[..., :head_dim].double(), expected @ value.double(), rtol=0, atol=tolerance)


@DTYPES
@HEAD_DIMS
def test_dc_sizes_fit_fused_kernels(generator, dtype, head_dim):
    inputs = sized_inputs(head_dim, generator, dtype)
    for tensor in append_sizes(*inputs, DC_COUNTS, 1.0, head_dim**-0.5):
        assert tensor.dtype == dtype
        assert tensor.shape[:3] == (2, 3, 21)
        assert (tensor.shape[3] - head_dim) % 8 == 0
        assert tensor.isfinite().all()


@HALVES
@EXPONENTS
@HEAD_DIMS
def test_dc_sizes_in_half_precision_are_as_accurate_as_a_mask(generator, dtype, exponent, head_dim):
    scaling = head_dim**-0.5
    query, key, value = sized_inputs(head_dim, generator, dtype, tokens=60)
    bias = torch.zeros(2, 60, dtype=torch.float64)
    bias[:, -4:] = torch.where(DC_COUNTS > 0, exponent * DC_COUNTS.clamp(min=1).double().log(), -torch.inf)
    mask = bias.to(dtype)[:, None, None, :]
    exact = explicit_maps(query, key, scaling, DC_COUNTS, exponent)
    long_query, long_key, long_value = append_sizes(query, key, value, DC_COUNTS, exponent, scaling)
    attention = torch.nn.functional.scaled_dot_product_attention

    errors = {
        "eager": (eager_map(long_query, long_key, scaling), eager_map(query, key, scaling, mask), exact),
        "sdpa": (
            attention(long_query, long_key, long_value, scale=scaling)[..., :head_dim],
            attention(query, key, value, attn_mask=mask.expand(2, 3, 60, 60), scale=scaling),
            exact @ value.double(),
        ),
    }
    for name, (actual, plain, expected) in errors.items():
        error, plain_error = ((result.double() - expected).abs().max() for result in (actual, plain))
        assert error <= 2 * plain_error, name


@HALVES
@EXPONENTS
@HEAD_DIMS
def test_half_precision_holds_dc_sizes_twice_as_finely(generator, dtype, exponent, head_dim):
    scaling = head_dim**-0.5
    query, key, value = sized_inputs(head_dim, generator, dtype)
    long_query, long_key, _ = append_sizes(query, key, value, DC_COUNTS, exponent, scaling)
    plain, sized = (q.double() @ k.double().transpose(2, 3) for q, k in ((query, key), (long_query, long_key)))
    bias = (sized - plain)[..., -4:] * scaling
    for image, counts in enumerate(DC_COUNTS):
        expected = (exponent * counts[counts > 0].double().log()).expand(3, 21, -1)
        tolerance = torch.finfo(dtype).eps ** 2 + 1e-6  # of two halves, and of the logarithm
        torch.testing.assert_close(bias[image][..., counts > 0], expected, rtol=tolerance, atol=1e-6)


def test_gradients_of_dc_sizes(generator):
    shape = (1, 2, 4, 3)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attention(query, key, value):
        query, key, value = append_sizes(query, key, value, torch.tensor([[6, 0]]), 1.0, 0.5)
        return (eager_map(query, key, 0.5) @ value)[..., :3]

    assert torch.autograd.gradcheck(attention, inputs)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selection_scores(generator, selection):
    # Prefix of 2, 5 of 12 patches left, 4 DC tokens.
    positions = torch.tensor([[0, 3, 4, 7, 11], [1, 2, 3, 9, 10]])
    layout = TokenLayout((3, 4), 2, (2, 2), positions, torch.tensor([[3, 1, 2, 1], [4, 0, 2, 1]]))
    attention_scores = torch.rand(2, 11, generator=generator)
    hidden = torch.randn(2, 11, 6, generator=generator, dtype=torch.float64)
    similarity = feature_similarity(torch.randn(2, 5, 3, generator=generator, dtype=torch.float64))
    scores = selection_scores(selection, attention_scores, hidden, layout, 3, Likeness(similarity, fused=False))
    distinct = distinctness(similarity, attention_scores[:, 2:7])
    maps = torch.zeros(1, 11, 11)
    random = fixed_random_scores(12, 3, CPU)
    for image in range(2):
        attended = attention_scores[image, 2:7]
        expected = {
            "high_frequency": attended,
            "high_frequency_energy": attended * distinct[image] ** 2,
            "low_frequency": -attended,
            "cls_attention": attended,
            "dc_similarity": reference.selection_scores("dc_similarity", maps, hidden[image])[2:7],
            "random": [random[position] for position in positions[image]],
        }[selection]
        assert scores[image].tolist() == pytest.approx([float(score) for score in expected])
