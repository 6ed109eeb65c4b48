"""Sections 1, 2, 4 and 5 of docs/theory.md: the high-frequency energy that reduction and re-weighting keep."""

import re
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import theory
import torch
from theory_cases import (
    COUNT,
    HIDDEN,
    IMAGES,
    SIZES,
    TOKENS,
    all_groups,
    all_logits,
    assert_at_most,
    assert_equal,
    by_image,
    energy,
    eye,
    pooled,
    random_tensor,
    repeated,
    subset_energies,
    subsets,
)

from fatr_hf.analysis.measures import expected_random_energy, high_frequency_energy
from fatr_hf.modeling.frequency_attention import reweight_values
from fatr_hf.modeling.token_reduction import (
    dense_layout,
    pool_windows,
    reduce_tokens,
    restore_tokens,
    token_sources,
    window_indices,
)

CPU = torch.device("cpu")
GRID = (3, 3)  # behind one prefix token


# 1. What pooling loses


@all_groups
def test_energy_is_that_within_groups_and_between_them(groups):
    within, between = theory.within_between_energy(TOKENS, groups)
    inside = sum(energy(TOKENS[:, groups[0] == label]) for label in groups.unique())
    assert_equal(within, inside, SIZES)
    assert_equal(within + between, energy(TOKENS), SIZES)
    assert_equal(within + between, high_frequency_energy(TOKENS), SIZES)


@all_groups
def test_counts_are_repetitions(groups):
    counts = torch.tensor([3, 1, 2, 5, 1, 1, 4, 0, 2, 1])
    weighted = theory.within_between_energy(TOKENS, groups, counts.expand(IMAGES, -1))
    written_out = [tensor.repeat_interleave(counts, dim=1) for tensor in (TOKENS, groups)]
    for actual, expected in zip(weighted, theory.within_between_energy(*written_out), strict=True):
        assert_equal(actual, expected, SIZES)


def reduce_once(tokens, keep, windows, scores=None, embeddings=None):
    """One reduction of 3 x 3 patches behind one prefix token."""
    scores = random_tensor(len(tokens), 9, seed=3) if scores is None else scores
    return reduce_tokens(tokens, scores, dense_layout(len(tokens), GRID, 1, CPU), keep, windows, embeddings)


REDUCTIONS = pytest.mark.parametrize(("keep", "windows"), [(8, 1), (5, 1), (1, 1), (5, 2), (3, 3), (8, 3)], ids=str)


@REDUCTIONS
def test_restored_tokens_lose_the_scatter_within(keep, windows):
    reduced, layout = reduce_once(TOKENS, keep, windows)
    source = token_sources(layout)
    restored = torch.cat([TOKENS[:, :1], restore_tokens(reduced, source)], dim=1)
    within, between = theory.within_between_energy(TOKENS, theory.reduction_groups(source, 1))
    assert_equal(energy(restored), between, SIZES)
    assert_equal(energy(TOKENS) - energy(restored), within, SIZES)


@all_groups
def test_shortened_sequence_loses_the_three_parts(groups):
    loss = theory.pooling_loss(TOKENS, groups)
    shortened = pooled(TOKENS, groups)
    assert_equal(sum(loss), energy(TOKENS) - energy(shortened), SIZES)
    assert_equal(loss.within, (TOKENS - repeated(TOKENS, groups)).square().sum(dim=(1, 2)), SIZES)
    shift = shortened.shape[1] * (shortened.mean(dim=1) - TOKENS.mean(dim=1)).square().sum(dim=1)
    assert_equal(loss.mean_shift, shift, SIZES)
    assert all((part >= 0).all() for part in loss)


@REDUCTIONS
def test_empty_windows_count_zero_times(keep, windows):
    reduced, layout = reduce_once(TOKENS, keep, windows)
    counts = torch.cat([torch.ones(IMAGES, 1 + keep), layout.dc_counts], dim=1)
    assert (windows > 1) == bool((counts == 0).any())
    within, _ = theory.within_between_energy(TOKENS, theory.reduction_groups(token_sources(layout), 1))
    mean = TOKENS.mean(dim=1, keepdim=True)
    multiplicity = ((counts - 1) * (reduced - mean).square().sum(dim=2)).sum(dim=1)
    shift = reduced.shape[1] * (reduced.mean(dim=1, keepdim=True) - mean).square().sum(dim=(1, 2))
    assert_equal(energy(TOKENS) - energy(reduced), within + multiplicity + shift, SIZES)


@all_groups
@pytest.mark.parametrize("step", [1e-3, 1, 1e3], ids="step{}".format)
def test_no_other_token_has_a_smaller_error(groups, step):
    within, _ = theory.within_between_energy(TOKENS, groups)
    offsets = by_image(step * SIZES.sqrt(), TOKENS) * random_tensor(40, HIDDEN)[groups]
    added = offsets.square().sum(dim=(1, 2))
    error = TOKENS - (repeated(TOKENS, groups) + offsets)
    assert_equal(error.square().sum(dim=(1, 2)), within + added, SIZES + added)
    assert_at_most(within, energy(error), SIZES + added)


# 2. When the energy cannot rise


@pytest.mark.parametrize("keep", range(1, COUNT), ids="keep{}".format)
def test_dropping_tokens_never_raises_the_energy(keep):
    kept = subsets(keep)
    after, dropped = subset_energies(TOKENS, kept), subset_energies(TOKENS, ~kept)
    means = [mask.double() @ TOKENS / mask.sum(dim=1)[:, None] for mask in (kept, ~kept)]
    between = keep * (COUNT - keep) / COUNT * (means[0] - means[1]).square().sum(dim=2)
    assert_equal(after + dropped + between, energy(TOKENS)[:, None].expand_as(after), SIZES)
    assert_at_most(after, energy(TOKENS)[:, None], SIZES)


@all_logits
@pytest.mark.parametrize("rows", [1, 4, 10, 30], ids="rows{}".format)
def test_mixing_keeps_below_its_bound(logits, rows):
    mixing = logits[:, 0].softmax(dim=2).repeat(1, 3, 1)[:, :rows]
    bound = theory.mixing_bound(TOKENS, mixing.sum(dim=1))
    assert_at_most(energy(mixing @ TOKENS), bound, SIZES)
    assert_at_most(bound, mixing.sum(dim=1).amax(dim=1) * energy(TOKENS), SIZES)


def test_rows_that_sum_to_one_are_not_enough():
    tokens = torch.tensor([0, 0, 0, 0, 0, 1.0]).view(1, 6, 1)
    mixing = torch.eye(6)[[0, 1, 5, 5]]
    assert mixing.sum(dim=1).tolist() == [1, 1, 1, 1]
    assert mixing.sum(dim=0).max() == 2
    assert energy(tokens).item() == pytest.approx(5 / 6)
    assert energy(mixing @ tokens).item() == 1


@pytest.mark.parametrize("steps", [[(5, 1)], [(1, 1)], [(4, 2), (2, 1)], [(2, 1), (1, 1)]], ids=str)
def test_pooling_never_raises_the_energy(steps):
    tokens, layout = TOKENS, dense_layout(IMAGES, GRID, 1, CPU)
    for keep, windows in steps:
        scores = (torch.arange(layout.num_patches) * 7 % 5).expand(IMAGES, -1)  # leaves no window empty
        before = energy(tokens)
        tokens, layout = reduce_tokens(tokens, scores, layout, keep, windows)
        assert (layout.dc_counts > 0).all()
        assert_at_most(energy(tokens), before, SIZES)


def test_empty_windows_and_embeddings_can_raise_the_energy():
    outlier = eye(COUNT)[None, :, 9:]
    only_the_last_goes = -torch.arange(9)[None]
    reduced, layout = reduce_once(outlier, keep=8, windows=2, scores=only_the_last_goes)
    assert layout.dc_counts.tolist() == [[0, 0, 0, 1]]
    assert energy(reduced) > 2 * energy(outlier)

    constant = torch.ones(1, COUNT, HIDDEN, dtype=torch.float64)
    reduced, _ = reduce_once(constant, keep=5, windows=1, embeddings=random_tensor(1, HIDDEN))
    assert energy(constant) == 0
    assert energy(reduced) > 0.1


@all_logits
def test_attention_passes_on_what_column_means_allow(logits):
    attention = logits[:, 0].softmax(dim=2)
    after = energy(attention @ TOKENS)
    assert_at_most(after, theory.mixing_bound(TOKENS, COUNT * attention.mean(dim=1)), SIZES)
    assert_at_most(after, COUNT * attention.mean(dim=1).amax(dim=1) * energy(TOKENS), SIZES)


def test_a_sink_can_raise_the_energy():
    attention = eye(COUNT)[[3] * 5 + [0] * 5]
    assert energy((attention @ TOKENS)[2:3]) > energy(TOKENS[2:3])


# 4. How much high-frequency energy is kept


@all_groups
def test_kept_energy_is_above_its_bound(groups):
    shortened = energy(pooled(TOKENS, groups))
    assert_at_most(theory.kept_energy_bound(TOKENS, groups), shortened, SIZES)
    kept = torch.tensor([(groups[0] == label).sum() == 1 for label in groups[0]])
    if kept.any():
        deviations = theory.deviation_energies(TOKENS)
        by_share = energy(TOKENS) - COUNT / kept.sum() * deviations[:, ~kept].sum(dim=1)
        assert_at_most(by_share, energy(TOKENS[:, kept]), SIZES)
        assert_at_most(energy(TOKENS[:, kept]), shortened, SIZES)


@REDUCTIONS
def test_bounds_are_reached(keep, windows):
    reduced, layout = reduce_once(TOKENS, keep, windows)
    bound = theory.kept_energy_bound(TOKENS, theory.reduction_groups(token_sources(layout), 1))
    assert_at_most(bound, energy(reduced), SIZES)
    if windows == 1:
        assert_equal(bound, energy(reduced), SIZES)
    tokens = torch.cat([TOKENS[:, :keep], TOKENS[:, :1].expand(-1, COUNT - keep, -1)], dim=1)
    dropped = theory.deviation_energies(tokens)[:, keep:].sum(dim=1)
    assert_equal(energy(tokens) - COUNT / keep * dropped, energy(tokens[:, :keep]), SIZES)


SCHEDULE = [(7, 2), (4, 2), (2, 1)]


def reductions_in_a_row(steps):
    """Sequence, layout and the dense sequence after each reduction of a 3 x 3 image, scored at random."""
    tokens, layout = TOKENS, dense_layout(IMAGES, GRID, 1, CPU)
    yield tokens, layout, TOKENS
    for seed, (keep, windows) in enumerate(steps):
        scores = random_tensor(IMAGES, layout.num_patches, seed=seed)
        tokens, layout = reduce_tokens(tokens, scores, layout, keep, windows)
        yield tokens, layout, torch.cat([tokens[:, :1], restore_tokens(tokens, token_sources(layout))], dim=1)


def test_reductions_in_a_row_are_one():
    dense = TOKENS
    for _, layout, restored in reductions_in_a_row(SCHEDULE):
        groups = theory.reduction_groups(token_sources(layout), 1)
        assert_equal(restored, theory.group_means(TOKENS, groups), SIZES.sqrt())
        within, _ = theory.within_between_energy(dense, groups)
        assert_equal(energy(dense) - energy(restored), within, SIZES)
        dense = restored


def test_a_schedule_keeps_the_product():
    states = list(reductions_in_a_row(SCHEDULE))
    bound = energy(TOKENS)
    for (before, old, _), (after, new, _) in pairwise(states):
        is_kept = (old.positions[:, :, None] == new.positions[:, None]).any(dim=2)
        is_dropped = torch.cat([torch.zeros(IMAGES, 1), ~is_kept, torch.ones(IMAGES, old.num_dc)], dim=1)
        dropped = (is_dropped * theory.deviation_energies(before)).sum(dim=1)
        lost_share = before.shape[1] / (1 + new.num_patches) * dropped / energy(before).clamp(min=1e-30)
        bound = bound * (1 - lost_share).clamp(min=0)
        assert_at_most(bound, energy(after), SIZES)


PREFIXES = pytest.mark.parametrize("num_prefix", [0, 1, 4], ids="prefix{}".format)


@PREFIXES
@pytest.mark.parametrize("keep", [1, 3, 5, 6], ids="keep{}".format)
def test_expected_energy_of_random_selection_is_exact(num_prefix, keep):
    kept = subsets(keep, COUNT - num_prefix)
    kept = torch.cat([torch.ones(len(kept), num_prefix, dtype=torch.bool), kept], dim=1)
    mean = subset_energies(TOKENS, kept).mean(dim=1)
    assert_equal(expected_random_energy(TOKENS, keep, num_prefix), mean, SIZES)
    if not num_prefix:
        assert_equal(mean, (keep - 1) / (COUNT - 1) * energy(TOKENS), SIZES)


def energies_of_all_choices(tokens, keep, windows):
    """The energies (choices, batch) of one prefix token, ``keep`` of 3 x 3 patches and the windows' DC tokens."""
    window_index, energies = window_indices(GRID, windows, CPU), []
    for mask in subsets(keep, 9):
        folded = tokens[:, 1:][:, ~mask]
        index = window_index[~mask].expand(len(tokens), -1)
        dc_tokens, dc_counts = pool_windows(folded, torch.ones_like(index), index, windows**2)
        energies.append(
            energy(torch.cat([tokens[:, :1], tokens[:, 1:][:, mask], dc_tokens[:, dc_counts[0] > 0]], dim=1))
        )
    return torch.stack(energies)


@pytest.mark.parametrize(("keep", "windows"), [(1, 1), (5, 1), (8, 1), (5, 2), (3, 3)], ids=str)
def test_random_selection_with_dc_tokens_stays_below_its_ceiling(keep, windows):
    ceiling = theory.random_energy_ceiling(TOKENS, window_indices(GRID, windows, CPU).expand(IMAGES, -1), keep, 1)
    assert_at_most(energies_of_all_choices(TOKENS, keep, windows).mean(dim=0), ceiling, SIZES)


@pytest.mark.parametrize("keep", [4, 7, 9], ids="keep{}".format)
def test_low_share_of_energy_beats_chance(keep):
    kept = subsets(keep)
    share = (theory.deviation_energies(TOKENS) @ (~kept).T.double()) / energy(TOKENS).clamp(min=1e-30)[:, None]
    is_low = share < keep / COUNT * (COUNT - keep) / (COUNT - 1) - 1e-9
    chance = expected_random_energy(TOKENS, keep)[:, None].expand_as(share)
    is_varied = energy(TOKENS) > 1e-12 * SIZES
    is_low &= is_varied[:, None]
    assert is_low.any()
    assert (subset_energies(TOKENS, kept) > chance)[is_low].all()


def test_bound_above_the_ceiling_beats_chance():
    background = 0.1 * random_tensor(1, 6, HIDDEN)
    tokens = torch.cat([random_tensor(1, 4, HIDDEN, seed=1), background], dim=1)
    reduced, layout = reduce_once(tokens, keep=5, windows=1, scores=-torch.arange(9)[None])
    bound = theory.kept_energy_bound(tokens, theory.reduction_groups(token_sources(layout), 1))
    ceiling = theory.random_energy_ceiling(tokens, torch.zeros(1, 9, dtype=torch.int64), 5, 1)
    assert bound > ceiling
    assert energy(reduced) > energies_of_all_choices(tokens, 5, 1).mean(dim=0)


def test_column_means_can_keep_less_than_chance():
    tokens, keep = TOKENS[2:3], 7  # token 3 is the outlier
    attention = torch.full((COUNT, COUNT), 1 / (COUNT - 1), dtype=torch.float64)
    attention[:, 3] = 0
    kept = attention.mean(dim=0).topk(keep).indices
    assert energy(tokens[:, kept]) == 0
    assert expected_random_energy(tokens, keep) > 0.5 * energy(tokens)


@all_groups
@all_logits
def test_energy_after_attention_is_bounded_by_the_scores(groups, logits):
    attention = logits[:, 0].softmax(dim=2)
    restored = repeated(TOKENS, groups)
    scatter = (attention.mean(dim=1) * (TOKENS - restored).square().sum(dim=2)).sum(dim=1)
    bound = energy(attention @ TOKENS).sqrt() - (COUNT * scatter).sqrt()
    assert_at_most(bound, energy(attention @ restored).sqrt(), SIZES.sqrt())


# 5. Re-weighting

OMEGAS = pytest.mark.parametrize(
    ("omega1", "omega2"), [(0, 0), (0.3, 0), (-0.3, 0), (-2.5, 0), (0, 0.4), (0.7, -1.2)], ids=str
)
NUM_DC = 4


def reweighted(attention, omega1, omega2):
    is_dc = torch.arange(COUNT) >= COUNT - NUM_DC
    return attention + omega1 * (attention - 1 / COUNT) + omega2 * attention * is_dc


@all_logits
@OMEGAS
def test_reweighting_scales_the_high_frequencies(logits, omega1, omega2):
    attention = logits[:, 0].softmax(dim=2)
    output, dc_output = attention @ TOKENS, attention[:, :, -NUM_DC:] @ TOKENS[:, -NUM_DC:]
    actual = reweighted(attention, omega1, omega2) @ TOKENS
    without_mean = [tensor - tensor.mean(dim=1, keepdim=True) for tensor in (actual, output, dc_output)]
    assert_equal(without_mean[0], (1 + omega1) * without_mean[1] + omega2 * without_mean[2], SIZES.sqrt())
    if not omega2:
        assert_equal(energy(actual), (1 + omega1) ** 2 * energy(output), SIZES)


@all_logits
@OMEGAS
def test_reweighting_moves_the_mean(logits, omega1, omega2):
    attention = logits[:, 0].softmax(dim=2)
    column_means = attention.mean(dim=1)[:, None]
    old, of_attention = TOKENS.mean(dim=1), (column_means @ TOKENS)[:, 0]
    dc_part = (column_means[:, :, -NUM_DC:] @ TOKENS[:, -NUM_DC:])[:, 0]
    expected = of_attention + omega1 * (of_attention - old) + omega2 * dc_part
    assert_equal((reweighted(attention, omega1, omega2) @ TOKENS).mean(dim=1), expected, SIZES.sqrt())


@all_logits
def test_contraction_of_attention(logits):
    attention, centring = logits[0, 0].softmax(dim=1), eye(COUNT) - 1 / COUNT
    assert_equal((centring @ attention @ TOKENS), centring @ attention @ centring @ TOKENS, SIZES.sqrt())
    factor = torch.linalg.matrix_norm(centring @ attention @ centring, ord=2)
    assert_at_most(energy(attention @ TOKENS), factor**2 * energy(TOKENS), SIZES)
    assert factor**2 <= COUNT * attention.mean(dim=0).max() + 1e-12


def test_doubly_stochastic_attention_contracts_until_omega1_makes_up_for_it():
    orders = torch.tensor(list(permutations(range(4))))[[1, 7, 12, 20]]
    attention = torch.einsum("p,pij->ij", torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), eye(4)[orders])
    centring = eye(4) - 1 / 4
    _, factors, right = torch.linalg.svd(centring @ attention @ centring)
    assert factors[0] < 1
    tokens = random_tensor(3, 4, HIDDEN)
    for omega1, grows in ((1 / factors[0] - 1, False), (1 / factors[0] - 1 + 1e-6, True)):
        actual = attention + omega1 * (attention - 1 / 4)
        assert_equal((actual @ tokens).mean(dim=1), tokens.mean(dim=1))
        slowest = right[:1].T[None]
        assert (energy(actual @ slowest) > energy(slowest) * (1 + 1e-9)).item() == grows
        if not grows:
            assert_at_most(energy(actual @ tokens), energy(tokens))


@all_logits
@OMEGAS
def test_reweighted_values_are_the_reweighted_map(logits, omega1, omega2):
    attention, values = logits.softmax(dim=3), TOKENS[:, None]
    omegas = [torch.tensor([omega], dtype=torch.float64) for omega in (omega1, omega2)]
    without_map = attention @ reweight_values(values, *omegas, NUM_DC)
    assert_equal(without_map, reweighted(attention, omega1, omega2) @ values, SIZES.sqrt())
    dropped = attention * (random_tensor(COUNT, COUNT) > 0)
    difference = dropped @ reweight_values(values, *omegas, NUM_DC) - reweighted(dropped, omega1, omega2) @ values
    missing = 1 - dropped.sum(dim=3, keepdim=True)
    assert_equal(difference, omega1 * missing * values.mean(dim=2, keepdim=True), SIZES.sqrt())


# Folding into a like token


def folded_outputs(keys, values, sizes):
    """Outputs of queries over tokens, before and after the first two are folded, and the bound on their difference."""
    query = random_tensor(200, keys.shape[1], seed=4)

    def attend(keys, values, sizes):
        weights = (query @ keys.T).exp() * sizes
        return weights / weights.sum(dim=1, keepdim=True), values

    shares = sizes[:2] / sizes[:2].sum()
    new_keys = torch.cat([(shares @ keys[:2])[None], keys[2:]])
    new_values = torch.cat([(shares @ values[:2])[None], values[2:]])
    new_sizes = torch.cat([sizes[:2].sum()[None], sizes[2:]])
    attention, _ = attend(keys, values, sizes)
    before = attention @ values
    weights, _ = attend(new_keys, new_values, new_sizes)
    rest, _ = attend(keys[2:], values[2:], sizes[2:])
    apart = (query @ (keys[0] - keys[1])).abs()
    unlike = (new_values[0] - rest @ values[2:]).norm(dim=1)
    bound = attention[:, :2].sum(dim=1) * (apart / 4 * (values[0] - values[1]).norm() + apart**2 / 8 * unlike)
    return before, weights @ new_values, bound


@pytest.mark.parametrize("distance", [1e-3, 0.3, 3.0], ids="distance{}".format)
@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1.0, 40.0), (7.0, 2.0)], ids=str)
def test_folding_into_a_like_token_is_bounded(distance, sizes):
    keys, values = random_tensor(12, 6, seed=1), random_tensor(12, 6, seed=2)
    keys[1] = keys[0] + distance * random_tensor(6, seed=3)
    counts = torch.cat([torch.tensor(sizes), torch.ones(10)]).double()
    before, after, bound = folded_outputs(keys, values, counts)
    error = (before - after).norm(dim=1)
    assert (error <= bound * (1 + 1e-9) + 1e-14).all()
    assert error.max() > 1e-9  # the bound has something to hold


def test_folding_equal_keys_changes_no_output():
    keys, values = random_tensor(12, 6, seed=1), random_tensor(12, 6, seed=2)
    keys[1] = keys[0]
    before, after, bound = folded_outputs(keys, values, torch.arange(1, 13).double())
    assert bound.max() == 0
    torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-13)


# The functions' own behaviour


def test_half_precision_is_summed_in_full():
    tokens = (TOKENS[:1] + 30).to(torch.bfloat16)
    groups = torch.arange(COUNT)[None] % 3
    for actual, exact in zip(
        theory.within_between_energy(tokens, groups), theory.within_between_energy(tokens.double(), groups), strict=True
    ):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="groups holds -1: labels must be 0 or more"):
        theory.pooling_loss(TOKENS[:1], torch.tensor([[-1] * COUNT]))
    for keep in (0, 10):
        with pytest.raises(ValueError, match=f"keep={keep} must be an integer in 1 to 9"):
            expected_random_energy(TOKENS, keep, num_prefix=1)
        with pytest.raises(ValueError, match=f"keep={keep} must be an integer in 1 to 9"):
            theory.random_energy_ceiling(TOKENS, torch.zeros(IMAGES, 9), keep, num_prefix=1)


def test_the_page_names_functions_and_tests_that_exist():
    folder = Path(__file__).parent
    page = (folder.parents[1] / "docs" / "theory.md").read_text()
    tests = "".join(path.read_text() for path in folder.glob("test_theory*.py"))
    checks = re.findall(r"^Checks: (.*?)\n\n", page + "\n\n", re.MULTILINE | re.DOTALL)
    names = re.findall(r"`(\w+)`", " ".join(checks))
    assert len(names) > 40
    assert {name for name in names if f"def {name}(" not in tests and not hasattr(theory, name)} == {
        "reweight_values",
        "expected_random_energy",
    }
