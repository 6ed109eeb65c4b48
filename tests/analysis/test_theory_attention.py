"""Section 3 of docs/theory.md: what replacing tokens changes in the output of attention."""

import pytest
import theory
import torch
from theory_cases import (
    COUNT,
    GROUPS,
    HIDDEN,
    IMAGES,
    SIZES,
    TOKENS,
    all_groups,
    all_logits,
    assert_at_most,
    assert_equal,
    eye,
    pooled,
    random_tensor,
    repeated,
    subsets,
)
from torch import nn

VALUES = TOKENS[:, None]  # of one head
exponents = pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0], ids="exponent{}".format)


def mean_change(one, other):
    return (one - other).norm(dim=-1).mean(dim=-1)


@all_groups
@all_logits
def test_replacing_values_changes_outputs_within_the_bound(groups, logits):
    attention = logits.softmax(dim=3)
    column_means = attention.mean(dim=2)
    for replacements in (repeated(TOKENS, groups)[:, None], random_tensor(40, HIDDEN)[groups][:, None]):
        scale = SIZES.sqrt() + 1
        bound = theory.replacement_bound(column_means, VALUES, groups, replacements)
        change = attention @ (VALUES - replacements)
        assert_at_most(change.norm(dim=3).mean(dim=2), bound, scale)
        assert_at_most(change[:, :, :4].norm(dim=3).sum(dim=2), COUNT * bound, scale)
        squares = (column_means * (VALUES - replacements).square().sum(dim=3)).sum(dim=2)
        assert_at_most(change.square().sum(dim=3).mean(dim=2), squares, scale**2)
    by_means = theory.replacement_bound(column_means, VALUES, groups, repeated(TOKENS, groups)[:, None])
    assert_equal(theory.replacement_bound(column_means, VALUES, groups), by_means, SIZES.sqrt())


def test_averaging_scores_over_heads_loses_a_covariance():
    groups = torch.tensor([GROUPS["two-windows"]])
    column_means = random_tensor(1, 3, COUNT, COUNT).softmax(dim=3).mean(dim=2)
    values = random_tensor(1, 3, COUNT, HIDDEN)
    costs = theory.replacement_costs(column_means, values, groups)
    distances = costs / column_means
    separately = [values[:, head : head + 1] - repeated(values[:, head], groups)[:, None] for head in range(3)]
    assert_equal(distances, torch.cat(separately, dim=1).norm(dim=3))

    averaged = column_means.mean(dim=1) * distances.mean(dim=1)
    deviations = [tensor - tensor.mean(dim=1, keepdim=True) for tensor in (column_means, distances)]
    covariance = (deviations[0] * deviations[1]).mean(dim=1)
    bound = theory.replacement_bound(column_means, values, groups).mean(dim=1)
    assert covariance.abs().sum() > 1e-3
    assert_equal(bound, (averaged + covariance).sum(dim=1))
    assert_at_most(bound, (column_means.mean(dim=1) * distances.amax(dim=1)).sum(dim=1))


def shortened_attention(logits, groups, exponent):
    """One head over the shortened sequence, as defined: its output, and what every token draws before it is divided.

    Kept and DC tokens are in the order of their labels; (batch, queries, hidden) and (batch, queries, groups).
    """
    sizes = (groups[0] == groups[0].unique()[:, None]).sum(dim=1)
    short_logits = pooled(logits[:, 0].transpose(1, 2), groups).transpose(1, 2) + exponent * sizes.double().log()
    drawn = (short_logits - logits[:, 0].logsumexp(dim=2, keepdim=True)).exp()
    return short_logits.softmax(dim=2) @ pooled(TOKENS, groups), drawn


def window_parts(tensor, groups):
    """The parts of the last dimension that belong to each group."""
    return [tensor[..., groups[0] == label] for label in groups[0].unique()]


@all_groups
@all_logits
@exponents
def test_the_softmax_of_the_shortened_sequence_exactly(groups, logits, exponent):
    attention = logits[:, 0].softmax(dim=2)
    output, drawn = shortened_attention(logits, groups, exponent)
    missing = torch.stack([part.sum(dim=2) for part in window_parts(attention, groups)], dim=2) - drawn
    directions = pooled(TOKENS, groups)[:, None] - output[:, :, None]
    ideal = attention @ repeated(TOKENS, groups)
    assert_equal(ideal - output, (missing[..., None] * directions).sum(dim=2), SIZES.sqrt())
    lost = theory.lost_attention(logits, groups, exponent)[:, 0]
    assert_equal(lost, missing.sum(dim=2))
    assert 0 <= lost.min() <= lost.max() <= 1
    diameter = torch.cdist(pooled(TOKENS, groups), pooled(TOKENS, groups)).amax(dim=(1, 2))
    assert_at_most(mean_change(ideal, output), diameter * lost.mean(dim=1), SIZES.sqrt())


@all_groups
@all_logits
@exponents
def test_dc_tokens_draw_at_most_one_over_their_size(groups, logits, exponent):
    _, drawn = shortened_attention(logits, groups, exponent)
    attention = window_parts(logits[:, 0].softmax(dim=2), groups)
    for place, window in enumerate(window_parts(logits[:, 0], groups)):
        size, spread = window.shape[2], window.amax(dim=2) - window.amin(dim=2)
        most = attention[place].sum(dim=2) * size ** (exponent - 1)
        assert_at_most(drawn[:, :, place], most)
        assert_at_most(most * (-(spread**2) / 8).exp(), drawn[:, :, place])
        alike = spread == 0
        assert_equal(drawn[:, :, place][alike], most[alike])


@pytest.mark.parametrize("size", [1, 2, 3, 50], ids="size{}".format)
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 10, 1e4], ids="scale{}".format)
def test_jensen_gap_is_at_most_an_eighth_of_the_squared_range(size, scale):
    logits = scale * torch.cat([random_tensor(20, size), random_tensor(20, size).sign(), eye(size)])
    gap = logits.logsumexp(dim=1) - logits.mean(dim=1) - torch.tensor(size).double().log()
    magnitude = torch.full((len(logits),), 10.0 + scale)
    assert_at_most(torch.zeros(()), gap, magnitude)
    assert_at_most(gap, (logits.amax(dim=1) - logits.amin(dim=1)) ** 2 / 8, magnitude)


@all_groups
@all_logits
@exponents
def test_shortened_attention_stays_within_both_bounds(groups, logits, exponent):
    attention = logits.softmax(dim=3)
    output, _ = shortened_attention(logits, groups, exponent)
    second = theory.softmax_bound(logits, VALUES, groups, exponent)[:, 0]
    bound = theory.replacement_bound(attention.mean(dim=2), VALUES, groups)[:, 0] + second
    assert_at_most(mean_change((attention @ VALUES)[:, 0], output), bound, SIZES.sqrt())

    without_logits = torch.zeros(IMAGES, dtype=torch.float64)
    for window, part in zip(window_parts(logits, groups), window_parts(attention, groups), strict=True):
        spread = (window.amax(dim=3) - window.amin(dim=3)).amax(dim=(1, 2))
        drawn = window.shape[3] ** (exponent - 1) * (-(spread**2) / 8).exp()
        without_logits += part.mean(dim=2).sum(dim=(1, 2)) * (1 - drawn)
    diameter = torch.cdist(pooled(TOKENS, groups), pooled(TOKENS, groups)).amax(dim=(1, 2))
    assert_at_most(second, diameter * without_logits, SIZES.sqrt())


@pytest.mark.parametrize("size", [1, 2, 9], ids="size{}".format)
def test_equal_tokens_lose_nothing_at_exponent_one(size):
    groups = torch.tensor([[0] * size + list(range(1, COUNT - size + 1))]).expand(IMAGES, -1)
    logits, values = random_tensor(IMAGES, 1, COUNT, COUNT), VALUES.clone()
    logits[..., :size], values[:, :, :size] = logits[..., :1], values[:, :, :1]
    column_means = logits.softmax(dim=3).mean(dim=2)
    assert_equal(theory.replacement_bound(column_means, values, groups), torch.zeros(IMAGES, 1), SIZES.sqrt())
    assert_equal(theory.softmax_bound(logits, values, groups, 1), torch.zeros(IMAGES, 1), SIZES.sqrt())
    lost = logits.softmax(dim=3)[..., :size].sum(dim=3) * (1 - 1 / size)
    assert_equal(theory.lost_attention(logits, groups), lost)


def test_layer_norm_lengthens_the_mean():
    tokens = nn.functional.layer_norm(TOKENS[[0, 3, 4, 6, 9]], (HIDDEN,), eps=0) * 2.5 + random_tensor(COUNT, 1)
    deviation = tokens.std(dim=2, correction=0)
    assert_equal(deviation, torch.full_like(deviation, 2.5))
    mean = tokens.mean(dim=1, keepdim=True)
    normalised, of_mean = (nn.functional.layer_norm(x, (HIDDEN,), eps=0) for x in (tokens, mean))
    stretch = 2.5 / mean.std(dim=2, correction=0, keepdim=True)
    assert_at_most(torch.ones(()), stretch)
    assert_equal(of_mean, stretch * normalised.mean(dim=1, keepdim=True))


def folded_in_one(masks):
    """Groups in which the masked tokens are one and every other stands for itself."""
    return torch.where(masks, COUNT, torch.arange(COUNT))


def scatters_of_all_choices(values, size):
    """Every choice of ``size`` tokens to fold, and how far their values are from their mean; (choices, tokens) each."""
    masks = subsets(size)
    ones, choices = torch.ones(len(masks), 1, COUNT), values.expand(len(masks), 1, -1, -1)
    return masks, theory.replacement_costs(ones, choices, folded_in_one(masks))[:, 0]


def lowest_first(scores, masks):
    """The place of the choice that folds the lowest scores."""
    return masks[:, scores.argsort()[: masks[0].sum()]].all(dim=1).nonzero().item()


@pytest.mark.parametrize("image", range(IMAGES), ids="image{}".format)
@all_logits
def test_lowest_column_means_are_within_twice_the_best(image, logits):
    column_means = logits[0, 0].softmax(dim=1).mean(dim=0)
    masks, scatters = scatters_of_all_choices(TOKENS[image], size=6)
    lowest, diameter, scale = (
        lowest_first(column_means, masks),
        torch.cdist(TOKENS[image], TOKENS[image]).max(),
        SIZES[image],
    )
    assert_at_most(scatters.amax()[None], diameter, scale.sqrt())
    bounds = (column_means * (scatters + diameter * masks)).sum(dim=1)
    assert_at_most(bounds[lowest, None], 2 * bounds.min(), scale.sqrt())
    costs = (column_means * scatters).sum(dim=1)
    assert_at_most(scatters[masks].min() * costs[lowest, None], scatters[masks].max() * costs.min(), scale)


def test_equal_scatter_makes_the_lowest_column_means_best():
    column_means = random_tensor(COUNT, COUNT).softmax(dim=1).mean(dim=0)
    masks, scatters = scatters_of_all_choices(eye(COUNT), size=6)
    assert_equal(scatters, (5 / 6) ** 0.5 * masks.double())  # corners of a simplex are equally far from its centre
    assert (column_means * scatters).sum(dim=1).argmin() == lowest_first(column_means, masks)


def test_the_best_choice_for_the_bound_has_lowest_costs():
    column_means = torch.tensor([0.19] * 4 + [0.04] * 6, dtype=torch.float64)
    values = torch.cat([torch.zeros(4, HIDDEN, dtype=torch.float64), 5 * eye(HIDDEN)[:6]])  # four attended ones alike
    masks, scatters = scatters_of_all_choices(values, size=4)
    costs = (column_means * scatters).sum(dim=1)
    assert masks[costs.argmin()].tolist() == [True] * 4 + [False] * 6
    assert costs.min() == 0
    assert costs[lowest_first(column_means, masks)] > 0.6


@all_logits
@pytest.mark.parametrize("keep", [1, 4, 9], ids="keep{}".format)
def test_random_dropping_has_no_bias(logits, keep):
    attention, kept = logits[:, 0].softmax(dim=2), subsets(keep)
    output = attention @ TOKENS
    directions = attention[..., None] * (TOKENS[:, None] - output[:, :, None])
    errors = torch.einsum("cn,bqnd->cbqd", kept.double(), directions)
    mass = torch.einsum("cn,bqn->cbq", kept.double(), attention)
    dropped = torch.einsum("cn,bqn,bnd->cbqd", kept.double(), attention, TOKENS)
    assert_equal(dropped.transpose(0, 1), (errors + mass[..., None] * output).transpose(0, 1), SIZES.sqrt())
    assert_equal(errors.mean(dim=0), torch.zeros_like(output), SIZES.sqrt())
    variance = keep * (COUNT - keep) / (COUNT * (COUNT - 1)) * directions.square().sum(dim=(2, 3))
    assert_equal(errors.square().sum(dim=3).mean(dim=0), variance, SIZES)


@pytest.mark.parametrize(("folded", "error"), [([0, 1, 2, 3], 3 / 14), ([0, 1, 5, 6], 0)], ids=["one-kind", "both"])
def test_folding_one_kind_of_token_has_a_bias(folded, error):
    tokens = TOKENS[6:7]  # five tokens at one place, five at another
    groups = torch.arange(COUNT)[None].index_fill(1, torch.tensor(folded), COUNT)
    output = tokens.mean(dim=1)  # attention is even
    shortened = pooled(tokens, groups).mean(dim=1)
    lost = theory.lost_attention(torch.zeros(1, 1, COUNT, COUNT, dtype=torch.float64), groups)[0, 0, 0]
    assert_equal(output - shortened, lost * (tokens[:, folded].mean(dim=1) - shortened))
    assert (output - shortened).abs().amax().item() == pytest.approx(error, abs=1e-12)
