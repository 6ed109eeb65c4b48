"""Images with budgets of their own: each gets what the fixed schedule of its keep ratio gives."""

from itertools import pairwise

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.analysis.input_budget import choose_buckets, classify_by_mass
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.budget import with_keep_ratio

RATIOS = (0.3, 0.5, 0.7)
VARIANTS = {
    "default": {},
    "late-first-layer": {"reduction_layers": [2, 3], "dc_windows": [2, 1]},
    "first-layer": {"reduction_layers": [0, 2], "dc_windows": [2, 1]},
    "sized": {"size_exponent": 0.5},
}


@pytest.fixture
def images():
    """Some nearly plain, some noisy, so that their attention is spread unlike."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])[:, None, None, None]
    return scales * torch.randn(8, 3, 32, 32, generator=generator)


@pytest.fixture
def peaked(make_fatr):
    """Builds models in float64 whose attention is far from uniform."""

    def make(**fields):
        model = make_fatr(**fields).double()
        with torch.no_grad():
            for layer in model.vit.layers:
                layer.attention.q_proj.weight.normal_(std=0.6)
                layer.attention.k_proj.weight.normal_(std=0.6)
        return model

    return make


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_every_image_gets_its_fixed_schedule(peaked, images, fields, attention, fused):
    model = peaked(**fields)
    model.set_attn_implementation(attention)
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]  # of the softmax
    # Layers differ in how sharp their attention is: a mass that parts these images.
    runner = model.fuse() if fused else model
    runs = (classify_by_mass(runner, images, percent / 100, RATIOS) for percent in range(50, 100))
    output = next(run for run in runs if len(run.keep_ratios.unique()) > 1)
    for place, ratio in enumerate(output.keep_ratios.tolist()):
        model.set_reduction(keep_ratio=ratio)
        expected = model(images[place : place + 1]).logits[0]
        assert_rounded_alike(output.logits[place], expected, dtype)
        assert output.macs[place] == schedule_macs(with_keep_ratio(model.config, ratio))


def test_order_and_company_of_images_change_nothing(peaked, images):
    model, order = peaked(), torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    together, shuffled = (classify_by_mass(model, batch, 0.6, RATIOS) for batch in (images, images[order]))
    assert torch.equal(together.keep_ratios[order], shuffled.keep_ratios)
    assert_rounded_alike(together.logits[order], shuffled.logits)


def test_mass_moves_images_between_the_ends(peaked, images):
    model = peaked()
    ratios = [classify_by_mass(model, images, mass, RATIOS).keep_ratios for mass in (1e-6, 0.5, 0.7, 1.0)]
    assert set(ratios[0].tolist()) == {0.3}
    assert set(ratios[-1].tolist()) == {0.7}
    for less, more in pairwise(ratios):
        assert (less <= more).all()


def test_another_image_size(peaked):
    model, images = peaked(), torch.randn(3, 3, 40, 48)
    output = classify_by_mass(model, images, 0.6, (0.5,), interpolate_pos_encoding=True)
    model.set_reduction(keep_ratio=0.5)
    expected = model(images, interpolate_pos_encoding=True).logits
    assert_rounded_alike(output.logits, expected)
    assert output.macs.tolist() == [schedule_macs(model.config, (40, 48))] * 3


def test_buckets_by_hand():
    scores = torch.tensor([[4.0, 3, 2, 1], [1, 1, 1, 1], [0, 0, 9, 1]])
    # The highest 1, 2 or 3 of them hold .4 .7 .9, .25 .5 .75 and .9 1 1.
    assert choose_buckets(scores, [1, 2, 3], 0.7).tolist() == [1, 2, 0]
    assert choose_buckets(scores, [1, 2, 3], 0.95).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"selection_mass": 0.0}, r"selection_mass=0.0 must lie in \(0, 1\]"),
        ({"selection_mass": 1.5}, r"selection_mass=1.5 must lie in \(0, 1\]"),
        ({"keep_ratios": ()}, r"keep_ratios=\[\] must be one or more increasing numbers"),
        ({"keep_ratios": (0.7, 0.5)}, r"keep_ratios=\[0.7, 0.5\] must be one or more increasing numbers"),
        ({"keep_ratios": (0.5, 1.0)}, r"keep_ratios=\[0.5, 1.0\]: 1.0 gives no reduction"),
        ({"keep_ratios": (0.5, 0.99)}, r"0.99 gives no reduction"),
    ],
    ids=["zero-mass", "large-mass", "none", "descending", "one", "too-high"],
)
def test_bad_arguments_are_refused_in_words(make_fatr, images, arguments, words):
    with pytest.raises(ValueError, match=words):
        classify_by_mass(make_fatr(), images, **arguments)


def test_unfit_models_are_refused(make_fatr, images):
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        classify_by_mass(make_fatr().train(), images)
    with pytest.raises(ValueError, match="needs selection='high_frequency'"):
        classify_by_mass(make_fatr(selection="random"), images)
    model = make_fatr()
    with model.reduction(False), pytest.raises(ValueError, match="its reduction is off"):
        classify_by_mass(model, images)


def test_a_model_that_may_lack_parameters_is_refused(make_fatr, pixel_values):
    model = make_fatr(keep_ratio=[1.0, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"keep_ratio=\[1.0, 0.5, 0.5\] leaves some ordinary"):
        classify_by_mass(model, pixel_values, keep_ratios=[0.5])
