# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a whole SigLIP whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SiglipConfig

from .composite_config import CompositeConfig
from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_siglip import FATRSiglipModel  # noqa: F401


@strict
class FATRSiglipConfig(CompositeConfig, SiglipConfig):
    """Configuration of ``FATRSiglipModel``: that of `SiglipConfig`, with a ``FATRSiglipVisionConfig`` in it."""

    model_type = "fatr_siglip"
    _auto_class = "AutoConfig"
    tower_configs = (FATRSiglipVisionConfig,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("siglip",)
