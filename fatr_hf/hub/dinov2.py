"""DINOv2 encoders as ViTs of the same function: each layer scale is folded into the projection that it scales."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from ..modeling.reduction_config import as_pair
from .checkpoints import cropped_size, read_config

MODEL_TYPE = "dinov2"

SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "patch_size",
    "num_channels",
    "qkv_bias",
)
"""Fields that mean the same in both configurations."""

NAMES = (
    (r"^encoder\.layer\.", "layers."),
    (r"attention\.(attention\.query|q_proj)\.", "attention.q_proj."),
    (r"attention\.(attention\.key|k_proj)\.", "attention.k_proj."),
    (r"attention\.(attention\.value|v_proj)\.", "attention.v_proj."),
    (r"attention\.(output\.dense|o_proj)\.", "attention.o_proj."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
"""Parameter names of DINOv2, older and newer ones, and those of ViT."""

SCALED = {"layer_scale1.lambda1": "attention.o_proj", "layer_scale2.lambda1": "mlp.fc2"}
"""Layer scales, and the projections whose outputs they scale."""

POSITIONS = "embeddings.position_embeddings"
UNUSED = "embeddings.mask_token"


def vit_from_dinov2(name: str | os.PathLike[str], revision: str | None = None) -> ViTModel:
    """A DINOv2 encoder as transformers' own ``ViTModel`` without pooler, in evaluation mode.

    It is for images of the size that the checkpoint's image processor crops to (224 x 224 on the Hub), or else of the
    size it was trained with.

    Args:
        name: folder or Hub name of a checkpoint of model type ``dinov2``.
        revision: branch, tag or commit of a Hub name; the main branch by default.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: one that lacks weights, or that no ViT equals: with gated MLPs (the giant), or a classifier.
    """
    config = vit_config(read_config(name, revision), cropped_size(name, revision))
    model_class: Any = Dinov2Model
    # In float32, where folding a scale loses next to nothing.
    model, info = model_class.from_pretrained(
        name, revision=revision, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - {UNUSED})
    if missing:
        raise ValueError(f"The checkpoint {str(name)!r} lacks {len(missing)} of its weights, such as {missing[0]}.")
    sides = zip(as_pair("image_size", config.image_size), as_pair("patch_size", config.patch_size), strict=True)
    rows, columns = (side // patch for side, patch in sides)
    vit = ViTModel(config, add_pooling_layer=False).eval()
    vit.load_state_dict(vit_state(model.state_dict(), (rows, columns)))
    return vit


def vit_config(fields: Mapping[str, Any], image_size: tuple[int, int] | None) -> ViTConfig:
    """The configuration of the ViT that equals a DINOv2 encoder.

    Args:
        fields: of the DINOv2 configuration.
        image_size: height and width of the images that the ViT is for; the configuration's where it is None.

    Raises:
        ValueError: a model that no ViT equals.
    """
    # A configuration file may leave out what is as DINOv2's defaults have it.
    config = Dinov2Config(**{name: value for name, value in fields.items() if name != "model_type"})
    if config.use_swiglu_ffn:
        raise ValueError(
            "use_swiglu_ffn=True does not convert: ViT's MLPs have no gate. Small, base and large DINOv2 do convert."
        )
    if any("ForImageClassification" in architecture for architecture in config.architectures or ()):
        raise ValueError(
            "A DINOv2 classifier does not convert: it reads the mean of all patch tokens, which a reduced model does "
            "not have. Convert the encoder, and fine-tune a classifier on it."
        )
    return ViTConfig(
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        intermediate_size=int(config.hidden_size * config.mlp_ratio),
        image_size=config.image_size if image_size is None else list(image_size),
    )


@torch.no_grad()
def vit_state(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """ViT's state dict of DINOv2's: ``scale * (W x + b)`` becomes ``(scale W) x + scale b``.

    DINOv2 interpolates its positions whenever it meets images of another size than it was trained with; here that is
    done once, for a grid of (rows, columns) patches.
    """
    renamed = {vit_name(name): tensor for name, tensor in state.items() if name != UNUSED}
    result = {name: tensor for name, tensor in renamed.items() if not name.endswith(tuple(SCALED))}
    for layer, scale_name, projection in scaled_projections(renamed):
        scale = renamed[f"{layer}.{scale_name}"]
        result[f"{layer}.{projection}.weight"] = scale[:, None] * result[f"{layer}.{projection}.weight"]
        result[f"{layer}.{projection}.bias"] = scale * result[f"{layer}.{projection}.bias"]
    result[POSITIONS] = interpolated(result[POSITIONS], grid)
    return result


def vit_name(name: str) -> str:
    """ViT's name of a parameter."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def scaled_projections(names: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(layer, name of the scale, name of the projection) for every layer scale."""
    return [
        (name.removesuffix(f".{scale_name}"), scale_name, projection)
        for name in names
        for scale_name, projection in SCALED.items()
        if name.endswith(scale_name)
    ]


def interpolated(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + patches, width) position embeddings of a square grid on another one; that of CLS stays."""
    cls, patches = positions.split([1, positions.shape[1] - 1], dim=1)
    side = round(patches.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    square = patches.transpose(1, 2).unflatten(2, (side, side)).float()
    resized = functional.interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)
