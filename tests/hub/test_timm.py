"""Checkpoints of timm are exactly what they were: the same weights under timm's names are the stock model."""

import json

import pytest
import torch
from rounding import assert_rounded_alike
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import fatr_hf
from fatr_hf.hub.convert import convert_checkpoint

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
DINO = {**SMALL, "mlp_ratio": 4, "layerscale_value": 0.5}

MODELS = {
    "vit_tiny_patch16_224": lambda: ViTForImageClassification(ViTConfig(**SMALL, intermediate_size=64, num_labels=5)),
    "vit_small_patch16_224.dino": lambda: ViTModel(ViTConfig(**SMALL, intermediate_size=64), add_pooling_layer=False),
    "vit_small_patch14_dinov2": lambda: Dinov2Model(Dinov2Config(**DINO)),
    "vit_giant_patch14_dinov2": lambda: Dinov2Model(Dinov2Config(**DINO, use_swiglu_ffn=True)),
    "vit_small_patch14_reg4_dinov2": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINO)),
}


@torch.no_grad()
def made(architecture):
    """A stock model with parameters far from those of a fresh one; where timm has no position of CLS, there is none."""
    torch.manual_seed(0)
    model = MODELS[architecture]().double().eval()
    for name, parameter in model.named_parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
        if "reg4" in architecture and name.endswith("position_embeddings"):
            parameter[:, 0] = 0
    return model


def under_timms_names(model):
    """The state dict of a stock model by the names of timm's modules, query, key and value in one."""
    own = fatr_hf.convert(model).state_dict()
    own = {key.removeprefix("vit."): value for key, value in own.items()}
    layers = 1 + max(int(key.split(".")[1]) for key in own if key.startswith("layers."))
    found = {
        "cls_token": own["embeddings.cls_token"],
        "pos_embed": own["embeddings.position_embeddings"],
        "patch_embed.proj.weight": own["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": own["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": own["layernorm.weight"],
        "norm.bias": own["layernorm.bias"],
    }
    if "embeddings.register_tokens" in own:
        found["reg_token"] = own["embeddings.register_tokens"]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    for kind in ("weight", "bias"):
        if f"classifier.{kind}" in own:
            found[f"head.{kind}"] = own[f"classifier.{kind}"]
        for layer in range(layers):
            old, new = f"layers.{layer}", f"blocks.{layer}"
            parts = [own[f"{old}.attention.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
            found[f"{new}.attn.proj.{kind}"] = own[f"{old}.attention.o_proj.{kind}"]
            found[f"{new}.norm1.{kind}"] = own[f"{old}.layernorm_before.{kind}"]
            found[f"{new}.norm2.{kind}"] = own[f"{old}.layernorm_after.{kind}"]
            branches = [
                own[f"{old}.mlp.{name}.{kind}"] for name in ("gate", "fc1") if f"{old}.mlp.{name}.{kind}" in own
            ]
            found[f"{new}.mlp.fc1.{kind}"] = torch.cat(branches)
            found[f"{new}.mlp.fc2.{kind}"] = own[f"{old}.mlp.fc2.{kind}"]
            for number in (1, 2):
                scale = own.get(f"{old}.layer_scale{number}.lambda1")
                if scale is not None:
                    found[f"{new}.ls{number}.gamma"] = scale
    return found


def write(folder, architecture, weights, **fields):
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "global_pool": "token",
        "model_args": {"num_heads": 4},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("architecture", MODELS)
@torch.no_grad()
def test_it_is_the_same_model(architecture, tmp_path):
    stock = made(architecture)
    # timm's layer norms add 1e-6 in all of them.
    for module in stock.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    write(tmp_path, architecture, under_timms_names(stock))
    model = fatr_hf.convert(tmp_path, keep_ratio=0.6, reduction_layers=[1], dc_windows=1).double()
    assert isinstance(model, type(stock))
    pixel_values = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with model.reduction(False):
        # Saved in float64, loaded into a float32 model.
        assert_rounded_alike(model(pixel_values)[0], stock(pixel_values)[0], torch.float32)
    assert model.base_model(pixel_values).last_hidden_state.shape[1] < 1 + 16


def test_names_of_classes_are_kept_and_folders_are_written(tmp_path):
    architecture = "vit_tiny_patch16_224"
    names = ["cat", "dog", "fox", "owl", "yak"]
    write(tmp_path / "timm", architecture, under_timms_names(made(architecture)), label_names=names)
    conversion = convert_checkpoint(tmp_path / "timm", tmp_path / "fatr", keep_ratio=0.5, reduction_layers=[1])
    assert conversion.architecture == "FATRViTForImageClassification"
    model = fatr_hf.FATRViTForImageClassification.from_pretrained(tmp_path / "fatr")
    assert list(model.config.id2label.values()) == names


REFUSED = {
    "another": ("resnet18", {}, {}, "is no plain ViT or DINOv2"),
    "rotary": ("vit_small_patch16_rope_224", {}, {}, "is no plain ViT or DINOv2"),
    "distilled": ("vit_tiny_patch16_224", {"dist_token": torch.zeros(1, 1, 32)}, {}, "dist_token does not fit"),
    "pre-normed": ("vit_tiny_patch16_224", {"norm_pre.weight": torch.ones(32)}, {}, "norm_pre.weight does not fit"),
    "mean": ("vit_tiny_patch16_224", {}, {"global_pool": "avg"}, "global_pool='avg': a ViT's classifier reads CLS"),
    "heads": ("vit_tiny_patch16_224", {}, {"model_args": {}}, "names no num_heads, and 32 is no width of timm's own"),
}


@pytest.mark.parametrize(("architecture", "more", "fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_such_model_is_refused_by_name(architecture, more, fields, words, tmp_path):
    write(tmp_path, architecture, under_timms_names(made("vit_tiny_patch16_224")) | more, **fields)
    with pytest.raises(ValueError, match=words):
        fatr_hf.convert(tmp_path)
