import pytest
from baseline_reference import reference_logits, truncate
from huggingface_hub.errors import StrictDataclassError
from rounding import assert_rounded_alike

from fatr_hf import FATRViTConfig
from fatr_hf.baselines import TruncationConfig


def test_logits_are_the_references(make_rival, pixel_values):
    tokens_out = [65, 40, 40, 1]
    model = make_rival("truncation", tokens_out=tokens_out)
    expected = reference_logits(model, pixel_values, truncate(tokens_out))
    assert_rounded_alike(model.double()(pixel_values).logits, expected)


def test_cutting_nothing_is_stock(make_rival, sharp_stock, pixel_values):
    model = make_rival("truncation", tokens_out=None)
    model.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(model.double()(pixel_values).logits, sharp_stock.double()(pixel_values).logits)


def test_mirrors_a_schedule():
    schedule = [layer.tokens_out for layer in FATRViTConfig().plan()]
    config = TruncationConfig(tokens_out=schedule)
    assert config.tokens_per_layer() == schedule
    assert config.tokens_per_layer(112) == [min(tokens, 50) for tokens in schedule]


@pytest.mark.parametrize(
    ("tokens_out", "message"),
    [
        ([197] * 3, r"tokens_out=\[197, 197, 197\] has 3 entries: give one for each of the 12 layers"),
        ([198] * 12, "at most the 197 tokens at hand there; 198 is not"),
        ([100] * 6 + [120] * 6, "at most the 100 tokens at hand there; 120 is not"),
        ([197] * 11 + [0], "at least 1 .* 0 is not"),
        ([0.5] * 12, "tokens_out"),
    ],
    ids=["length", "too-many", "increasing", "none", "fractions"],
)
def test_bad_fields_are_refused(tokens_out, message):
    with pytest.raises(StrictDataclassError, match=message):
        TruncationConfig(tokens_out=tokens_out)
