"""Checkpoints of all kinds, loaded as they are or reduced."""

import json

import pytest
import torch
from rounding import assert_rounded_alike
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)
from transformers.utils import logging

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from fatr_hf.hub.load import check_has_processor, load_model, load_reduced, quiet_loading
from fatr_hf.modeling.reduction_config import UNREDUCED

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS = {
    "ViT-classifier": lambda size: ViTForImageClassification(ViTConfig(**size)),
    "ViT": lambda size: ViTModel(ViTConfig(**size)),
    "ViT-without-pooler": lambda size: ViTModel(ViTConfig(**size), add_pooling_layer=False),
    "DINOv2": lambda size: Dinov2Model(Dinov2Config(**size)),
    "CLIP-vision": lambda size: CLIPVisionModel(CLIPVisionConfig(**size)),
    "SigLIP-vision": lambda size: SiglipVisionModel(SiglipVisionConfig(**size)),
    "FATR-classifier": lambda size: FATRViTForImageClassification(FATRViTConfig(**size)),
    "FATR": lambda size: FATRViTModel(FATRViTConfig(**size)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_saved_model_loads_as_it_was(make, tiny, pixel_values, tmp_path):
    saved = make(tiny).eval()
    saved.save_pretrained(tmp_path)
    model, processor = load_model(str(tmp_path))
    assert type(model) is type(saved)
    assert not model.training
    assert processor is None
    assert_rounded_alike(model(pixel_values)[0], saved(pixel_values)[0])


def test_a_model_of_images_and_text_gives_the_encoder_of_images(tiny, pixel_values, tmp_path):
    clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=tiny)).eval()
    clip.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path))
    assert type(model) is CLIPVisionModel
    assert_rounded_alike(model(pixel_values)[0], clip.vision_model(pixel_values)[0])


def test_image_processor_comes_along(stock_folder):
    _, processor = load_model(str(stock_folder))
    assert isinstance(processor, ViTImageProcessor)
    assert processor.size["height"] == 32


@pytest.mark.parametrize("folder", ["stock_folder", "fatr_folder"])
def test_eager_attention_gives_maps(folder, pixel_values, request):
    model, _ = load_model(str(request.getfixturevalue(folder)), eager=True)
    assert model(pixel_values, output_attentions=True).attentions[0].shape == (3, 2, 65, 65)


def test_a_text_model_is_refused(tmp_path):
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model type 'bert', which is no vision model"):
        load_model(str(tmp_path))


def test_a_model_without_code_in_transformers_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(ValueError, match="'abacus', which this version of transformers does not know"):
        load_model(str(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused(tiny, tmp_path):
    ViTModel(ViTConfig(**tiny)).save_pretrained(tmp_path)
    ViTConfig(**tiny | {"num_hidden_layers": 5}, architectures=["ViTModel"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 16 of the model's weights, such as layers\.4"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", ["nobody/nothing", "no/such/folder", "./nowhere"])
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(
        FileNotFoundError, match=f"No checkpoint can be read from '{name}': give a folder .* or a Hub name"
    ):
        load_model(name)


def test_loading_is_quiet_and_leaves_transformers_as_it_was(stock_folder, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_loading():
        ViTModel.from_pretrained(stock_folder)
    assert capfd.readouterr().err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_pooler_that_was_not_saved_is_left_out(tiny, pixel_values, tmp_path):
    ViTModel(ViTConfig(**tiny), add_pooling_layer=False).save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path))
    assert model(pixel_values).pooler_output is None


def test_an_unreduced_checkpoint_gets_the_reduction_that_is_given(stock, stock_folder, pixel_values):
    model, processor = load_reduced(str(stock_folder), keep_ratio=0.5, dc_windows=4, eager=True)
    assert isinstance(processor, ViTImageProcessor)
    assert not model.training
    assert (model.config.keep_ratio, model.config.dc_windows) == (0.5, 4)
    assert model.config._attn_implementation == "eager"
    with model.reduction(False):
        assert_rounded_alike(model.double()(pixel_values).logits, stock.double()(pixel_values).logits, torch.float32)


@torch.no_grad()
def test_a_model_for_any_size_is_loaded_for_its_images(tmp_path):
    """Costs and matched rivals are those of the images that come, not of the size that the model was trained with."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 4, "image_size": 64}
    stock = Dinov2Model(Dinov2Config(**sizes)).double().eval()
    stock.save_pretrained(tmp_path)
    crop = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 40}, crop_size=crop, do_center_crop=True).save_pretrained(tmp_path)
    model, _ = load_reduced(str(tmp_path))
    assert model.config.image_size == 32
    assert model.config.plan()[0].patches_in == 64
    pixel_values = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with model.reduction(False):
        found = model.double()(pixel_values).last_hidden_state
    assert_rounded_alike(found, stock(pixel_values).last_hidden_state, torch.float32)


def test_a_reduced_checkpoint_keeps_its_own_but_for_what_is_given(fatr_folder):
    own = FATRViTConfig.from_pretrained(fatr_folder)
    model, _ = load_reduced(str(fatr_folder))
    assert (model.config.keep_ratio, model.config.dc_windows) == (own.keep_ratio, own.dc_windows)
    model, _ = load_reduced(str(fatr_folder), keep_ratio=0.5)
    assert (model.config.keep_ratio, model.config.dc_windows) == (0.5, own.dc_windows)
    with pytest.raises(ValueError, match="is reduced already: a preset is for a checkpoint that is not"):
        load_reduced(str(fatr_folder), preset="local")
    with pytest.raises(ValueError, match="needs parameters that layer 0 of this model does not have"):
        load_reduced(str(fatr_folder), reduction_layers=[0, 1, 2])


def test_a_preset_reduces_one_of_ours_that_does_not(make_fatr, pixel_values, tmp_path):
    unreduced = make_fatr(**UNREDUCED)
    unreduced.save_pretrained(tmp_path)
    model, _ = load_reduced(str(tmp_path), preset="faithful")
    assert model.config.selection == "high_frequency_energy"
    assert any(layer.reduces for layer in model.config.plan())
    with torch.no_grad(), model.reduction(False):
        assert torch.equal(model(pixel_values).logits, unreduced(pixel_values).logits)


def test_a_missing_image_processor_is_refused(fatr_folder):
    _, processor = load_model(str(fatr_folder))
    with pytest.raises(ValueError, match="has no image processor"):
        check_has_processor(processor)
