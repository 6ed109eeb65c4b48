# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an InternVL vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import InternVLVisionConfig

from .reduction_config import ReductionConfig
from .token_plan import EncoderSpec

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_internvl_vision import FATRInternVLVisionModel  # noqa: F401


@strict
class FATRInternVLVisionConfig(ReductionConfig, InternVLVisionConfig):
    """Configuration of ``FATRInternVLVisionModel``: the stock fields and the reduction's.

    Takes every argument of `InternVLVisionConfig` and of `ReductionConfig`, but not the norms of an InternViT-6B.
    """

    model_type = "fatr_internvl_vision"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("internvl_vision",)
    classifier_reads: ClassVar[str | None] = None
    takes_any_size: ClassVar[bool] = True

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What InternVL's layers are made of: scaled branches, and an output projection with a bias in any case."""
        bias = self.attention_bias
        return self.spec(query_bias=bias, key_bias=bias, value_bias=bias, scale=self.layer_scale_init_value)

    def validate_layers(self) -> None:
        """Checks that the layers are of the kinds that the encoder has (run by `@strict`)."""
        if self.norm_type != "layer_norm":
            raise ValueError(f"norm_type={self.norm_type!r} must be 'layer_norm': RMS norms are not taken.")
        if self.use_qk_norm:
            raise ValueError("use_qk_norm=True must be False: norms of queries and keys are not taken.")
        if self.projection_dropout != self.hidden_dropout_prob:
            raise ValueError(
                f"projection_dropout={self.projection_dropout} must equal hidden_dropout_prob="
                f"{self.hidden_dropout_prob}: both branches of a layer drop out alike."
            )
