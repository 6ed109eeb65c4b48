import pytest
import torch
from baseline_reference import merge, reference_logits
from rounding import assert_rounded_alike

from fatr_hf.baselines import ToMe
from fatr_hf.baselines.tome import match_tokens, merge_tokens


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("proportional", [True, False], ids=["proportional", "plain"])
@pytest.mark.parametrize("merges", [[9, 0, 20, 5], [32, 16, 8, 4], [1, 1, 0, 0]], ids=str)
def test_logits_are_the_references(make_rival, pixel_values, attention, proportional, merges):
    model = make_rival("tome", merges_per_layer=merges, proportional_attention=proportional)
    model.set_attn_implementation(attention)
    expected = reference_logits(model, pixel_values, merge(merges), sizes_count=proportional)
    # Stock eager attention takes its softmax in float32.
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]
    assert_rounded_alike(model.double()(pixel_values).logits, expected, dtype)


def test_matching_and_merging_by_hand():
    # In the order of the sequence: tokens of B and A in turn.
    directions = [[1, 0], [1, 0.1], [0, 1], [0.2, 1], [-1, 0], [-1, -1]]
    merged, unmerged, targets = match_tokens(torch.tensor([directions]), 2)
    assert merged.tolist() == [[1, 3]]
    assert unmerged.tolist() == [[5]]
    assert targets.tolist() == [[0, 1]]
    tokens, sizes = torch.arange(1.0, 7.0)[None, :, None], torch.tensor([[3, 1, 1, 1, 5, 2]])
    new, new_sizes = merge_tokens(tokens, sizes, merged, unmerged, targets)
    assert_rounded_alike(new.flatten(), torch.tensor([6, (3 * 1 + 2) / 4, (3 + 4) / 2, 5]))
    assert new_sizes.tolist() == [[2, 4, 2, 5]]


def test_equal_edges_go_by_place():
    merged, unmerged, targets = match_tokens(torch.ones(1, 7, 4), 2)
    assert merged.tolist() == [[1, 3]]
    assert unmerged.tolist() == [[5]]
    assert targets.tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tokens_that_do_not_merge_stay_bit_for_bit(dtype):
    tokens, sizes = torch.randn(3, 20, 8).to(dtype), torch.randint(1, 9, (3, 20))
    merged, unmerged, targets = match_tokens(torch.randn(3, 20, 4), 4)
    new, new_sizes = merge_tokens(tokens, sizes, merged, unmerged, targets)
    assert new.dtype == dtype
    assert torch.equal(new_sizes.sum(dim=1), sizes.sum(dim=1))
    for image in range(3):
        assert torch.equal(new[image, :6], tokens[image, unmerged[image]])
        alone = [place for place in range(10) if place not in targets[image].tolist()]
        assert torch.equal(new[image, 6:][alone], tokens[image, ::2][alone])


def test_merging_duplicates_changes_nothing(make_rival, sharp_stock, pixel_values):
    """Pairs of equal patches merge at once; proportional attention then stands for both of each pair."""
    positions = sharp_stock.double().vit.embeddings.position_embeddings
    with torch.no_grad():
        positions[:, 1::2] = positions[:, 2::2]
    pairs = pixel_values.unflatten(3, (4, 2, 4))
    pixel_values = torch.stack([pairs[..., 0, :]] * 2, dim=4).flatten(3)
    expected = sharp_stock(pixel_values).logits
    for proportional in (True, False):
        model = make_rival("tome", merges_per_layer=[32, 0, 0, 0], proportional_attention=proportional)
        model.model.load_state_dict(sharp_stock.state_dict())
        assert [step.tokens_out for step in model.config.plan()] == [33] * 4
        difference = (model.double()(pixel_values).logits - expected).abs().max()
        assert (difference < 1e-10) == proportional


def test_no_merges_are_stock(make_rival, sharp_stock, pixel_values):
    model = make_rival("tome", merges_per_layer=0)
    model.model.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(model.double()(pixel_values).logits, sharp_stock.double()(pixel_values).logits)


def test_token_counts(vit):
    assert [step.tokens_out for step in ToMe().plan(vit())] == [197 - 13 * layer for layer in range(1, 13)]
    # At most half of the patch tokens merge.
    assert [step.tokens_out for step in ToMe(1000).plan(vit(num_hidden_layers=3))] == [99, 50, 26]
    assert [step.tokens_out for step in ToMe((5, 0)).plan(vit(num_hidden_layers=2), 112)] == [45, 45]


def test_nothing_is_scored(vit):
    assert {step.selection for step in ToMe().plan(vit())} == {None}


def test_multiply_accumulates_are_the_papers(count_macs):
    """ToMe on DeiT-S at r = 13: 2.7 G."""
    fields = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
    assert count_macs(ToMe(), **fields) / 1e9 == pytest.approx(2.7, abs=0.06)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merges_per_layer": -1}, "merges_per_layer=-1 must be integers of at least 0; -1 is not"),
        ({"merges_per_layer": [4, 4]}, r"merges_per_layer=\[4, 4\] has 2 entries, but there are 12"),
        ({"merges_per_layer": 0.3}, "merges_per_layer"),
        ({"proportional_attention": "yes"}, "proportional_attention"),
    ],
)
def test_bad_fields_are_refused(vit, fields, message):
    with pytest.raises(ValueError, match=message):
        ToMe(**fields).plan(vit())
