# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a PaliGemma whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PaliGemmaConfig

from .composite_config import CompositeConfig
from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_paligemma import FATRPaliGemmaForConditionalGeneration  # noqa: F401


@strict
class FATRPaliGemmaConfig(CompositeConfig, PaliGemmaConfig):
    """That of `PaliGemmaConfig`, with a ``FATRSiglipVisionConfig`` as ``vision_config``."""

    model_type = "fatr_paligemma"
    _auto_class = "AutoConfig"
    tower_configs = (FATRSiglipVisionConfig,)
    dense_choices = (True, False)
    stock_model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
