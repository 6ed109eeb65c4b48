"""The keep ratio within a budget of milliseconds, by a clock that counts tokens."""

import pytest
import torch

from fatr_hf.benchmark import fit_latency
from fatr_hf.benchmark.latency import forward_milliseconds


class Clock:
    """A device on which a first reduction to a share of r takes 10 r milliseconds."""

    def __init__(self):
        self.measured = []

    def __call__(self, model, pixel_values, plan):
        share = next(step.patches_out / step.patches_in for step in plan if step.reduces)
        self.measured.append((share, tuple(pixel_values.shape)))
        return 10 * share


def test_latency_is_measured_a_few_times(make_fatr):
    model, clock = make_fatr(), Clock()
    assert fit_latency(model, 6.05, batch_size=4, measure=clock) is model
    assert model.config.keep_ratio == 0.6
    assert 1 < len(clock.measured) <= 8
    assert {shape for _, shape in clock.measured} == {(4, 3, 32, 32)}


def test_latency_at_another_image_size(make_fatr):
    clock = Clock()
    fit_latency(make_fatr(), 5.05, image_size=(40, 48), measure=clock)
    assert {shape for _, shape in clock.measured} == {(1, 3, 40, 48)}


def test_measuring_leaves_the_model_as_it_was(make_fatr):
    model = make_fatr().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert forward_milliseconds(model, torch.zeros(1, 3, 32, 32), model.config.plan()) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def fails(model, pixel_values, plan):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit_latency(model, 5.0, measure=fails)
    assert model.config.keep_ratio == 0.7


@pytest.mark.parametrize(
    ("latency", "options", "words"),
    [
        (float("nan"), {}, "latency_ms=nan must be above 0"),
        (5.0, {"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        (1e-3, {}, r"latency_ms=0.001 cannot be met: keep_ratio=0\.\d+, the lowest"),
    ],
    ids=["nan", "batch", "too-small"],
)
def test_bad_budgets_are_refused_in_words(make_fatr, latency, options, words):
    model = make_fatr()
    with pytest.raises(ValueError, match=words):
        fit_latency(model, latency, measure=Clock(), **options)
    assert model.config.keep_ratio == 0.7


def test_a_fused_model_is_refused(make_fatr):
    with pytest.raises(ValueError, match="a fused model is fixed"):
        fit_latency(make_fatr().fuse(), 5.0, measure=Clock())
