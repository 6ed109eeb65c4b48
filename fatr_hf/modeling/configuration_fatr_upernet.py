# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a UperNet whose backbone is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import UperNetConfig

from .composite_config import CompositeConfig
from .configuration_fatr_dinov2 import FATRDinov2Config
from .configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_upernet import FATRUperNetForSemanticSegmentation  # noqa: F401


@strict
class FATRUperNetConfig(CompositeConfig, UperNetConfig):
    """That of `UperNetConfig`, with a FATR configuration as ``backbone_config``."""

    model_type = "fatr_upernet"
    _auto_class = "AutoConfig"
    tower_field = "backbone_config"
    tower_configs = (FATRDinov2Config, FATRDinov2WithRegistersConfig, FATRDINOv3ViTConfig)
    stock_model_types: ClassVar[tuple[str, ...]] = ("upernet",)
