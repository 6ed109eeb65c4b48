# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a ViTPose backbone with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import VitPoseBackboneConfig

from .reduction_config import ReductionConfig
from .token_plan import EncoderSpec

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_vitpose_backbone import FATRVitPoseBackbone  # noqa: F401


@strict
class FATRVitPoseBackboneConfig(ReductionConfig, VitPoseBackboneConfig):
    """Configuration of ``FATRVitPoseBackbone``: the stock fields and the reduction's.

    Takes every argument of `VitPoseBackboneConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_vitpose_backbone"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("vitpose_backbone",)
    has_cls: ClassVar[bool] = False
    classifier_reads: ClassVar[str | None] = None
    apply_layernorm: ClassVar[bool] = True
    reshape_hidden_states: ClassVar[bool] = False

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What ViTPose's layers are made of; experts share an image's MLP, whose width is the same with and without."""
        return self.spec(inner_size=int(self.hidden_size * self.mlp_ratio), dropout=0.0)
