import pytest
import torch
from baseline_reference import reference_logits, reorganize
from rounding import assert_rounded_alike

from fatr_hf.baselines import EViT
from fatr_hf.baselines.evit import keep_and_fuse, keep_attentive
from fatr_hf.modeling.frequency_attention import Evidence
from fatr_hf.modeling.token_plan import LayerPlan
from fatr_hf.modeling.token_reduction import dense_layout, token_sizes, token_sources


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("fuse", [True, False], ids=["fuse", "drop"])
def test_logits_are_the_references(make_rival, pixel_values, attention, fuse):
    model = make_rival("evit", reduction_layers=[0, 2, 3], keep_ratio=[0.7, 0.5, 0.25], fuse_inattentive=fuse)
    model.set_attn_implementation(attention)
    expected = reference_logits(model, pixel_values, reorganize({0: (7, 10), 2: (1, 2), 3: (1, 4)}, fuse))
    # Stock eager attention takes its softmax in float32.
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]
    assert_rounded_alike(model.double()(pixel_values).logits, expected, dtype)


def reduce(rule, tokens, attention, tokens_out):
    """A rule on one prefix token and a row of patches."""
    patches = tokens.shape[1] - 1
    step = LayerPlan(0, 1, patches, tokens_out - 1, (), (), False)
    return rule(tokens, Evidence(attention), dense_layout(len(tokens), (1, patches), 1, tokens.device), step)


def test_reorganizing_by_hand():
    tokens = torch.tensor([[[1.0, 1.0], [2.0, 0.0], [0.0, 4.0], [3.0, 3.0], [8.0, 0.0]]])
    attention = torch.tensor([[0.5, 0.1, 0.25, 0.025, 0.125]])
    fused = [2 * 0.1 + 3 * 0.025, 3 * 0.025]
    expected = torch.tensor([[[1.0, 1.0], [0.0, 4.0], [8.0, 0.0], fused]])
    reduced, layout = reduce(keep_and_fuse, tokens, attention, 4)
    assert_rounded_alike(reduced, expected)
    assert token_sources(layout).tolist() == [[3, 1, 3, 2]]
    assert token_sizes(layout).tolist() == [[0, 1, 1, 2]]
    reduced, layout = reduce(keep_attentive, tokens, attention, 3)
    assert torch.equal(reduced, expected[:, :3])
    assert token_sources(layout).tolist() == [[-1, 1, -1, 2]]


def test_equal_attention_keeps_the_first():
    tokens = torch.arange(7.0)[None, :, None]
    kept, _ = reduce(keep_attentive, tokens, torch.full((1, 7), 1 / 7), 4)
    assert kept.flatten().tolist() == [0, 1, 2, 3]


def test_keeping_everything_is_stock(make_rival, sharp_stock, pixel_values):
    model = make_rival("evit", keep_ratio=1)
    model.model.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(model.double()(pixel_values).logits, sharp_stock.double()(pixel_values).logits)


def test_token_counts(vit):
    def counts(image_size=None, **fields):
        return [step.tokens_out for step in EViT(**fields).plan(vit(), image_size)]

    assert counts() == [197] * 3 + [140] * 3 + [100] * 3 + [72] * 3
    assert counts(fuse_inattentive=False)[3::3] == [139, 98, 69]
    assert counts((224, 112))[3] == 1 + 69 + 1
    # 98 * 0.5 is 49 patches exactly; 100 * 0.55 is 55 but for the rounding of floats.
    assert counts(160, keep_ratio=0.55)[3] == 1 + 55 + 1
    # One token alone is not fused.
    assert counts(keep_ratio=0.99) == [197] * 12


@pytest.mark.parametrize(("keep_ratio", "macs"), [(0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)])
def test_multiply_accumulates_are_the_papers(count_macs, keep_ratio, macs):
    """Table of EViT-DeiT-S, with fusion."""
    fields = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
    assert count_macs(EViT(keep_ratio=keep_ratio), **fields) / 1e9 == pytest.approx(macs, abs=0.06)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_ratio": 0.0}, r"keep_ratio=0\.0 must lie in \(0, 1\]"),
        ({"keep_ratio": [0.5, 1.5, 0.5]}, r"keep_ratio=\(0\.5, 1\.5, 0\.5\) must lie in \(0, 1\]; 1\.5 does not"),
        ({"keep_ratio": [0.5]}, r"keep_ratio=\[0\.5\] has 1 entries, but there are 3"),
        ({"reduction_layers": [3, 3]}, r"reduction_layers=\(3, 3\) must be strictly increasing integers of at least 0"),
        ({"reduction_layers": [12]}, r"reduction_layers=\[12\] must lie below 12"),
        ({"fuse_inattentive": "yes"}, "fuse_inattentive"),
    ],
)
def test_bad_fields_are_refused(vit, fields, message):
    with pytest.raises(ValueError, match=message):
        EViT(**fields).plan(vit())
