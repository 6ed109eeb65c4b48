# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a ViT with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:
    # transformers keeps a copy of remote code for every content of the configuration and of all that it imports: named
    # here, the model's files are among them, so that repositories with other ones run their own.
    from .modeling_fatr_vit import FATRViTModel  # noqa: F401


@strict
class FATRViTConfig(ReductionConfig, ViTConfig):
    """Configuration of ``FATRViTModel`` and ``FATRViTForImageClassification``: ViT's fields and the reduction's.

    Takes every argument of `ViTConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_vit"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("vit", "vit_msn", "vit_mae")
    stock_only_fields: ClassVar[tuple[str, ...]] = (  # of MAE's decoder
        "decoder_num_attention_heads",
        "decoder_hidden_size",
        "decoder_num_hidden_layers",
        "decoder_intermediate_size",
        "mask_ratio",
        "norm_pix_loss",
    )
