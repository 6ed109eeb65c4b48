"""Costs by arithmetic against costs by counting, and the choice of a keep ratio within a budget."""

import pytest
import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.benchmark import count_macs
from fatr_hf.modeling import admissible_keep_ratios, schedule_macs
from fatr_hf.modeling.budget import with_keep_ratio

CONFIGS = {
    "default": {},
    "not-square": {"image_size": (32, 48), "patch_size": 8, "keep_ratio": 0.5},
    "many-windows": {"dc_windows": [4, 2, 1], "keep_ratio": [0.6, 0.7, 0.8]},
    "without-dc-tokens": {"dc_windows": 0},
    "sized": {"size_exponent": 0.5},
    "no-reweighting": {"reweight_attention": False, "qkv_bias": False},
    "ordinary-layer-between": {"keep_ratio": [0.5, 1.0, 0.5]},
    "unreduced": {"reduction_layers": [], "keep_ratio": 1.0, "dc_windows": []},
    "seven-classes": {"num_labels": 7, "num_channels": 1},
}


@pytest.fixture
def make_config(tiny):
    return lambda **fields: FATRViTConfig(**{**tiny, "num_labels": 5, **fields})


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS.keys())
def test_arithmetic_equals_counting(make_config, fields):
    config = make_config(**fields)
    with torch.device("meta"):
        model = FATRViTForImageClassification(config)
    assert schedule_macs(config) == count_macs(model)


def test_arithmetic_equals_counting_at_another_image_size(make_config):
    config = make_config()
    with torch.device("meta"):
        model = FATRViTForImageClassification(config)
    assert schedule_macs(config, (48, 40)) == count_macs(model, (48, 40))


def test_admissible_ratios_are_those_that_the_schedule_takes(make_config):
    config = make_config(dc_windows=[4, 2, 1])
    allowed = admissible_keep_ratios(config)
    for percent in range(1, 100):
        try:
            config.from_dict(config.to_dict(), keep_ratio=percent / 100)
        except Exception:  # noqa: BLE001 - whatever the configuration raises
            assert percent / 100 not in allowed
        else:
            assert percent / 100 in allowed
    assert 0.99 not in allowed
    assert 0.5 in allowed


def test_budget_of_macs_gives_the_highest_ratio_within(make_fatr):
    model = make_fatr()
    budget = 0.8 * schedule_macs(model.config)
    assert model.for_budget(macs=budget) is model
    chosen = model.config.keep_ratio
    assert schedule_macs(model.config) <= budget < schedule_macs(with_keep_ratio(model.config, chosen + 0.01))
    highest = admissible_keep_ratios(model.config)[-1]
    assert model.for_budget(macs=1e12).config.keep_ratio == highest
    logits = model(torch.zeros(1, 3, 32, 32)).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"macs": 0}, "macs=0 must be above 0"),
        ({"macs": float("nan")}, "macs=nan must be above 0"),
        ({"macs": "many"}, "macs='many' must be above 0"),
        ({"macs": 10}, r"macs=10 cannot be met: keep_ratio=0\.\d+, the lowest"),
    ],
    ids=["zero", "nan", "word", "too-small"],
)
def test_bad_budgets_are_refused_in_words(make_fatr, budget, words):
    model = make_fatr()
    with pytest.raises(ValueError, match=words):
        model.for_budget(**budget)
    assert model.config.keep_ratio == 0.7


def test_models_without_a_choice_are_refused(make_fatr):
    with pytest.raises(ValueError, match="a fused model is fixed"):
        make_fatr().fuse().for_budget(macs=1e6)
    with pytest.raises(ValueError, match=r"reduction_layers=\[\] and dc_windows=\[\] allow no keep ratio below 1"):
        make_fatr(reduction_layers=[], keep_ratio=1.0, dc_windows=[]).for_budget(macs=1e6)
