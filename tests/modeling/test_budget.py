"""Costs by arithmetic against costs by counting, and the choice of a keep ratio within a budget."""

import pytest
import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.benchmark import count_macs
from fatr_hf.modeling import admissible_keep_ratios, budget_table, schedule_macs
from fatr_hf.modeling.budget import choose_keep_ratio, forward_milliseconds, with_keep_ratio

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


class Clock:
    """A device on which a first reduction to a share of r takes 10 r milliseconds."""

    def __init__(self):
        self.measured = []

    def __call__(self, model, pixel_values, plan):
        share = next(step.patches_out / step.patches_in for step in plan if step.reduces)
        self.measured.append((share, tuple(pixel_values.shape)))
        return 10 * share


def test_latency_is_measured_a_few_times_and_remembered(make_fatr, tmp_path):
    model, clock = make_fatr(), Clock()
    assert choose_keep_ratio(model, None, 6.05, 4, None, clock) == 0.6
    assert model.config.keep_ratio == 0.7  # choosing changes nothing
    assert 1 < len(clock.measured) <= 8
    assert {shape for _, shape in clock.measured} == {(4, 3, 32, 32)}
    before = len(clock.measured)
    model.save_pretrained(tmp_path)
    loaded = FATRViTForImageClassification.from_pretrained(tmp_path)
    assert choose_keep_ratio(loaded, None, 6.05, 4, None, clock) == 0.6
    assert len(clock.measured) == before
    assert choose_keep_ratio(loaded, None, 6.05, 8, None, clock) == 0.6  # another batch is another measurement
    assert len(clock.measured) > before


def test_both_budgets_hold(make_fatr):
    model = make_fatr()
    macs = schedule_macs(with_keep_ratio(model.config, 0.4))
    assert choose_keep_ratio(model, macs, 6.05, 1, None, Clock()) == 0.4
    assert choose_keep_ratio(model, 1e12, 6.05, 1, None, Clock()) == 0.6


def test_measuring_leaves_the_model_as_it_was(make_fatr):
    model = make_fatr().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert forward_milliseconds(model, torch.zeros(1, 3, 32, 32)) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def fails(model, pixel_values, plan):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        choose_keep_ratio(model, None, 5.0, 1, None, fails)
    assert model.config.keep_ratio == 0.7


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "needs a budget: macs, latency_ms or both"),
        ({"macs": 0}, "macs=0 must be above 0"),
        ({"latency_ms": float("nan")}, "latency_ms=nan must be above 0"),
        ({"macs": 1e6, "batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"macs": 10}, r"macs=10 cannot be met: keep_ratio=0\.\d+, the lowest"),
    ],
    ids=["none", "zero", "nan", "batch", "too-small"],
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


def test_budget_table_tells_cost_and_accuracy(make_config):
    config = make_config()
    table = budget_table(config, {0.7: 0.915, 0.5: 0.9})
    rows = [line for line in table.splitlines() if line.startswith("| 0.")]
    assert rows[0].startswith("| 0.5 | ")
    assert rows[0].endswith("| 90.00% |")
    assert f"{schedule_macs(config) / 1e6:.1f} M" in rows[1]
