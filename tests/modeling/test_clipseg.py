"""CLIPSeg: a decoder adds several hidden states of the tower, so that all of these come back on the full grid."""

import pytest
import torch
from family_cases import TEXT, TOWER, built, images
from rounding import assert_rounded_alike
from transformers import (
    AutoModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegModel,
    CLIPSegVisionConfig,
    CLIPSegVisionModel,
)
from without_package import outputs_without_package

import fatr_hf
from fatr_hf.baselines.matched import matched_rivals

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2], "keep_ratio": 0.7, "fold": "similar"}
folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])


def whole():
    sizes = {"projection_dim": 16, "reduce_dim": 8, "decoder_intermediate_size": 16}
    text = {**TEXT, "max_position_embeddings": 16}
    return CLIPSegConfig(vision_config=TOWER, text_config=text, extract_layers=[0, 1, 3], **sizes)


BUILDERS = {
    "tower": lambda: CLIPSegVisionModel(CLIPSegVisionConfig(**TOWER)),
    "whole": lambda: CLIPSegModel(whole()),
    "segmenter": lambda: CLIPSegForImageSegmentation(whole()),
}
models = pytest.mark.parametrize("name", BUILDERS)


def given(name="segmenter", side=32):
    pixel_values = {"pixel_values": images(2, side, side)}
    words = torch.arange(2 * 7).reshape(2, 7) % 80 + 3
    return pixel_values if name == "tower" else {**pixel_values, "input_ids": words}


def read(outputs):
    names = ("logits", "pooled_output", "logits_per_image", "image_embeds", "pooler_output", "last_hidden_state")
    return {name: outputs[name] for name in names if name in outputs}


def tower_of(model):
    return getattr(model, "tower", model)


@models
@torch.no_grad()
def test_unreduced_it_is_stock_from_memory_and_files(name, tmp_path):
    stock = built(BUILDERS[name])
    expected = read(stock(**given(name)))
    model = fatr_hf.convert(stock, **REDUCTION)
    assert isinstance(model, type(stock))
    found = [model]
    for names in ("old", "new"):
        stock.save_pretrained(tmp_path / names, save_original_format=names == "old")
        found.append(fatr_hf.convert(tmp_path / names, **REDUCTION).double())
    for each in found:
        assert type(each) is type(model)
        with tower_of(each).reduction(False):
            assert_rounded_alike(read(each(**given(name))), expected)
            assert_rounded_alike(read(each(**given(name, 48))), read(stock(**given(name, 48))))
        reduced = read(each(**given(name)))
        assert {key: value.shape for key, value in reduced.items()} == {
            key: value.shape for key, value in expected.items()
        }
        assert tower_of(each).config.plan()[-1].tokens_out < 65
        assert all(not torch.allclose(value, expected[key], atol=1e-6) for key, value in reduced.items())


@torch.no_grad()
def test_an_image_may_stand_for_the_text():
    stock = built(BUILDERS["segmenter"])
    model = fatr_hf.convert(stock, **REDUCTION)
    both = {"pixel_values": images(2), "conditional_pixel_values": images(4)[2:]}
    with model.tower.reduction(False):
        assert_rounded_alike(model(**both).logits, stock(**both).logits)
    condition = model.clip.get_image_features(both["conditional_pixel_values"]).pooler_output
    expected = model(pixel_values=both["pixel_values"], conditional_embeddings=condition)
    assert_rounded_alike(model(**both).logits, expected.logits)


@folds
@torch.no_grad()
def test_the_decoder_reads_every_patch_in_every_state(reduction):
    stock = built(BUILDERS["segmenter"])
    model, states = fatr_hf.convert(stock, **reduction), []
    for layer in model.tower.layers:
        layer.register_forward_hook(lambda module, given, output: states.append(output[0]))
    outputs = model.tower(images(2), output_hidden_states=True, output_token_sources=True)
    read_states = [outputs.hidden_states[place + 1] for place in (0, 1, 3)]
    assert [state.shape for state in read_states] == [(2, 65, 32)] * 3
    assert_rounded_alike(read_states[0], stock.clip.vision_model(images(2), output_hidden_states=True).hidden_states[1])
    # Patches that have a token of their own are it, and the others are theirs on average.
    for place, sources in ((1, outputs.token_sources[0]), (3, outputs.token_sources[1])):
        dense = outputs.hidden_states[place + 1]
        assert_rounded_alike(dense[:, :1], states[place][:, :1])
        for image in range(2):
            for token in sources[image].unique().tolist():
                members = dense[image, 1:][sources[image] == token]
                assert_rounded_alike(members.mean(dim=0), states[place][image, token])
    condition = model.clip.get_text_features(given()["input_ids"]).pooler_output
    assert_rounded_alike(model(**given()).logits, stock.decoder(read_states, condition).logits)


@folds
@torch.no_grad()
def test_a_fused_segmenter_computes_the_same(reduction):
    model = fatr_hf.convert(built(BUILDERS["segmenter"]), **reduction)
    assert_rounded_alike(model.fuse()(**given()).logits, model(**given()).logits)


@models
@torch.no_grad()
def test_a_saved_model_comes_back_and_a_renamed_weight_is_refused(name, tmp_path):
    model = fatr_hf.convert(built(BUILDERS[name]), **REDUCTION)
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").double().eval()
    assert_rounded_alike(read(again(**given(name))), read(model(**given(name))))
    weights = model.state_dict()
    key = next(key for key in weights if key.endswith("layers.1.mlp.fc1.weight") and "text_model" not in key)
    weights[key.replace("weight", "wait")] = weights.pop(key)
    model.save_pretrained(tmp_path / "renamed", state_dict=weights)
    with pytest.raises(ValueError, match="lacks 1 of the model's weights"):
        type(model).from_pretrained(tmp_path / "renamed")


@torch.no_grad()
def test_positions_stretch_while_loading(tmp_path):
    stock = built(BUILDERS["segmenter"])
    stock.save_pretrained(tmp_path)
    model = fatr_hf.convert(tmp_path, image_size=48, **REDUCTION).double()
    assert model.tower.config.patch_grid() == (12, 12)
    with model.tower.reduction(False):
        assert_rounded_alike(model(**given(side=48)).logits, stock(**given(side=48)).logits)


def test_a_segmenter_learns_its_decoder_and_the_whole_model_its_tower():
    segmenter, model = (fatr_hf.convert(built(BUILDERS[name]), **REDUCTION) for name in ("segmenter", "whole"))
    labels = torch.rand(2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    segmenter(**given(), labels=labels).loss.backward()
    assert all(each.grad is None for each in segmenter.clip.parameters())  # frozen, as in stock
    assert all(each.grad is not None for each in segmenter.decoder.parameters())
    model(**given("whole"), return_loss=True).loss.backward()
    assert all(each.grad is not None for each in model.tower.parameters())


@torch.no_grad()
def test_rivals_run_on_the_tower():
    model = fatr_hf.convert(built(BUILDERS["tower"]), **REDUCTION)
    for rival in matched_rivals(model).values():
        assert rival(images(2)).last_hidden_state.shape == (2, 65, 32)


def test_a_tower_that_hands_fewer_tokens_on_is_refused():
    with pytest.raises(ValueError, match="dense_outputs=False must be True: 'fatr_clipseg' reads the whole grid"):
        fatr_hf.convert(BUILDERS["segmenter"](), dense_outputs=False)


@torch.no_grad()
def test_a_folder_works_without_the_package(tmp_path):
    model = fatr_hf.convert(built(BUILDERS["segmenter"]), **REDUCTION)
    found = outputs_without_package(model, "AutoModelForImageSegmentation", given(), tmp_path)
    assert_rounded_alike(found["logits"], model(**given()).logits)
    assert type(AutoModel.from_config(model.config)) is fatr_hf.FATRCLIPSegModel
