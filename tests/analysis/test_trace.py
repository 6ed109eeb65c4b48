import math

import pytest
import torch
from rounding import assert_rounded_alike
from transformers import (
    BertConfig,
    BertModel,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTMAEConfig,
    ViTMAEModel,
)

from fatr_hf.analysis.trace import TokenState, trace
from fatr_hf.modeling.reduction_config import SELECTIONS

PREFIXES = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2-registers": 5, "clip": 1, "siglip": 0}


def observed(model, pixel_values):
    """What the model itself tells of its inside."""
    return model(pixel_values, output_hidden_states=True, output_attentions=True)


def assert_states_and_maps_are_the_models(traces, outputs):
    states = [traces[0].entering, *(each.leaving for each in traces)]
    assert len(states) == len(outputs.hidden_states)
    for state, expected in zip(states, outputs.hidden_states, strict=True):
        assert_rounded_alike(state.tokens, expected)
    for number, (each, attention) in enumerate(zip(traces, outputs.attentions, strict=True)):
        assert each.layer == number
        assert each.entering is states[number]
        assert_rounded_alike(each.attention, attention)
        assert_rounded_alike(each.scores, attention.mean(dim=(1, 2)))


# Models of transformers


@pytest.mark.parametrize("name", PREFIXES)
def test_unreduced_models(make_model, pixel_values, name):
    model = make_model(name)
    traces, prefix = list(trace(model, pixel_values)), PREFIXES[name]
    assert len(traces) == 4
    assert_states_and_maps_are_the_models(traces, observed(model, pixel_values))
    for each in traces:
        assert each.reduction is None
        for state in (each.entering, each.leaving):
            assert (state.grid, state.num_prefix, state.num_dc) == ((8, 8), prefix, 0)
            assert state.source.tolist() == [list(range(prefix, prefix + 64))] * 3
            assert state.own.all()
            assert torch.equal(state.on_grid, state.tokens[:, prefix:])
            assert torch.equal(state.patch_tokens, state.tokens[:, prefix:])
        assert torch.equal(each.patch_scores, each.scores[:, prefix:])


def test_without_eager_attention_there_are_no_scores(family, pixel_values):
    family.set_attn_implementation("sdpa")
    for each in trace(family, pixel_values):
        assert each.attention is None
        with pytest.raises(ValueError, match=f"no attention map of layer {each.layer}: load the model with .*'eager'"):
            _ = each.patch_scores


def test_images_that_are_not_square(make_model, make_sharp_fatr):
    pixel_values = torch.randn(2, 3, 24, 40)
    fatr = make_sharp_fatr(image_size=(24, 40))
    for model in (make_model("vit", image_size=(24, 40)), fatr, make_model("evit", image_size=(24, 40))):
        *_, last = trace(model, pixel_values)
        assert last.leaving.grid == (6, 10)
        assert last.leaving.source.shape == (2, 60)


# FATR

SETTINGS = {
    **{selection: {"selection": selection} for selection in SELECTIONS},
    "without-dc-tokens": {"dc_windows": 0},
    "many-windows": {"dc_windows": [4, 2, 2], "keep_ratio": 0.5},
    "half-the-windows": {"reduction_layers": [0, 3], "dc_windows": [4, 2], "keep_ratio": [0.3, 0.4]},
    "ratio-one-between": {"keep_ratio": [0.7, 1.0, 0.4]},
    "token-multiple": {"token_multiple": 8},
    "sizes-count": {"size_exponent": 0.5},
    "few-parameters": {"reweight_attention": False, "dc_position_embeddings": False},
    "no-reduction": {"reduction_layers": [], "dc_windows": []},
}
settings = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
# tests/modeling/reference.py computes energies by hand.
by_hand = pytest.mark.parametrize(
    "fields",
    [pytest.param(each, id=name) for name, each in SETTINGS.items() if name != "high_frequency_energy"],
)


@settings
@pytest.mark.parametrize("image_size", [(32, 32), (24, 40)], ids=["square", "wide"])
def test_fatr_is_what_the_model_does(make_sharp_fatr, fields, image_size):
    model = make_sharp_fatr(image_size=image_size, **fields)
    pixel_values = torch.randn(3, 3, *image_size)
    outputs = model(pixel_values, output_hidden_states=True, output_attentions=True, output_token_sources=True)
    traces = list(trace(model, pixel_values))
    assert_states_and_maps_are_the_models(traces, outputs)
    logits = model.classifier(model.vit.layernorm(traces[-1].leaving.tokens)[:, 0])
    assert_rounded_alike(logits, outputs.logits)
    plans = model.config.plan()
    reducing = [each for each, plan in zip(traces, plans, strict=True) if plan.reduces]
    assert [each for each in traces if each.reduction is not None] == reducing
    assert len(outputs.token_sources) == len(reducing)
    for each, source in zip(reducing, outputs.token_sources, strict=True):
        assert torch.equal(each.leaving.source, source)
    for each, plan in zip(traces, plans, strict=True):
        assert (each.entering.num_dc, each.leaving.num_dc) == (plan.dc_in, plan.dc_out)
        assert each.leaving.num_prefix == 1
        assert each.leaving.patch_tokens.shape[1] == plan.patches_out
        assert each.leaving.own.sum(dim=1).tolist() == [plan.patches_out] * 3


def window_of(patch, grid, count):
    row, column = divmod(patch, grid[1])
    return row * count // grid[0] * count + column * count // grid[1]


def expected_scores(selection, each, before):
    """Of the whole sequence (batch, tokens), as the method and its ablations define them."""
    if selection == "cls_attention":
        return each.attention[:, :, 0].mean(dim=1)
    if selection == "dc_similarity":
        return -torch.cosine_similarity(before, before.mean(dim=1, keepdim=True), dim=2)
    sign = -1 if selection == "low_frequency" else 1
    return sign * each.attention.mean(dim=(1, 2))


def reduced_by_hand(before, scores, kept, counts, grid, windows, embeddings):
    """One image's sequence after a reduction, and the counts of its DC tokens.

    Args:
        before: (tokens, hidden), one prefix token first.
        scores: (tokens,).
        kept: the patches that are tokens of their own, in the order of the sequence.
        counts: of the old DC tokens, which stand last.
        windows: old and new number along a side, and how many patches to keep.
    """
    old, new, keep = windows
    places = sorted(range(len(kept)), key=lambda place: -float(scores[1 + place]))
    stay, fold = sorted(places[:keep]), sorted(places[keep:])
    parts = [(window_of(kept[place], grid, new), 1, before[1 + place]) for place in fold] if new else []
    for place, count in enumerate(counts):
        parts.append((window_of(place, (old, old), new), count, before[1 + len(kept) + place]))
    sequence, new_counts = [before[0], *(before[1 + place] for place in stay)], []
    for window in range(new**2):
        inside = [part for part in parts if part[0] == window and part[1]]
        new_counts.append(sum(count for _, count, _ in inside))
        inside = inside or parts
        total = sum(count for _, count, _ in inside)
        mean = sum(count * token for _, count, token in inside) / total
        sequence.append(mean if embeddings is None else mean + embeddings[window])
    return torch.stack(sequence), [kept[place] for place in stay], new_counts


@by_hand
@torch.no_grad()
def test_fatr_reductions_by_hand(make_sharp_fatr, pixel_values, fields):
    model = make_sharp_fatr(**fields)
    selection = model.config.selection
    kept = [list(range(64)) for _ in pixel_values]
    counts = [[] for _ in pixel_values]
    for each, plan in zip(trace(model, pixel_values), model.config.plan(), strict=True):
        if plan.reduces:
            before, after = each.reduction
            embeddings = model.vit.layers[each.layer].reduction.dc_position_embeddings
            windows = (math.isqrt(plan.dc_in), math.isqrt(plan.dc_out), plan.patches_out)
            for image in range(3):
                if selection == "random":  # any order is one: that of the patches left
                    scores = torch.tensor([0, *each.leaving.own[image, kept[image]]], dtype=torch.float)
                else:
                    scores = expected_scores(selection, each, before)[image]
                expected, kept[image], counts[image] = reduced_by_hand(
                    before[image], scores, kept[image], counts[image], (8, 8), windows, embeddings
                )
                assert_rounded_alike(after[image], expected)
        for image in range(3):
            state = each.leaving
            assert state.own[image].nonzero().flatten().tolist() == kept[image]
            for patch, place in enumerate(state.source[image].tolist()):
                own = 1 + kept[image].index(patch) if patch in kept[image] else None
                dc = 1 + len(kept[image]) + window_of(patch, (8, 8), math.isqrt(plan.dc_out)) if state.num_dc else -1
                assert place == (dc if own is None else own)


def test_fatr_without_eager_attention_has_the_scores_of_layers_that_reduce(make_sharp_fatr, pixel_values):
    model = make_sharp_fatr()
    expected = list(trace(model, pixel_values))
    model.set_attn_implementation("sdpa")
    for each, eager in zip(trace(model, pixel_values), expected, strict=True):
        assert each.attention is None
        assert (each.scores is not None) == (each.reduction is not None)
        if each.scores is not None:
            assert_rounded_alike(each.patch_scores, eager.patch_scores, torch.float32, equal_nan=True)
        assert_rounded_alike(each.leaving.tokens, eager.leaving.tokens, torch.float32)


def test_scores_are_those_of_patches_that_are_tokens(make_sharp_fatr, pixel_values):
    for each in trace(make_sharp_fatr(), pixel_values):
        scores = each.patch_scores
        assert torch.equal(scores.isnan(), ~each.entering.own)
        for image in range(3):
            count = int(each.entering.own[image].sum())
            assert torch.equal(scores[image, each.entering.own[image]], each.scores[image, 1 : 1 + count])


def test_with_the_reduction_off_fatr_is_stock(make_sharp_fatr, stock, pixel_values):
    model = make_sharp_fatr()
    stock.double().load_state_dict(
        {name: weight for name, weight in model.state_dict().items() if name in stock.state_dict()}
    )
    stock.set_attn_implementation("eager")
    with model.reduction(False):
        traces = list(trace(model, pixel_values))
    for each, expected in zip(traces, trace(stock, pixel_values), strict=True):
        assert each.reduction is None
        assert_rounded_alike(each.leaving.tokens, expected.leaving.tokens, torch.float32)
        assert torch.equal(each.leaving.source, expected.leaving.source)
        assert_rounded_alike(each.attention, expected.attention, torch.float32)


# Everything


@pytest.fixture(params=["vit", "fatr", "tome"])
def model(request, make_model, make_sharp_fatr):
    return make_sharp_fatr() if request.param == "fatr" else make_model(request.param)


def test_traces_carry_no_gradient_and_leave_it_on(model, pixel_values):
    for each in trace(model, pixel_values.requires_grad_()):
        assert torch.is_grad_enabled()
        tensors = [*each.entering, *each.leaving, each.attention, each.scores, *(each.reduction or ())]
        assert not any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors)


def test_pixels_come_in_any_dtype(model, pixel_values):
    *_, last = trace(model.bfloat16(), pixel_values.double())
    assert last.leaving.tokens.dtype == torch.bfloat16
    assert last.scores.dtype == torch.float32


def test_the_mean_stands_in_for_dropped_patches_whatever_the_sum():
    tokens = torch.full((1, 41, 2), 3e3, dtype=torch.float16)
    tokens[0, 0] = -1
    source = torch.cat([torch.arange(1, 41), torch.tensor([-1, -1])])[None]
    state = TokenState(tokens, (6, 7), 1, 0, source, source >= 0)
    assert torch.equal(state.on_grid, torch.full((1, 42, 2), 3e3, dtype=torch.float16))
    nothing_left = state._replace(source=torch.full((1, 42), -1))
    assert nothing_left.on_grid.isnan().all()


# Refusals


def test_training_and_fused_models_are_refused(make_model, make_sharp_fatr, pixel_values):
    for each in (make_sharp_fatr(), make_model("vit"), make_model("tome")):
        with pytest.raises(ValueError, match=r"training mode cannot be analysed: call model\.eval\(\) first"):
            trace(each.train(), pixel_values)
    for fused in (make_sharp_fatr().fuse(), make_model("tome").fuse()):
        with pytest.raises(ValueError, match="fused model cannot be analysed: use the model that it was made from"):
            trace(fused, pixel_values)


MAE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 4}
SWIN = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
OTHERS = {
    "swin": (
        SwinModel,
        SwinConfig(**SWIN),
        "hidden states of SwinModel have the shapes .* one token for each of the 8",
    ),
    "resnet": (ResNetModel, ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]), "'resnet' has no patch_size"),
    "masking": (
        ViTMAEModel,
        ViTMAEConfig(**MAE),
        "ViTMAEModel shuffles its patches: load the checkpoint as a ViTModel",
    ),
    "shuffling": (ViTMAEModel, ViTMAEConfig(**MAE, mask_ratio=0.0), "ViTMAEModel shuffles its patches"),
    "text": (BertModel, BertConfig(vocab_size=10, hidden_size=12, num_hidden_layers=1), "'bert' has no patch_size"),
}


@pytest.mark.parametrize(("model_class", "config", "message"), OTHERS.values(), ids=OTHERS)
def test_models_without_a_grid_of_tokens_are_refused(model_class, config, message, pixel_values):
    with pytest.raises(ValueError, match=message):
        list(trace(model_class(config).eval(), pixel_values))


def test_images_that_do_not_divide_are_refused(make_model):
    with pytest.raises(ValueError, match="30 x 32 pixels do not divide into patches of 4 x 4"):
        list(trace(make_model("vit"), torch.randn(1, 3, 30, 32)))


def test_other_image_sizes_are_the_models_to_refuse(model):
    with pytest.raises(ValueError, match="doesn't match model"):
        list(trace(model, torch.randn(1, 3, 40, 40)))
