# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The parameter names of stock checkpoints, of all families and versions of transformers, and ours for them."""

from typing import Any

from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

RENAMINGS = (
    ("encoder.interpolation.mid_position_embeddings", "mid_position_embeddings"),  # YOLOS
    ("encoder.mid_position_embeddings", "mid_position_embeddings"),  # YOLOS' files
    (r"encoder\.layers?\.", "layers."),
    (r"encoder\.embeddings\.", "embeddings."),  # V-JEPA 2
    (r"encoder\.layernorm\.", "layernorm."),
    (r"^model\.layer\.", "layers."),  # DINOv3
    (r"^layer\.", "layers."),  # DINOv3's files
    (r"^norm\.", "layernorm."),  # DINOv3
    ("attention.attention.q_bias", "attention.q_proj.bias"),  # VideoMAE's files
    ("attention.attention.v_bias", "attention.v_proj.bias"),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("attention.query", "attention.q_proj"),  # V-JEPA 2
    ("attention.key", "attention.k_proj"),
    ("attention.value", "attention.v_proj"),
    (r"attention\.proj\.", "attention.o_proj."),
    ("attention.projection_layer", "attention.o_proj"),  # InternVL
    (r"\.lambda_1", ".layer_scale1.lambda1"),
    (r"\.lambda_2", ".layer_scale2.lambda1"),
    ("self_attn.out_proj", "attention.o_proj"),  # CLIP and SigLIP
    (r"(?<!head\.)attention\.out_proj", "attention.o_proj"),  # EoMT, and not SigLIP's pooler
    ("self_attn.q_proj", "attention.q_proj"),
    ("self_attn.k_proj", "attention.k_proj"),
    ("self_attn.v_proj", "attention.v_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    (r"\.norm1", ".layernorm_before"),  # DINO
    (r"\.norm2", ".layernorm_after"),
    (r"\.layer_norm1", ".layernorm_before"),  # CLIP and SigLIP
    (r"\.layer_norm2", ".layernorm_after"),
    ("mlp.gate_proj", "mlp.gate"),
    ("mlp.up_proj", "mlp.fc1"),
    ("mlp.down_proj", "mlp.fc2"),
    ("mlp.weights_out", "mlp.fc2"),  # DINOv2's gated MLP before transformers 5.18
)
"""What is replaced in a name, in this order; names of ours stay as they are."""


def register_names(*model_classes: type) -> None:
    """Lets transformers load stock checkpoints into these encoders, by the names of their classes."""
    for model_class in model_classes:
        conversions: list[Any] = [WeightRenaming(old, new) for old, new in RENAMINGS]
        conversions.append(WeightConverter(["mlp.weights_in"], ["mlp.gate", "mlp.fc1"], operations=[Chunk(dim=0)]))
        register_checkpoint_conversion_mapping(model_class.__name__, conversions, overwrite=True)


def register_stock_names(model_class: type, stock_model_type: str) -> None:
    """Lets transformers load a composite as it loads the stock one, whose files may hold older names."""
    conversions = get_checkpoint_conversion_mapping(stock_model_type)
    if conversions:
        register_checkpoint_conversion_mapping(model_class.__name__, conversions, overwrite=True)
