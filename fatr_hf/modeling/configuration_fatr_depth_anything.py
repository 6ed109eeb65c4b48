# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a Depth Anything whose backbone is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DepthAnythingConfig

from .composite_config import CompositeConfig
from .configuration_fatr_dinov2 import FATRDinov2Config

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_depth_anything import FATRDepthAnythingForDepthEstimation  # noqa: F401


@strict
class FATRDepthAnythingConfig(CompositeConfig, DepthAnythingConfig):
    """That of `DepthAnythingConfig`, with a ``FATRDinov2Config`` as ``backbone_config``."""

    model_type = "fatr_depth_anything"
    _auto_class = "AutoConfig"
    tower_field = "backbone_config"
    tower_configs = (FATRDinov2Config,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("depth_anything",)
