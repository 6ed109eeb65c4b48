# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a Gemma 3 whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config

from .composite_config import CompositeConfig
from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_gemma3 import FATRGemma3ForConditionalGeneration  # noqa: F401


@strict
class FATRGemma3Config(CompositeConfig, Gemma3Config):
    """That of `Gemma3Config`, with a ``FATRSiglipVisionConfig`` as ``vision_config``."""

    model_type = "fatr_gemma3"
    _auto_class = "AutoConfig"
    tower_configs = (FATRSiglipVisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
