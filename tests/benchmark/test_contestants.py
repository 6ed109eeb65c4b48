from dataclasses import replace

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.baselines import Rival, ToMe
from fatr_hf.baselines.macs import plan_macs
from fatr_hf.benchmark import KINDS
from fatr_hf.benchmark.contestants import (
    TRAINED_STD,
    build_contestants,
    check_known,
    draw_trained_parameters,
    macs_of_kind,
)


@pytest.fixture
def contestants(setting, cpu):
    unfused = replace(setting, fuse=False)
    return {each.name: each for each in build_contestants(KINDS, unfused, cpu)}


def test_weights_are_the_stock_models_where_names_agree(contestants):
    weights = contestants["stock"].model.state_dict()
    for contestant in contestants.values():
        model = contestant.model
        state = (model.model if isinstance(model, Rival) else model).state_dict()
        assert all(torch.equal(state[name], weight) for name, weight in weights.items())


def test_own_parameters_are_as_after_training(contestants):
    own = {
        name: dict(contestants[name].model.named_parameters())["vit.layers.2.reduction.dc_position_embeddings"]
        for name in ("fatr", "fatr-no-omega", "random")
    }
    assert torch.equal(own["fatr"], own["random"])
    for name, parameter in contestants["fatr"].model.named_parameters():
        if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
            assert parameter.all()
            assert parameter.abs().max() <= 2 * TRAINED_STD


def test_unreduced_contestants_agree(contestants):
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        stock, unreduced = (
            contestants[name].model.double()(pixel_values).logits for name in ("stock", "reduction-off")
        )
    assert_rounded_alike(unreduced, stock)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "stock"])
def test_fused_contestants_compute_the_same(contestants, setting, cpu, name):
    [fused] = build_contestants([name], setting, cpu)
    assert not any("q_proj" in key for key in fused.model.state_dict())
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = contestants[name].model.double()(pixel_values).logits
        assert_rounded_alike(fused.model.double()(pixel_values).logits, expected, torch.float32)


def test_token_counts_are_fatrs(contestants):
    schedule = [layer.tokens_out for layer in contestants["fatr"].model.config.plan()]
    truncated = contestants["truncation-bound"].model.config.plan()
    assert [step.tokens_out for step in truncated] == schedule
    evit = [step.tokens_out for step in contestants["evit"].model.config.plan()]
    assert len(set(evit)) == len(set(schedule))


def test_tome_is_matched_by_multiply_accumulates(setting, contestants):
    target = macs_of_kind("fatr", setting)
    tome = contestants["tome"].model
    merges = tome.method.merges_per_layer
    assert contestants["tome"].label == f"ToMe (r={merges})"
    distances = [
        abs(plan_macs(tome.model, ToMe(merges + change).plan(tome.model.config)) - target) for change in (-1, 0, 1)
    ]
    assert distances[1] == min(distances)
    assert abs(macs_of_kind("tome", setting) - target) == distances[1]


def test_multiply_accumulates_of_the_contestants(setting):
    macs = {name: macs_of_kind(name, setting) for name in KINDS}
    assert macs["reduction-off"] == macs["stock"]
    assert macs["truncation-bound"] <= macs["random"] == macs["fatr-no-omega"] <= macs["fatr"] < macs["stock"]
    assert macs["fatr"] < 1.01 * macs["truncation-bound"]
    assert macs["evit"] == pytest.approx(macs["fatr"], rel=0.05)


def test_score_implementation_reaches_the_models_that_score(setting, cpu):
    named = replace(setting, score_implementation="blocked")
    options = {each.name: each.options for each in build_contestants(KINDS, named, cpu)}
    scored = {name for name, each in options.items() if each == {"score_implementation": "blocked"}}
    assert scored == {"fatr", "fatr-no-omega"}


def test_drawn_parameters_depend_on_name_and_seed(contestants):
    model = contestants["fatr"].model
    names = ["vit.layers.3.attention.omega1", "vit.layers.3.attention.omega2"]
    before = {name: model.get_parameter(name).clone() for name in names}
    draw_trained_parameters(model, names[::-1], seed=0)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    draw_trained_parameters(model, names, seed=1)
    assert not any(torch.equal(model.get_parameter(name), value) for name, value in before.items())


@pytest.mark.parametrize("names", [["fatr", "abacus"], ["fatr", "fatr"], []])
def test_names_are_checked(names):
    with pytest.raises(ValueError, match=r"abacus|at least one|'fatr' is there twice"):
        check_known(names)


def test_the_callers_random_numbers_stay_as_they_are(setting, cpu):
    before = torch.get_rng_state()
    build_contestants(["stock", "fatr"], setting, cpu)
    assert torch.equal(torch.get_rng_state(), before)
