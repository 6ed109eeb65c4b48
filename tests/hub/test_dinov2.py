"""DINOv2 encoders become ViTs that compute the same, and FATR models from there."""

import json

import pytest
import torch
from rounding import assert_rounded_alike
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BitImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ViTImageProcessor,
    ViTModel,
)

from fatr_hf.hub.checkpoints import cropped_size
from fatr_hf.hub.convert import convert_checkpoint, write_unreduced
from fatr_hf.hub.dinov2 import vit_config, vit_from_dinov2, vit_name

SIZE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 40, "patch_size": 4}

OLDER_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


@pytest.fixture
def dinov2():
    """An encoder all of whose parameters are far from where they start."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SIZE)).eval()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name or "lambda" in name else 0.0))
    return model


def crop_to(folder, height, width):
    BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": height, "width": width}).save_pretrained(folder)


def rename_as_on_the_hub(folder):
    """Gives a saved model's parameters their older names."""
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for newer, older in OLDER_NAMES.items():
            name = name.replace(newer, older)
        renamed[name] = tensor
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("height", "width"), [(40, 40), (32, 32), (24, 48)], ids=["own-40x40", "32x32", "24x48"])
def test_the_vit_computes_the_same(dinov2, tmp_path, height, width):
    dinov2.save_pretrained(tmp_path)
    crop_to(tmp_path, height, width)
    vit = vit_from_dinov2(tmp_path)
    assert type(vit) is ViTModel
    images = torch.randn(2, 3, height, width)
    assert_rounded_alike(vit(images).last_hidden_state, dinov2(images).last_hidden_state)


def test_layer_scales_matter(dinov2, tmp_path):
    """With them left out the outputs would be others: the test above could fail."""
    dinov2.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 40, 40)
    expected = dinov2(images).last_hidden_state
    for layer in dinov2.encoder.layer:
        layer.layer_scale1.lambda1.data.fill_(1.0)
    assert (dinov2(images).last_hidden_state - expected).abs().max() > 0.1
    assert_rounded_alike(vit_from_dinov2(tmp_path)(images).last_hidden_state, expected)


def test_a_file_with_older_parameter_names(dinov2, tmp_path):
    """Those of the checkpoints on the Hub."""
    dinov2.save_pretrained(tmp_path)
    rename_as_on_the_hub(tmp_path)
    images = torch.randn(1, 3, 40, 40)
    assert_rounded_alike(vit_from_dinov2(tmp_path)(images).last_hidden_state, dinov2(images).last_hidden_state)


@pytest.mark.parametrize("names", [OLDER_NAMES.keys(), OLDER_NAMES.values()], ids=["newer", "older"])
def test_names_of_all_supported_versions_become_vits(names):
    given = [f"encoder.layer.2.{name}.bias" for name in (*names, "norm1", "norm2", "mlp.fc1")]
    parts = ("q_proj", "k_proj", "v_proj", "o_proj")
    own = (*(f"attention.{part}" for part in parts), "layernorm_before", "layernorm_after", "mlp.fc1")
    assert [vit_name(name) for name in given] == [f"layers.2.{name}.bias" for name in own]


def test_half_precision_is_folded_in_float32(dinov2, tmp_path):
    dinov2.bfloat16().save_pretrained(tmp_path)
    vit = vit_from_dinov2(tmp_path)
    images = torch.randn(1, 3, 40, 40)
    assert_rounded_alike(vit(images).last_hidden_state, dinov2.float()(images).last_hidden_state)


def test_unreduced_it_is_a_vit_that_converts_like_any_other(dinov2, tmp_path):
    dinov2.save_pretrained(tmp_path / "saved")
    crop_to(tmp_path / "saved", 32, 32)
    assert write_unreduced(tmp_path / "saved", tmp_path / "vit")
    assert json.loads((tmp_path / "vit" / "config.json").read_text())["model_type"] == "vit"
    convert_checkpoint(tmp_path / "vit", tmp_path / "fatr")
    model = AutoModel.from_pretrained(tmp_path / "fatr", trust_remote_code=True)
    images = torch.randn(2, 3, 32, 32)
    with model.reduction(False):
        assert_rounded_alike(model(images).last_hidden_state, dinov2(images).last_hidden_state)


def test_fields_that_are_left_out_are_dinov2s():
    """DINOv2's layer norms add 1e-6, ViT's 1e-12."""
    config = vit_config({"model_type": "dinov2", "hidden_size": 24, "num_attention_heads": 3}, None)
    defaults = Dinov2Config()
    assert config.layer_norm_eps == defaults.layer_norm_eps != 1e-12
    assert config.image_size == defaults.image_size
    assert config.intermediate_size == 24 * defaults.mlp_ratio


def test_what_has_no_vit_is_refused(dinov2, tmp_path):
    with pytest.raises(ValueError, match="use_swiglu_ffn=True does not convert"):
        vit_config({**SIZE, "use_swiglu_ffn": True}, None)
    Dinov2ForImageClassification(dinov2.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A DINOv2 classifier does not convert"):
        write_unreduced(tmp_path, tmp_path / "vit")
    assert not (tmp_path / "vit").exists()


def test_a_checkpoint_that_lacks_weights_is_refused(dinov2, tmp_path):
    dinov2.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layer.1.norm2.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, such as encoder\.layer\.1\.norm2\.weight"):
        vit_from_dinov2(tmp_path)


def test_other_models_are_vits_already(stock, tmp_path):
    stock.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="is of model type 'vit': only dinov2 is converted to an unreduced ViT"):
        write_unreduced(tmp_path / "saved", tmp_path / "vit")
    assert not (tmp_path / "vit").exists()


def test_cropped_size(tmp_path):
    assert cropped_size(tmp_path) is None
    ViTImageProcessor(size={"height": 20, "width": 20}).save_pretrained(tmp_path)
    assert cropped_size(tmp_path) is None
    crop_to(tmp_path, 24, 48)
    assert cropped_size(tmp_path) == (24, 48)
    (tmp_path / "preprocessor_config.json").write_text('{"do_center_crop": true, "crop_size": 32}')
    assert cropped_size(tmp_path) == (32, 32)
