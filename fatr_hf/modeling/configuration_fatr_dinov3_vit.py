# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a DINOv3 with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DINOv3ViTConfig

from .reduction_config import ReductionConfig
from .token_plan import EncoderSpec

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_dinov3_vit import FATRDINOv3ViTModel  # noqa: F401


@strict
class FATRDINOv3ViTConfig(ReductionConfig, DINOv3ViTConfig):
    """Configuration of ``FATRDINOv3ViTModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `DINOv3ViTConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_dinov3_vit"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("dinov3_vit",)
    classifier_reads: ClassVar[str | None] = "cls_and_patches"
    takes_any_size: ClassVar[bool] = True

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What DINOv3's layers are made of."""
        return self.spec(
            query_bias=self.query_bias,
            key_bias=self.key_bias,
            value_bias=self.value_bias,
            output_bias=self.proj_bias,
            mlp_bias=self.mlp_bias,
            gated=self.use_gated_mlp,
            scale=self.layerscale_value,
            drop_path=self.drop_path_rate,
        )
