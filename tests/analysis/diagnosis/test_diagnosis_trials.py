"""Reductions that are tried: which there are, on what, and what comes of them."""

import pytest
import torch
from torch.nn import functional

from fatr_hf import FATRViTConfig
from fatr_hf.analysis.diagnosis.trials import list_trials, local_schedule, run_trials
from fatr_hf.analysis.outputs import model_output
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.baselines.rival import unreduced_copy

FIELDS = {"reduction_layers": [0, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [2, 1]}


def by_key(config):
    return {trial.key: trial for trial in list_trials(config)}


def run(model, pixel_values):
    with model.reduction(False):
        reference = model_output(model, pixel_values)
    return run_trials(unreduced_copy(model), list_trials(model.config), pixel_values, reference)


def test_every_layer_and_selection_is_tried(tiny):
    trials = by_key(FATRViTConfig(**tiny, **FIELDS))
    layers = range(4)
    assert set(trials) == {
        *((name, None) for name in ("as_it_is", "random", "low_frequency", "local")),
        *(("alone", layer) for layer in (0, 2)),
        *((name, layer) for name in ("moved", "moved_random", "moved_low_frequency") for layer in layers),
    }
    assert trials["as_it_is", None].schedule == Schedule((0, 2), (0.6, 0.5), (2, 1))
    assert trials["alone", 2].schedule == Schedule((2,), (0.5,), (1,))
    assert trials["moved_random", 3].schedule == Schedule((3,), (0.6,), (2,))
    assert trials["moved_random", 3].selection == "random"
    assert trials["moved", 3].selection == "high_frequency"


def test_a_models_own_selection_is_no_rival(tiny):
    keys = by_key(FATRViTConfig(**tiny, **FIELDS, selection="random"))
    assert ("low_frequency", None) in keys
    assert ("random", None) not in keys
    assert ("moved_random", 0) not in keys


def test_a_reduction_that_alone_would_not_shorten_is_left_out(tiny):
    # 64 patches: 0.8 keeps 51, and 16 DC tokens make 67; behind 16 DC tokens the same is shorter than what enters.
    fields = {"reduction_layers": [1, 2], "keep_ratio": [0.7, 0.8], "dc_windows": [4, 4]}
    keys = by_key(FATRViTConfig(**tiny, **fields))
    assert ("alone", 1) in keys
    assert ("alone", 2) not in keys


def test_local_windows_cost_no_more_and_a_hundredth_more_would(tiny):
    config = FATRViTConfig(**tiny, **FIELDS)
    local, budget = local_schedule(config), Schedule.of(config).macs(config)
    assert local.dc_windows == (4, 4)
    assert local.size_exponent == 0.5
    assert local.macs(config) <= budget
    more = local._replace(keep_ratio=tuple(ratio + 0.01 for ratio in local.keep_ratio))
    assert not more.is_possible(config) or more.macs(config) > budget


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "local"},
        {"reduction_layers": [1, 2], "keep_ratio": 0.05},
    ],
    ids=["local-already", "too-cheap"],
)
def test_local_windows_are_not_tried_where_there_is_no_such_schedule(tiny, fields):
    config = FATRViTConfig.from_dict({}, **tiny, **fields)
    assert local_schedule(config) is None
    assert ("local", None) not in by_key(config)


def test_without_parameters_of_its_own_the_twin_is_the_model(make_sharp_fatr, pixel_values):
    model = make_sharp_fatr(**FIELDS, reweight_attention=False, dc_position_embeddings=False)
    with model.reduction(False):
        reference = model_output(model, pixel_values)
    measures = run(model, pixel_values)
    for selection, name in (("high_frequency", "as_it_is"), ("random", "random"), ("low_frequency", "low_frequency")):
        model.set_reduction(selection=selection)
        expected = functional.cosine_similarity(model_output(model, pixel_values), reference)
        torch.testing.assert_close(measures[f"cosine_{name}", None], expected)


def test_gains_are_differences_to_the_reduction_as_it_is(make_sharp_fatr, pixel_values):
    measures = run(make_sharp_fatr(**FIELDS), pixel_values)
    for name in ("random", "low_frequency", "local"):
        expected = measures[f"cosine_{name}", None] - measures["cosine_as_it_is", None]
        assert torch.equal(measures[f"gain_{name}", None], expected)


def test_a_reduction_in_the_last_layer_changes_no_class(make_sharp_fatr, pixel_values):
    measures = run(make_sharp_fatr(**FIELDS), pixel_values)
    assert measures["cosine_moved", 3].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert (measures["cosine_moved", 0] < 0.9999).any()


def test_first_reduction_moved_to_its_own_place_is_it_alone(make_sharp_fatr, pixel_values):
    measures = run(make_sharp_fatr(**FIELDS), pixel_values)
    assert torch.equal(measures["cosine_moved", 0], measures["cosine_alone", 0])
