"""Checkpoints of timm's plain vision transformers and DINOv2, renamed for our models; timm itself is not needed."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from ..families import Family, family_of

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
"""Heads of timm's vision transformers by their width, where a checkpoint does not name them."""

PLAIN = re.compile(
    r"(vit|deit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+(_reg\d+)?(_dino|_dinov2)?(_\d+)?(\..*)?"
)
"""Names of architectures whose parameters say all that they compute; others may turn their queries."""

BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc2": "mlp.fc2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
"""Our names for the parts of a block that are renamed alone."""


def timm_fields(name: Any, revision: str | None = None) -> dict[str, Any] | None:
    """The fields of a timm checkpoint's ``config.json``; None where there is no such checkpoint.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name.
    """
    if not isinstance(name, (str, os.PathLike)):
        return None
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except (OSError, RecursionError, TypeError, ValueError):
        return None
    # transformers gives a timm checkpoint the type of its wrapper.
    is_timm = "architecture" in fields and fields.get("model_type", "timm_wrapper") == "timm_wrapper"
    return fields if is_timm else None


def load_timm(name: str | os.PathLike[str], revision: str | None, fields: dict[str, Any], **reduction: Any) -> Any:
    """A timm checkpoint as a FATR ViT, or as a FATR DINOv2 where its blocks have learned scales.

    A checkpoint with a head becomes a classifier, any other an encoder.

    Args:
        fields: of ``timm_fields``.
        reduction: fields of the reduction, or ``preset``.

    Raises:
        FileNotFoundError: no ``model.safetensors``.
        ValueError: another architecture, named by a parameter that ViT and DINOv2 do not have.
    """
    path = cached_file(name, "model.safetensors", revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise FileNotFoundError(f"{str(name)!r} holds no model.safetensors: save or download the checkpoint again.")
    weights = load_file(Path(path))
    family, config = timm_config(str(name), fields, weights)
    classifies = "head.weight" in weights
    config = family.config.from_dict(config, **reduction)
    options = {} if classifies or family.config.model_type != "fatr_vit" else {"add_pooling_layer": False}
    model = (family.classifier if classifies else family.model)(config, **options)
    ours = renamed(weights)
    prefix = f"{model.base_model_prefix}." if classifies else ""
    ours = {key if key.startswith("classifier.") else prefix + key: value for key, value in ours.items()}
    own = model.state_dict()
    zero = [key for key in own if key.endswith(("omega1", "omega2", "dc_position_embeddings", "mask_token"))]
    others = sorted(ours.keys() ^ (own.keys() - set(zero)))
    shapes = [key for key in ours.keys() & own.keys() if ours[key].shape != own[key].shape]
    if others or shapes:
        raise ValueError(
            f"The timm checkpoint {str(name)!r} ({fields['architecture']}) is no plain ViT or DINOv2: "
            f"{(others or sorted(shapes))[0]} does not fit."
        )
    model.load_state_dict(own | ours)
    return model.eval()


def timm_config(name: str, fields: dict[str, Any], weights: dict[str, Tensor]) -> tuple[Family, dict[str, Any]]:
    """The family of a timm checkpoint, and the fields of its stock configuration.

    Raises:
        ValueError: an architecture that is neither, a width whose heads are not known, or a head that reads the mean.
    """
    arguments = fields.get("model_args") or {}
    pretrained = fields.get("pretrained_cfg") or {}
    if not PLAIN.fullmatch(fields["architecture"]) or "patch_embed.proj.weight" not in weights:
        raise ValueError(f"The timm checkpoint {name!r} ({fields['architecture']}) is no plain ViT or DINOv2.")
    hidden, channels, patch = weights["cls_token"].shape[2], *weights["patch_embed.proj.weight"].shape[1:3]
    heads = arguments.get("num_heads") or HEADS.get(hidden)
    if heads is None:
        raise ValueError(f"The timm checkpoint {name!r} names no num_heads, and {hidden} is no width of timm's own.")
    if "head.weight" in weights and fields.get("global_pool", "token") != "token":
        raise ValueError(
            f"The timm checkpoint {name!r} has global_pool={fields['global_pool']!r}: a ViT's classifier reads CLS."
        )
    size = arguments.get("img_size") or pretrained.get("input_size", [channels, 224, 224])[1:]
    height, width = (size, size) if isinstance(size, int) else size
    inner, gated_inner = weights["blocks.0.mlp.fc1.weight"].shape[0], weights["blocks.0.mlp.fc2.weight"].shape[1]
    stock: dict[str, Any] = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        "image_size": height if height == width else [height, width],
        "patch_size": patch,
        "num_channels": channels,
        "layer_norm_eps": 1e-6,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }
    if "head.weight" in weights:
        stock["id2label"] = dict(enumerate(fields.get("label_names") or class_names(len(weights["head.weight"]))))
        stock["label2id"] = {label: number for number, label in stock["id2label"].items()}
    if "blocks.0.ls1.gamma" not in weights:
        model_type, more = "vit", {"intermediate_size": inner}
    else:
        is_gated = inner != gated_inner
        ratio = {"mlp_ratio": round((inner * 3 / 4 if is_gated else inner) / hidden), "use_swiglu_ffn": is_gated}
        registers = {"num_register_tokens": weights["reg_token"].shape[1]} if "reg_token" in weights else {}
        model_type, more = "dinov2_with_registers" if registers else "dinov2", ratio | registers
    family = family_of(model_type)
    assert family is not None
    return family, {"model_type": model_type, **stock, **more}


def class_names(count: int) -> list[str]:
    """Names of classes as transformers makes them up."""
    return [f"LABEL_{number}" for number in range(count)]


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a timm checkpoint by our names; query, key and value, and the branches of a gated MLP, are split.

    Where CLS has no position, its row of the table is zero.
    """
    found: dict[str, Tensor] = {}
    patches_alone = "reg_token" in weights
    for key, value in weights.items():
        if key.startswith("blocks."):
            _, number, part = key.split(".", 2)
            found |= {f"layers.{number}.{own}": tensor for own, tensor in renamed_part(part, value, weights, number)}
        elif key == "pos_embed":
            row = value.new_zeros(1, 1, value.shape[2])
            found["embeddings.position_embeddings"] = torch.cat([row, value], dim=1) if patches_alone else value
        else:
            found[OUTSIDE.get(key, key)] = value
    return found


OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}
"""Our names for what is no part of a block."""


def renamed_part(part: str, value: Tensor, weights: dict[str, Tensor], number: str) -> list[tuple[str, Tensor]]:
    """A block's parameter by our name or names, without the block's."""
    name, _, kind = part.rpartition(".")
    if name == "attn.qkv":
        return [(f"attention.{each}_proj.{kind}", piece) for each, piece in zip("qkv", value.chunk(3), strict=True)]
    if name == "mlp.fc1" and len(value) == 2 * weights[f"blocks.{number}.mlp.fc2.weight"].shape[1]:
        gate, inner = value.chunk(2)
        return [(f"mlp.gate.{kind}", gate), (f"mlp.fc1.{kind}", inner)]
    if part in BLOCK:
        return [(BLOCK[part], value)]
    return [(f"{BLOCK.get(name, name)}.{kind}", value)]
