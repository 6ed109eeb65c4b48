# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a SmolVLM whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SmolVLMConfig

from .composite_config import CompositeConfig
from .configuration_fatr_smolvlm_vision import FATRSmolVLMVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_smolvlm import FATRSmolVLMForConditionalGeneration  # noqa: F401


@strict
class FATRSmolVLMConfig(CompositeConfig, SmolVLMConfig):
    """That of `SmolVLMConfig`, with a ``FATRSmolVLMVisionConfig`` as ``vision_config``."""

    model_type = "fatr_smolvlm"
    _auto_class = "AutoConfig"
    tower_configs = (FATRSmolVLMVisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
