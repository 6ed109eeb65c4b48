# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a LLaVA whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig

from .composite_config import CompositeConfig
from .configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_llava import FATRLlavaForConditionalGeneration  # noqa: F401


@strict
class FATRLlavaConfig(CompositeConfig, LlavaConfig):
    """That of `LlavaConfig`, with a FATR configuration as ``vision_config``."""

    model_type = "fatr_llava"
    _auto_class = "AutoConfig"
    tower_configs = (FATRCLIPVisionConfig, FATRSiglipVisionConfig)
    dense_choices = (True, False)
    stock_model_types: ClassVar[tuple[str, ...]] = ("llava",)
