import math

import pytest
import torch
from baseline_reference import fuse_by_criteria, reference_logits
from rounding import assert_rounded_alike

from fatr_hf.baselines import MCTF
from fatr_hf.baselines.mctf import log_attraction, match_both_ways
from fatr_hf.modeling.frequency_attention import Evidence
from fatr_hf.modeling.token_reduction import dense_layout, token_sources


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("temperatures", [(1, 20, 40), (1, 2, 4), (0.5, 0, 3)], ids=str)
@pytest.mark.parametrize("merges", [[9, 0, 20, 5], [32, 16, 8, 4], [1, 1, 0, 0]], ids=str)
def test_logits_are_the_references(make_rival, pixel_values, attention, temperatures, merges):
    model = make_rival("mctf", merges_per_layer=merges, temperatures=temperatures)
    model.set_attn_implementation(attention)
    reduce = fuse_by_criteria(merges, 32, [each or math.inf for each in temperatures])
    expected = reference_logits(model, pixel_values, reduce, sizes_count=True)
    # Stock eager attention takes its softmax in float32.
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]
    assert_rounded_alike(model.double()(pixel_values).logits, expected, dtype)


def test_attraction_by_hand():
    tokens = torch.tensor([[[2.0, 0], [0, 3], [-1, 0], [1, 0]]])
    informativeness, sizes = torch.tensor([[0.1, 0.2, 0.4, 0.3]]), torch.tensor([[1, 2, 3, 4]])
    attraction = log_attraction(tokens, informativeness, sizes, (1, 0.5, 0.25)).exp()
    expected = [
        [0.5 / (0.2 * 0.1) ** 0.5 / 2**0.25, 0.5 / (0.2 * 0.4) ** 0.5 / 6**0.25],
        [1.0 / (0.3 * 0.1) ** 0.5 / 4**0.25, 0.0],
    ]
    assert_rounded_alike(attraction, torch.tensor([expected]))


def test_matching_by_hand():
    attraction = torch.tensor([[[1.0, 8, 2], [3, 9, 0], [5, 0, 7]]])  # of A, places 1, 3, 5, to B, places 0, 2, 4
    kept, folded, slots = match_both_ways(attraction, 3)
    # 3 joins 2. Then 2, with it, joins 1; and 4 joins 5. Of B only 0 is left, behind 1 and 5.
    assert kept.tolist() == [[1, 5, 0]]
    assert folded.tolist() == [[3, 2, 4]]
    assert slots.tolist() == [[0, 0, 1]]


def test_equal_edges_go_by_place():
    kept, folded, slots = match_both_ways(torch.ones(2, 4, 5), 4)
    assert kept.tolist() == [[5, 7, 4, 6, 8]] * 2
    assert folded.tolist() == [[1, 3, 0, 2]] * 2
    assert slots.tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize("patches", [2, 3, 4, 5])
def test_the_smallest_grids_match(patches):
    for merges in range(1, patches // 2 + 1):
        attraction = torch.arange(patches // 2 * -(-patches // 2)).reshape(1, patches // 2, -(-patches // 2))
        kept, folded, slots = match_both_ways(attraction.float(), merges)
        assert sorted(kept[0].tolist() + folded[0].tolist()) == list(range(patches))
        assert len(folded[0]) == merges
        assert max(slots[0].tolist()) < len(kept[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_tokens_are_means_by_attention_and_size(vit, dtype):
    config = vit(image_size=32, patch_size=8, num_hidden_layers=1)
    [step] = MCTF([6]).plan(config)
    layout = dense_layout(2, (4, 4), 1, torch.device("cpu"))
    tokens, scores = torch.randn(2, 17, 8).to(dtype), torch.rand(2, 17)
    scores[0, 3] = 0.0  # as attention that has underflowed
    reduced, new_layout = step.rule(tokens, Evidence(scores), layout, step)
    assert reduced.shape == (2, 11, 8)
    assert reduced.dtype == dtype
    for image, (source, sizes) in enumerate(zip(token_sources(new_layout), new_layout.sizes, strict=True)):
        assert torch.bincount(source, minlength=11)[1:].tolist() == sizes.tolist()
        for place in range(1, 11):
            members = 1 + (source == place).nonzero().flatten()
            weights = scores[image, members, None].clamp(min=1e-30).double()
            mean = (weights * tokens[image, members].double()).sum(dim=0) / weights.sum()
            assert_rounded_alike(reduced[image, place], mean.to(dtype), dtype)
            if len(members) == 1:
                assert torch.equal(reduced[image, place], tokens[image, members[0]])


def test_the_same_input_gives_the_same_bits(make_rival, pixel_values):
    model = make_rival("mctf")
    assert torch.equal(model(pixel_values).logits, model(pixel_values).logits)


def test_token_counts(vit):
    assert [step.tokens_out for step in MCTF().plan(vit())] == [197, *(197 - 16 * layer for layer in range(1, 12))]
    # At most half of the patch tokens merge.
    assert [step.tokens_out for step in MCTF(1000).plan(vit(num_hidden_layers=3))] == [197, 99, 50]
    assert [step.tokens_out for step in MCTF((5, 0)).plan(vit(num_hidden_layers=2), 112)] == [45, 45]


def test_a_criterion_with_temperature_zero_does_not_count(vit):
    tokens, informativeness = torch.randn(1, 6, 4), torch.rand(1, 6)
    few, many = torch.ones(1, 6, dtype=torch.int64), torch.randint(1, 9, (1, 6))
    [step] = MCTF([1], temperatures=(1, 20, 0)).plan(vit(num_hidden_layers=1))
    exponents = step.rule.keywords["exponents"]
    assert exponents == (1, 1 / 20, 0)
    assert torch.equal(
        log_attraction(tokens, informativeness, few, exponents),
        log_attraction(tokens, informativeness, many, exponents),
    )


def test_multiply_accumulates_are_the_papers(count_macs):
    """MCTF on DeiT-S at r = 16: 2.60 G, where tokens go before the attention; here they go behind it."""
    fields = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_labels": 1000}
    assert count_macs(MCTF(), **fields) / 1e9 == pytest.approx(2.6, abs=0.12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merges_per_layer": -1}, "merges_per_layer=-1 must be integers of at least 0; -1 is not"),
        ({"merges_per_layer": [4, 4]}, r"merges_per_layer=\[4, 4\] has 2 entries, but there are 12"),
        ({"merges_per_layer": 0.3}, "merges_per_layer"),
        ({"temperatures": 20}, "temperatures=20 must be three finite numbers of at least 0"),
        ({"temperatures": [1, 20]}, r"temperatures=\(1, 20\) must be three"),
        ({"temperatures": [1, -1, 1]}, r"temperatures=\(1, -1, 1\) must be three"),
        ({"temperatures": [1, math.inf, 1]}, "temperatures"),
        ({"proportional_attention": "yes"}, "proportional_attention='yes' must be True or False"),
    ],
)
def test_bad_fields_are_refused(vit, fields, message):
    with pytest.raises(ValueError, match=message):
        MCTF(**fields).plan(vit())
