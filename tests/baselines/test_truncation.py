import pytest
from baseline_reference import reference_logits, truncate
from rounding import assert_rounded_alike

from fatr_hf import FATRViTConfig
from fatr_hf.baselines import Truncation


def test_logits_are_the_references(make_rival, pixel_values):
    tokens_out = [65, 40, 40, 2]
    model = make_rival("truncation", tokens_out=tokens_out)
    expected = reference_logits(model, pixel_values, truncate(tokens_out))
    assert_rounded_alike(model.double()(pixel_values).logits, expected)


def test_cutting_nothing_is_stock(make_rival, sharp_stock, pixel_values):
    model = make_rival("truncation", tokens_out=[65] * 4)
    model.model.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(model.double()(pixel_values).logits, sharp_stock.double()(pixel_values).logits)


def test_mirrors_a_schedule(vit):
    schedule = [layer.tokens_out for layer in FATRViTConfig().plan()]
    method = Truncation(schedule)
    assert [step.tokens_out for step in method.plan(vit())] == schedule
    assert [step.tokens_out for step in method.plan(vit(), 112)] == [min(tokens, 50) for tokens in schedule]


@pytest.mark.parametrize(
    ("tokens_out", "message"),
    [
        ([197] * 3, r"tokens_out=\[197, 197, 197\] has 3 entries: give one for each of the 12 layers"),
        ([100] * 6 + [120] * 6, "must not grow from layer to layer"),
        ([197] * 11 + [0], "must be integers of at least 1"),
        ([197] * 11 + [1], "must be above the 1 tokens before the patches"),
        ([0.5] * 12, "tokens_out"),
    ],
    ids=["length", "increasing", "none", "prefix-alone", "fractions"],
)
def test_bad_fields_are_refused(vit, tokens_out, message):
    with pytest.raises(ValueError, match=message):
        Truncation(tokens_out).plan(vit())
