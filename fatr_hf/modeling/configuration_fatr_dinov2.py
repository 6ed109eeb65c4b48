# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a DINOv2 with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Dinov2Config

from .reduction_config import ReductionConfig
from .token_plan import EncoderSpec

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_dinov2 import FATRDinov2Model  # noqa: F401


@strict
class FATRDinov2Config(ReductionConfig, Dinov2Config):
    """Configuration of ``FATRDinov2Model`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `Dinov2Config` and of `ReductionConfig`.
    """

    model_type = "fatr_dinov2"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("dinov2",)
    classifier_reads: ClassVar[str | None] = "cls_and_patches"
    takes_any_size: ClassVar[bool] = True

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What DINOv2's layers are made of; a gated MLP has two thirds of the width, in steps of 8."""
        inner = int(self.hidden_size * self.mlp_ratio)
        return self.spec(
            inner_size=(int(inner * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else inner,
            activation="silu" if self.use_swiglu_ffn else self.hidden_act,
            gated=self.use_swiglu_ffn,
            scale=self.layerscale_value,
            drop_path=self.drop_path_rate,
            dropout=0.0,
        )
