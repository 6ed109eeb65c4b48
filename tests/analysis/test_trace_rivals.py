"""The traces of rivals, beside what each rival is defined to do."""

import math
from fractions import Fraction

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.analysis.trace import trace
from fatr_hf.baselines.matched import matched_rivals
from fatr_hf.baselines.tome import match_tokens, merge_tokens

PATCHES = range(64)  # 8 x 8, behind one prefix token


@pytest.fixture
def make_traces(make_model, pixel_values):
    """The model of a rival and its traces."""

    def make(name, **fields):
        model = make_model(name, **fields)
        return model, list(trace(model, pixel_values))

    return make


def assert_made_of(state, image, members):
    """That an image's sequence is made of patches: for each token, prefix included, a set of them or their weights."""
    weights = [dict.fromkeys(token, 1) if isinstance(token, set) else token for token in members]
    for patch in PATCHES:
        source, shares = state.source[image, patch].item(), [token.get(patch, 0) for token in weights]
        # Where windows overlap, one of those that cover the patch stands for it.
        assert shares[source] > 0 if any(shares) else source == -1
    assert state.own[image].tolist() == [{patch} in map(set, weights) for patch in PATCHES]


def every_reduction(traces):
    return [(each, *each.reduction) for each in traces if each.reduction is not None]


def start():
    return [set(), *({patch} for patch in PATCHES)]


def test_tokens_and_maps_are_the_models(rival, pixel_values):
    outputs = rival(pixel_values, output_hidden_states=True, output_attentions=True)
    traces = list(trace(rival, pixel_values))
    states = [traces[0].entering, *(each.leaving for each in traces)]
    for state, expected in zip(states, outputs.hidden_states, strict=True):
        assert_rounded_alike(state.tokens, expected)
        assert (state.grid, state.num_prefix, state.num_dc) == ((8, 8), 1, 0)
    for number, (each, attention) in enumerate(zip(traces, outputs.attentions, strict=True)):
        assert each.layer == number
        assert each.entering is states[number]
        assert_rounded_alike(each.attention, attention)
        assert_rounded_alike(each.scores, attention.mean(dim=(1, 2)))
        assert (each.reduction is not None) == (each.leaving.tokens.shape[1] < each.entering.tokens.shape[1])
    logits = rival.model.classifier(rival.model.vit.layernorm(traces[-1].leaving.tokens)[:, 0])
    assert_rounded_alike(logits, outputs.logits)


def test_reductions_stand_between_attention_and_mlp(rival, pixel_values):
    for each, before, after in every_reduction(trace(rival, pixel_values)):
        layer = rival.model.vit.layers[each.layer]
        assert_rounded_alike(layer.mlp_block(after), each.leaving.tokens)
        # Patches that are tokens of their own go through a reduction unchanged.
        for image in range(3):
            own = each.leaving.own[image]
            assert torch.equal(
                after[image, each.leaving.source[image, own]], before[image, each.entering.source[image, own]]
            )


def test_truncation_keeps_the_first_patches(make_traces):
    _, traces = make_traces("truncation", tokens_out=[65, 40, 40, 7])
    for each, kept in zip(traces, [64, 39, 39, 6], strict=True):
        for image in range(3):
            assert_made_of(each.leaving, image, start()[: 1 + kept])


@pytest.mark.parametrize("name", ["evit", "evit-dropping"], ids=["fusing", "dropping"])
def test_evit_keeps_what_cls_attends_to(make_traces, name):
    _, traces = make_traces(name)
    members = [start() for _ in range(3)]
    kept = {0: 45, 2: 28 if name == "evit" else 27}  # of 64; of 46 with the fused token, or of 45
    for each in traces:
        for image in range(3):
            if each.layer in kept:
                attention = each.attention[image, :, 0].mean(dim=0)
                ranked = sorted(range(1, len(members[image])), key=lambda place: -float(attention[place]))
                stay, others = sorted(ranked[: kept[each.layer]]), ranked[kept[each.layer] :]
                fused = [set().union(*(members[image][place] for place in others))] if name == "evit" else []
                members[image] = [set(), *(members[image][place] for place in stay), *fused]
            assert_made_of(each.leaving, image, members[image])
    assert len(members[0]) == traces[-1].leaving.tokens.shape[1]


def test_tome_merges_what_matches(make_traces):
    model, traces = make_traces("tome")
    members, sizes = [start() for _ in range(3)], torch.ones(3, 64, dtype=torch.int64)
    for each in traces:
        layer, merges = model.model.vit.layers[each.layer], [9, 0, 20, 5][each.layer]
        if merges:
            keys = layer.attention.k_proj(layer.layernorm_before(each.entering.tokens))
            merged, unmerged, targets = match_tokens(keys.unflatten(2, (2, 16)).mean(dim=2)[:, 1:], merges)
            new, sizes = merge_tokens(each.reduction[0], sizes, merged, unmerged, targets)
            assert_rounded_alike(each.reduction[1], new)
        for image in range(3):
            if merges:
                old = members[image][1:]
                set_b = [set(made_of) for made_of in old[::2]]
                for place, target in zip(merged[image].tolist(), targets[image].tolist(), strict=True):
                    set_b[target] |= old[place]
                members[image] = [set(), *(old[place] for place in unmerged[image].tolist()), *set_b]
                assert sizes[image].tolist() == [len(made_of) for made_of in members[image][1:]]
            assert_made_of(each.leaving, image, members[image])


def pooled_members(members, grid, new_grid):
    """The windows of adaptive average pooling, which overlap where one grid does not divide the other."""
    new = [{}]
    for row in range(new_grid[0]):
        for column in range(new_grid[1]):
            rows, columns = (
                range(math.floor(place * side / new_side), math.ceil((place + 1) * side / new_side))
                for place, side, new_side in zip((row, column), grid, new_grid, strict=True)
            )
            window = [members[1 + r * grid[1] + c] for r in rows for c in columns]
            new.append({patch: sum(token.get(patch, 0) for token in window) for token in window for patch in token})
            new[-1] = {patch: weight / len(window) for patch, weight in new[-1].items()}
    return new


@pytest.mark.parametrize("grids", [[(4, 4), (2, 1)], [(7, 6), (5, 5)], [(8, 5), (3, 5)], [(8, 8), (3, 3)]], ids=str)
def test_pooling_covers_windows(make_traces, grids):
    _, traces = make_traces("pooling", grids=grids)
    members = [dict.fromkeys(token, Fraction(1)) for token in start()]
    grid, new_grids = (8, 8), {0: grids[0], 2: grids[1]}
    for each in traces:
        if each.layer in new_grids:
            members = pooled_members(members, grid, new_grids[each.layer])
            grid = new_grids[each.layer]
        for image in range(3):
            assert_made_of(each.leaving, image, members)


def test_random_selection_keeps_the_same_places_of_every_image(make_sharp_fatr, pixel_values):
    model = make_sharp_fatr()
    traces = list(trace(matched_rivals(model, ["random"])["random"], pixel_values))
    for each, plan in zip(traces, model.config.plan(), strict=True):
        assert (each.leaving.own == each.leaving.own[:1]).all()
        assert each.leaving.own[0].sum() == plan.patches_out
        assert each.leaving.num_dc == plan.dc_out
        assert (each.leaving.own <= each.entering.own).all()


def test_patches_with_a_tiny_share_of_a_fused_token_are_in_it_in_half_precision(make_model, pixel_values):
    model = make_model("evit", num_hidden_layers=1, reduction_layers=[0], keep_ratio=0.3)
    with torch.no_grad():
        model.model.vit.layers[0].attention.k_proj.weight.mul_(4)
    [layer] = trace(model.half(), pixel_values)
    assert (layer.attention[:, :, 0].mean(dim=1) == 0).any()
    assert (layer.leaving.source > 0).all()


def test_dropped_patches_take_the_mean_of_the_others(make_traces):
    for name in ("evit-dropping", "truncation"):
        _, [*_, last] = make_traces(name)
        state = last.leaving
        for image in range(3):
            dropped = state.source[image] < 0
            mean = state.on_grid[image, ~dropped].mean(dim=0)
            assert_rounded_alike(state.on_grid[image, dropped], mean.expand(int(dropped.sum()), -1))
            assert torch.equal(state.on_grid[image, ~dropped], state.tokens[image, state.source[image, ~dropped]])
