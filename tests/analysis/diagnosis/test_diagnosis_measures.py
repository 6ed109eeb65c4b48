"""Measures of one layer, beside sums over all choices and counts by hand."""

from itertools import combinations

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.analysis.diagnosis.measures import (
    attention_sinks,
    attractor_measures,
    attractors,
    energy_measures,
    high_norms,
    reduction_measures,
)
from fatr_hf.analysis.measures import high_frequency_energy
from fatr_hf.analysis.trace import LayerTrace, TokenState, trace


@pytest.fixture
def reductions(make_sharp_fatr):
    """Both reductions of a model on 3 x 3 patches, the second with DC tokens in its input."""
    model = make_sharp_fatr(image_size=12, reduction_layers=[0, 2], keep_ratio=[0.7, 0.5], dc_windows=[1, 1]).double()
    pixel_values = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    return {each.layer: each for each in trace(model, pixel_values) if each.reduction is not None}


def hand_made(scores, tokens):
    """An unreduced layer of one image with CLS and 1 x 4 patches, which leaves the tokens as they are."""
    tokens = torch.tensor(tokens)[None, :, None]
    state = TokenState(tokens, (1, 4), 1, 0, torch.arange(1, 5)[None], torch.ones(1, 4, dtype=torch.bool))
    return LayerTrace(0, state, state, None, torch.tensor([scores]), None)


@pytest.mark.parametrize("layer", [0, 2])
def test_energy_by_chance_is_the_mean_over_all_choices(reductions, layer):
    each = reductions[layer]
    before, after = each.reduction
    patches = before.shape[1] - 1 - each.entering.num_dc
    keep = after.shape[1] - 1 - each.leaving.num_dc
    choices = [[0, *(1 + place for place in chosen)] for chosen in combinations(range(patches), keep)]
    mean = torch.stack([high_frequency_energy(before[:, chosen]) for chosen in choices]).mean(dim=0)
    measures = energy_measures(each)
    torch.testing.assert_close(measures["energy_by_chance"], mean / high_frequency_energy(before))
    torch.testing.assert_close(
        measures["energy_over_chance"], measures["energy_of_patches"] - measures["energy_by_chance"]
    )


@pytest.mark.parametrize("layer", [0, 2])
def test_energy_of_patches_is_at_least_what_is_guaranteed_and_at_most_what_is_kept(reductions, layer):
    measures = energy_measures(reductions[layer])
    assert (measures["energy_guaranteed"] >= 0).all()
    assert (measures["energy_guaranteed"] <= measures["energy_of_patches"] + 1e-12).all()
    assert (measures["energy_of_patches"] <= measures["energy_kept"] + 1e-12).all()


def test_the_guarantee_is_reached_where_what_is_folded_is_equal():
    tokens = torch.tensor([[[3.0, 1], [0, 2], [5, 5], [1, 1], [1, 1], [1, 1]]])
    own = torch.tensor([[True, True, False, False, False]])
    entering = TokenState(tokens, (1, 5), 1, 0, torch.arange(1, 6)[None], torch.ones_like(own))
    leaving = TokenState(tokens[:, :3], (1, 5), 1, 0, torch.tensor([[1, 2, -1, -1, -1]]), own)
    each = LayerTrace(0, entering, leaving, None, None, (tokens, tokens[:, :3]))
    measures = energy_measures(each)
    assert_rounded_alike(measures["energy_guaranteed"], measures["energy_of_patches"])


def test_shares_of_marked_patches_that_are_kept(reductions):
    each = reductions[0]
    own = each.leaving.own
    nothing = torch.zeros_like(own)
    masks = {"kept": own, "folded": ~own, "all": torch.ones_like(own), "none": nothing}
    measures = reduction_measures(each, masks)
    assert measures["kept_kept"].tolist() == [1, 1, 1]
    assert measures["folded_kept"].tolist() == [0, 0, 0]
    assert measures["all_kept"].tolist() == pytest.approx([6 / 9] * 3)
    assert measures["patches_kept"].tolist() == pytest.approx([6 / 9] * 3)
    assert measures["none_kept"].isnan().all()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2, 0.2, 0.2, 0.2, 0.2], [False] * 4),
        ([2.0, 1.9, 2.0, 2.1, 0.0], [False, True, True, False]),
    ],
    ids=["even", "ten-times-uniform"],
)
def test_sinks_draw_ten_times_the_uniform_share(scores, expected):
    assert attention_sinks(hand_made(scores, [1.0] * 5)).tolist() == [expected]


def test_high_norms_are_three_times_the_median_of_the_patches():
    # CLS counts neither as a patch nor in the median, the lower of the two in the middle.
    assert high_norms(hand_made([0.2] * 5, [99.0, 1, -3, 2.9, 1])).tolist() == [[False, True, False, False]]


def test_attractors_are_counted_and_weighed():
    each = hand_made([0.1, 0.6, 0.1, 0.1, 0.1], [1.0, 9, 1, 1, 1])
    measures = attractor_measures(each, attractors(each))
    assert {name: values.tolist() for name, values in measures.items()} == {
        "sinks": [0],
        "high_norms": [1],
        "mass_of_sinks": [0],
        "mass_of_high_norms": pytest.approx([0.6]),
    }
