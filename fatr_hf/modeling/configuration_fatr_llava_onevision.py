# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a LLaVA-OneVision whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import LlavaOnevisionConfig

from .composite_config import CompositeConfig
from .configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_llava_onevision import FATRLlavaOnevisionForConditionalGeneration  # noqa: F401


@strict
class FATRLlavaOnevisionConfig(CompositeConfig, LlavaOnevisionConfig):
    """That of `LlavaOnevisionConfig`, with a FATR configuration as ``vision_config``."""

    model_type = "fatr_llava_onevision"
    _auto_class = "AutoConfig"
    tower_configs = (FATRSiglipVisionConfig, FATRCLIPVisionConfig)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
