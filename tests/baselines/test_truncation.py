import pytest
import torch
from baseline_reference import reference_logits, truncate
from huggingface_hub.errors import StrictDataclassError

from fatr_hf import FATRViTConfig
from fatr_hf.baselines import TruncationConfig


def test_logits_are_the_references(make_rival, pixel_values):
    tokens_out = [65, 40, 40, 1]
    model = make_rival("truncation", tokens_out=tokens_out)
    expected = reference_logits(model, pixel_values, truncate(tokens_out))
    torch.testing.assert_close(model(pixel_values).logits.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.double()(pixel_values.double()).logits, expected, atol=1e-9, rtol=1e-9)


def test_cutting_nothing_is_stock(make_rival, sharp_stock, pixel_values):
    model = make_rival("truncation", tokens_out=None)
    model.load_state_dict(sharp_stock.state_dict())
    torch.testing.assert_close(model(pixel_values).logits, sharp_stock(pixel_values).logits, atol=1e-5, rtol=1e-5)


def test_mirrors_a_schedule():
    schedule = [layer.tokens_out for layer in FATRViTConfig().token_schedule()]
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
