"""OWL-ViT and OWLv2: every patch of the grid is a query for a box, so that the tower gives the whole grid back."""

import pytest
import torch
from family_cases import TEXT, TOWER, built, images
from rounding import assert_rounded_alike
from transformers import (
    AutoModelForZeroShotObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2Model,
    Owlv2VisionConfig,
    Owlv2VisionModel,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTModel,
    OwlViTVisionConfig,
    OwlViTVisionModel,
)
from without_package import outputs_without_package

import fatr_hf
from fatr_hf.baselines.matched import matched_rivals

REDUCTION = {"reduction_layers": [1, 2], "keep_ratio": [0.6, 0.5], "dc_windows": [4, 2]}
SIMILAR = {"reduction_layers": [1, 2], "keep_ratio": 0.7, "fold": "similar"}
folds = pytest.mark.parametrize("reduction", [REDUCTION, SIMILAR], ids=["windows", "similar"])


def whole(config_class):
    return config_class(vision_config=TOWER, text_config={**TEXT, "max_position_embeddings": 16}, projection_dim=32)


TOWERS = {
    "owlvit": lambda: OwlViTVisionModel(OwlViTVisionConfig(**TOWER)),
    "owlv2": lambda: Owlv2VisionModel(Owlv2VisionConfig(**TOWER)),
}
DETECTORS = {
    "owlvit-detector": lambda: OwlViTForObjectDetection(whole(OwlViTConfig)),
    "owlv2-detector": lambda: Owlv2ForObjectDetection(whole(Owlv2Config)),
}
MODELS = {
    "owlvit": lambda: OwlViTModel(whole(OwlViTConfig)),
    "owlv2": lambda: Owlv2Model(whole(Owlv2Config)),
    **DETECTORS,
}
detectors = pytest.mark.parametrize("name", DETECTORS)
models = pytest.mark.parametrize("name", MODELS)


def given():
    words = torch.arange(4 * 7).reshape(4, 7) % 80 + 3
    return {"pixel_values": images(2), "input_ids": words, "attention_mask": torch.ones_like(words)}


def read(outputs):
    names = ("logits", "pred_boxes", "objectness_logits", "class_embeds", "logits_per_image", "image_embeds")
    return {name: outputs[name] for name in names if name in outputs}


def tower_of(model):
    return getattr(model, "owlv2", getattr(model, "owlvit", model)).vision_model


@models
@torch.no_grad()
def test_unreduced_it_is_stock_from_memory_and_files(name, tmp_path):
    stock = built(MODELS[name])
    expected = read(stock(**given()))
    model = fatr_hf.convert(stock, **REDUCTION)
    assert isinstance(model, type(stock))
    found = [model]
    for names in ("old", "new"):
        stock.save_pretrained(tmp_path / names, save_original_format=names == "old")
        found.append(fatr_hf.convert(tmp_path / names, **REDUCTION).double())
    for each in found:
        assert type(each) is type(model)
        with tower_of(each).reduction(False):
            assert_rounded_alike(read(each(**given())), expected)
        reduced = read(each(**given()))
        assert {key: value.shape for key, value in reduced.items()} == {
            key: value.shape for key, value in expected.items()
        }
        assert tower_of(each).config.plan()[-1].tokens_out < 65
        assert not torch.allclose(reduced["image_embeds"], expected["image_embeds"], atol=1e-6)


@detectors
@torch.no_grad()
def test_images_guide_the_detector_as_in_stock(name):
    stock = built(MODELS[name])
    model = fatr_hf.convert(stock, **REDUCTION)
    both = {"pixel_values": images(2), "query_pixel_values": images(4)[2:]}
    with tower_of(model).reduction(False):
        found = model.image_guided_detection(**both)
    expected = stock.image_guided_detection(**both)
    assert_rounded_alike((found.logits, found.target_pred_boxes), (expected.logits, expected.target_pred_boxes))


@models
@torch.no_grad()
def test_a_saved_model_comes_back_and_a_renamed_weight_is_refused(name, tmp_path):
    model = fatr_hf.convert(built(MODELS[name]), **REDUCTION)
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").double().eval()
    assert_rounded_alike(read(again(**given())), read(model(**given())))
    weights = model.state_dict()
    key = next(key for key in weights if "vision_model.layers.1.mlp.fc1.weight" in key)
    weights[key.replace("weight", "wait")] = weights.pop(key)
    model.save_pretrained(tmp_path / "renamed", state_dict=weights)
    with pytest.raises(ValueError, match="lacks 1 of the model's weights"):
        type(model).from_pretrained(tmp_path / "renamed")


@folds
@torch.no_grad()
def test_patches_that_keep_a_token_have_it_and_the_others_theirs_on_average(reduction):
    tower = tower_of(fatr_hf.convert(built(MODELS["owlv2"]), **reduction))
    states = []
    tower.layers[-1].register_forward_hook(lambda module, given, output: states.append(output))
    outputs = tower(images(2), output_token_sources=True)
    ((sequence, _),), sources = states, outputs.token_sources[-1]
    dense = outputs.last_hidden_state
    assert dense.shape == (2, 65, 32)
    assert_rounded_alike(dense[:, :1], sequence[:, :1])
    for image in range(2):
        for place in sources[image].unique().tolist():
            members = dense[image, 1:][sources[image] == place]
            assert_rounded_alike(members.mean(dim=0), sequence[image, place])


@folds
@torch.no_grad()
def test_a_fused_tower_computes_the_same(reduction):
    model = fatr_hf.convert(built(MODELS["owlv2-detector"]), **reduction)
    expected = read(model(**given()))
    model.owlv2.vision_model = model.owlv2.vision_model.fuse()
    assert_rounded_alike(read(model(**given())), expected)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_tower_alone_converts_and_rivals_run_on_it(name, tmp_path):
    stock = built(TOWERS[name])
    model = fatr_hf.convert(stock, **REDUCTION)
    expected = stock(images(2))
    with model.reduction(False):
        found = model(images(2))
        assert_rounded_alike(found.last_hidden_state, expected.last_hidden_state)
        assert_rounded_alike(found.pooler_output, expected.pooler_output)
        assert_rounded_alike(
            model(images(2, 48, 40), interpolate_pos_encoding=True).last_hidden_state,
            stock(images(2, 48, 40), interpolate_pos_encoding=True).last_hidden_state,
        )
    stock.save_pretrained(tmp_path)
    loaded = fatr_hf.convert(tmp_path, **REDUCTION).double()
    assert_rounded_alike(loaded(images(2)).last_hidden_state, model(images(2)).last_hidden_state)
    for rival in matched_rivals(model).values():
        assert rival(images(2)).last_hidden_state.shape == (2, 65, 32)


@torch.no_grad()
def test_positions_stretch_while_loading(tmp_path):
    stock = built(MODELS["owlv2-detector"])
    stock.save_pretrained(tmp_path)
    model = fatr_hf.convert(tmp_path, image_size=48, **REDUCTION).double()
    arguments = {**given(), "pixel_values": images(2, 48, 48)}
    with tower_of(model).reduction(False):
        found = read(model(**arguments))
    assert_rounded_alike(found, read(stock(**arguments, interpolate_pos_encoding=True)))


def test_every_parameter_of_the_tower_gets_a_gradient():
    model = fatr_hf.convert(built(MODELS["owlv2-detector"]), **REDUCTION).train()
    outputs = model(**given())
    (outputs.logits.square().sum() + outputs.pred_boxes.square().sum()).backward()
    unused = [key for key, each in tower_of(model).named_parameters() if each.grad is None]
    assert unused == []


@torch.no_grad()
def test_a_folder_works_without_the_package(tmp_path):
    model = fatr_hf.convert(built(MODELS["owlv2-detector"]), **REDUCTION)
    found = outputs_without_package(model, "AutoModelForZeroShotObjectDetection", given(), tmp_path)
    assert_rounded_alike(found["pred_boxes"], model(**given()).pred_boxes)
    assert type(AutoModelForZeroShotObjectDetection.from_config(model.config)) is type(model)
