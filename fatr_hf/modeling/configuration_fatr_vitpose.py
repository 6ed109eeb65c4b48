# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a ViTPose whose backbone is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import VitPoseConfig

from .composite_config import CompositeConfig
from .configuration_fatr_vitpose_backbone import FATRVitPoseBackboneConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_vitpose import FATRVitPoseForPoseEstimation  # noqa: F401


@strict
class FATRVitPoseConfig(CompositeConfig, VitPoseConfig):
    """Configuration of ``FATRVitPoseForPoseEstimation``: `VitPoseConfig` with a ``FATRVitPoseBackboneConfig`` in it."""

    model_type = "fatr_vitpose"
    _auto_class = "AutoConfig"
    tower_field = "backbone_config"
    tower_configs = (FATRVitPoseBackboneConfig,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("vitpose",)
