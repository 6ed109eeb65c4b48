import math

import pytest
import torch
from rounding import assert_rounded_alike
from transformers import ResNetConfig, ResNetModel

from fatr_hf.analysis.images import Batch
from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.analysis.noise import added_to_input, noise_sensitivity, place_noise, transformer_layers
from fatr_hf.analysis.outputs import model_output
from fatr_hf.analysis.trace import trace

NAMES = ["vit", "siglip", "fatr", "evit", "tome", "truncation"]


@pytest.fixture(params=NAMES)
def model(request, make_model, make_sharp_fatr):
    return make_sharp_fatr() if request.param == "fatr" else make_model(request.param)


def inputs_of_layers(model, pixel_values, run):
    """What enters every layer each time that ``run`` runs the model."""
    inputs = [[] for _ in transformer_layers(model)]
    handles = [
        # After the hooks that a run adds, and with what they made of the input.
        layer.register_forward_hook(lambda module, arguments, output, each=each: each.append(arguments[0]))
        for layer, each in zip(transformer_layers(model), inputs, strict=True)
    ]
    run()
    for handle in handles:
        handle.remove()
    return inputs


def changed_patches(state, before, after):
    """(batch, patches) bool: whose token was changed; fails where a prefix or DC token was."""
    changed = (before != after).any(dim=2)
    patches = slice(state.num_prefix, changed.shape[1] - state.num_dc)
    assert changed[:, patches].sum() == changed.sum()
    return changed.gather(1, state.source.clamp(min=0)) & state.own


@pytest.mark.parametrize("layer", [0, 2, 3], ids="layer{}".format)
def test_only_the_highest_and_the_lowest_tokens_are_changed(model, pixel_values, layer):
    clean = list(trace(model, pixel_values))[layer]
    inputs = inputs_of_layers(
        model, pixel_values, lambda: noise_sensitivity(model, pixel_values, [layer], scales=[0.5, 2.0], share=0.3)
    )
    state, scores = clean.entering, clean.patch_scores
    noisy = inputs[layer][-4:]  # high at both scales, then low
    spread = (state.tokens - state.tokens.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    for place, after in enumerate(noisy):
        changed = changed_patches(state, state.tokens, after)
        for image in range(3):
            own = state.own[image].nonzero().flatten().tolist()
            ranked = sorted(own, key=lambda patch: float(scores[image, patch]), reverse=place < 2)
            chosen = ranked[: max(1, math.floor(0.3 * len(own) + 1e-9))]
            assert changed[image].nonzero().flatten().tolist() == sorted(chosen)
            noise = (after - state.tokens)[image, state.source[image, chosen]]
            scale = float(spread[image]) * (0.5, 2.0)[place % 2]
            assert float(noise.square().mean().sqrt()) == pytest.approx(scale, rel=0.5)
    for weak, strong in (noisy[:2], noisy[2:]):
        assert_rounded_alike(4 * (weak - state.tokens), strong - state.tokens)
    for earlier in range(layer):
        assert all(torch.equal(each, inputs[earlier][0]) for each in inputs[earlier])


def test_high_and_low_get_the_same_noise(make_model, pixel_values):
    [layer, *_] = trace(make_model("vit"), pixel_values)
    noise = torch.randn(3, 64, 32)
    for share in (0.3, 0.9):
        high, low = (place_noise(layer, noise, kind, 1.0, share) for kind in (True, False))
        both = (high != 0) & (low != 0)
        assert both.any() == (share > 0.5)
        assert torch.equal(high[both], low[both])
        centred = layer.entering.tokens - layer.entering.tokens.mean(dim=1, keepdim=True)
        whole = noise * centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
        for each in (high, low):
            assert_rounded_alike(each[:, 1:][each[:, 1:] != 0], whole[each[:, 1:] != 0])


def test_noise_of_scale_zero_changes_nothing_and_more_changes_more(model, pixel_values):
    rows = noise_sensitivity(model, Batch(pixel_values, torch.tensor([0, 1, 2])), [1], scales=[0, 0.1, 30])
    found = {(row.measure, row.point): row.mean for row in rows}
    assert len(rows) == len(found)
    assert {row.layer for row in rows} == {1}
    names = {row.measure.rsplit("_", 1)[0] for row in rows}
    assert names == ({"cosine", "divergence", "agreement", "accuracy"} if is_classifier(model) else {"cosine"})
    for kind in ("high", "low"):
        assert found[f"cosine_{kind}", 0.0] == pytest.approx(1, rel=1e-10)
        assert found[f"cosine_{kind}", 30.0] < found[f"cosine_{kind}", 0.1] < 1 - 1e-9
        if "divergence" in names:
            assert found[f"divergence_{kind}", 0.0] == pytest.approx(0, abs=1e-10)
            assert found[f"agreement_{kind}", 0.0] == 1


def test_answers_are_those_of_the_disturbed_model(make_model, pixel_values):
    model = make_model("vit")
    rows = noise_sensitivity(model, pixel_values, [2], scales=[0.7], seed=5)
    layer = list(trace(model, pixel_values))[2]
    noise = torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(5))
    clean = model_output(model, pixel_values)
    for kind in ("high", "low"):
        with added_to_input(model.vit.layers[2], place_noise(layer, noise, kind == "high", 0.7, 0.25)):
            noisy = model_output(model, pixel_values)
        [row] = [row for row in rows if row.measure == f"cosine_{kind}"]
        cosine = torch.cosine_similarity(noisy, clean, dim=1)
        assert row.mean == pytest.approx(float(cosine.mean()), rel=1e-10)
        assert row.standard_error == pytest.approx(float(cosine.std()) / math.sqrt(3), rel=1e-8)
    assert torch.equal(model_output(model, pixel_values), clean)


def test_a_seed_gives_the_same_rows_again(make_sharp_fatr, pixel_values):
    model = make_sharp_fatr()
    rows = noise_sensitivity(model, pixel_values, seed=1, batch_size=2)
    assert [row.layer for row in rows] == sorted(row.layer for row in rows)
    assert {row.layer for row in rows} == {0, 1, 2, 3}
    torch.randn(5)
    assert noise_sensitivity(model, pixel_values, seed=1, batch_size=2) == rows
    assert noise_sensitivity(model, pixel_values, seed=2, batch_size=2) != rows


def test_pooled_patches_have_no_token_to_disturb(make_model, pixel_values):
    model = make_model("pooling", reduction_layers=[1], keep_ratio=0.5)
    assert {row.layer for row in noise_sensitivity(model, pixel_values)} == {0, 1}


def test_noise_is_finite_in_half_precision(make_model, pixel_values):
    model = make_model("vit")
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.mul_(3000)
    [layer, *_] = trace(model.half(), pixel_values)
    disturbance = place_noise(layer, torch.randn(3, 64, 32), True, 1.0, 0.25)
    assert disturbance.dtype == torch.float16
    assert disturbance.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [0, 4]}, r"layers=\[0, 4\] must be integers from 0 to 3; 4 is not"),
        ({"layers": [-1]}, r"layers=\[-1\] must be integers from 0 to 3; -1 is not"),
        ({"share": 0.0}, "share=0.0 must lie between 0 and 1"),
        ({"share": 1.0}, "share=1.0 must lie between 0 and 1"),
        ({"scales": [1, -1]}, r"scales=\[1, -1\] must be finite numbers of at least 0"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
    ],
    ids=["layer", "negative-layer", "no-share", "whole-share", "scale", "batch-size"],
)
def test_values_out_of_range_are_refused(make_model, pixel_values, arguments, message):
    with pytest.raises(ValueError, match=message):
        noise_sensitivity(make_model("vit"), pixel_values, **arguments)


def test_models_without_maps_or_layers_are_refused(make_model, pixel_values):
    model = make_model("vit")
    model.set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=r"no attention map of layer 0: load the model with attn_implementation='eager'"
    ):
        noise_sensitivity(model, pixel_values)
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="A model of type 'resnet' has no patch_size"):
        noise_sensitivity(resnet, pixel_values)
