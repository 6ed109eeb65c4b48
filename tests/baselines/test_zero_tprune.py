import math

import pytest
import torch
from baseline_reference import page_ranks, prune_ranked, reference_logits
from rounding import assert_rounded_alike

from fatr_hf.baselines import ZeroTPrune
from fatr_hf.baselines.zero_tprune import attention_maps, drop_similar, map_among, token_importance

WIDE = (0.0, 1e9)
"""Variances that let every head count."""


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids="similar{}".format)
def test_logits_are_the_references(make_rival, pixel_values, attention, share):
    model = make_rival("zero_tprune", reduction_layers=[0, 2, 3], keep_ratio=[0.8, 0.7, 0.6], similar_share=share)
    model.set_attn_implementation(attention)
    # Of 64 patches 51, 35 and 21 are kept.
    steps = {0: (51, int(13 * share), 30), 2: (35, int(16 * share), 5), 3: (21, int(14 * share), 1)}
    expected = reference_logits(model, pixel_values, prune_ranked(steps))
    # Stock eager attention takes its softmax in float32.
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]
    assert_rounded_alike(model.double()(pixel_values).logits, expected, dtype)


def random_maps(batch, heads, tokens, sharpness=1.0):
    return (sharpness * torch.randn(batch, heads, tokens, tokens, dtype=torch.float64)).softmax(dim=3)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
def test_importance_is_the_references(prefix, sharpness):
    maps = random_maps(2, 3, 12, sharpness)
    for steps in (1, 4, 30):
        found = token_importance(maps, prefix, steps, (0.01, 0.7))
        for image, head_maps in enumerate(maps):
            expected = page_ranks(head_maps, prefix, list(range(12)), steps)
            assert_rounded_alike(found[image], torch.tensor(list(expected.values()), dtype=torch.float64))


def test_one_step_from_equal_weights_is_the_column_mean():
    """What FATR's score is (of one head)."""
    maps = random_maps(2, 1, 9)
    assert_rounded_alike(token_importance(maps, 0, 1, WIDE), 9 * maps.mean(dim=(1, 2)))


def test_cls_votes_count_more():
    """CLS attends to the last of four patches, all others to the first."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[..., 1:, 1] = 1.0
    maps[..., 0, 4] = 1.0
    assert_rounded_alike(token_importance(maps, 1, 1, WIDE), torch.tensor([[4.0, 0, 0, math.sqrt(5)]]))
    assert_rounded_alike(token_importance(maps, 0, 1, WIDE), torch.tensor([[0.0, 4, 0, 0, 1]]))


def test_heads_join_by_root_mean_square_and_are_filtered():
    narrow, uniform = torch.eye(8)[[0] * 8], torch.full((8, 8), 1 / 8)
    middle = torch.linspace(0.5, 1.5, 8).div(8).expand(8, 8)
    maps = torch.stack([narrow, uniform, middle])[None]
    assert_rounded_alike(token_importance(maps, 0, 1, (0.01, 0.7))[0], 8 * middle[0])
    joint = ((narrow[0].square() + uniform[0].square() + middle[0].square()) / 3).sqrt()
    assert_rounded_alike(token_importance(maps, 0, 1, WIDE)[0], 8 * joint)
    # None passes, so all count.
    assert_rounded_alike(
        token_importance(maps[:, :2], 0, 1, (0.01, 0.7))[0], 8 * maps[0, :2, 0].square().mean(0).sqrt()
    )


def test_steps_converge_to_the_stationary_distribution():
    maps = random_maps(1, 1, 10)
    ranks = token_importance(maps, 0, 60, WIDE)
    assert_rounded_alike((ranks[:, None] @ maps[:, 0]).squeeze(1), ranks)


def test_alike_tokens_go_by_hand():
    # Important: 4, 0 and 2; of the others 1 is most like one of these, then 5.
    importance = torch.tensor([[5.0, 1, 4, 3, 6, 2]])
    keys = torch.tensor([[[1.0, 0], [2, 0.1], [0, 1], [-1, -1], [1, 1], [0.2, 1]]])
    assert drop_similar(importance, keys, 0).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert drop_similar(importance, keys, 1).tolist() == [[0, 2, 3, 4, 5]]
    assert drop_similar(importance, keys, 2).tolist() == [[0, 2, 3, 4]]


def test_ties_go_by_place():
    assert drop_similar(torch.ones(2, 7), torch.ones(2, 7, 4), 2).tolist() == [[0, 1, 2, 3, 6]] * 2


def test_the_map_among_what_is_left():
    maps, left = random_maps(2, 2, 6), torch.tensor([[0, 2, 3], [1, 2, 4]])
    for image, places in enumerate([[0, 1, 3, 4], [0, 2, 3, 5]]):
        among = maps[image][:, places][:, :, places]
        assert_rounded_alike(map_among(maps, 1, left)[image], among / among.sum(dim=2, keepdim=True))


def test_maps_are_exact_and_without_gradient():
    query, key = (torch.randn(2, 3, 7, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    maps = attention_maps(query, key, 0.3, None)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    expected = (0.3 * query.double() @ key.double().transpose(2, 3)).softmax(dim=3)
    assert_rounded_alike(maps, expected, torch.float32)
    assert attention_maps(query, key, 0.3, expected) is expected


def test_the_same_input_gives_the_same_bits(make_rival, pixel_values):
    model = make_rival("zero_tprune")
    assert torch.equal(model(pixel_values).logits, model(pixel_values).logits)


def test_layers_and_counts(vit):
    plan = ZeroTPrune(keep_ratio=0.8).plan(vit())
    assert [step.layer for step in plan if step.reduces] == [1, 3, 6, 9, 11]
    assert [step.tokens_out for step in plan] == [197, 157, 157, 125, 125, 125, 100, 100, 100, 80, 80, 64]
    reducing = [step.rule.keywords for step in plan if step.reduces]
    assert [keywords["steps"] for keywords in reducing] == [30, 5, 5, 1, 1]
    assert [keywords["similar"] for keywords in reducing] == [20, 16, 12, 10, 8]
    assert [step.layer for step in ZeroTPrune().plan(vit(num_hidden_layers=4)) if step.reduces] == [0, 1, 2, 3]
    # No more can go for their likeness than the less important half has.
    [step] = ZeroTPrune([0], 0.1, similar_share=1.0).plan(vit(num_hidden_layers=1))
    assert step.rule.keywords["similar"] == 98


def test_products_with_the_map_are_counted(vit, count_macs):
    """Each step is one product of every head's map with a vector."""
    fields = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}

    def cost(steps):
        return count_macs(ZeroTPrune([0], 0.7, steps=(steps, 1, 1)), **fields)

    kept = 196 - (196 - 137) // 2
    assert cost(30) - cost(1) == 29 * 2 * (1 + kept) ** 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_ratio": 0.0}, r"keep_ratio=0.0 must lie in \(0, 1\]"),
        ({"reduction_layers": [12]}, r"reduction_layers=\[12\] must lie below 12"),
        ({"reduction_layers": [3, 1]}, "must be strictly increasing"),
        ({"similar_share": 1.5}, r"similar_share=1.5 must lie in \[0, 1\]"),
        ({"steps": 30}, "steps=30 must be three integers of at least 1"),
        ({"steps": [30, 5, 0]}, r"steps=\(30, 5, 0\) must be three integers"),
        ({"variances": [0.7, 0.01]}, r"variances=\(0.7, 0.01\) must be two increasing numbers of at least 0"),
        ({"variances": [0.7]}, "variances"),
        ({"variances": [-0.1, math.inf]}, "variances"),
    ],
)
def test_bad_fields_are_refused(vit, fields, message):
    with pytest.raises(ValueError, match=message):
        ZeroTPrune(**fields).plan(vit())
