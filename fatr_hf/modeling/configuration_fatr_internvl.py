# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an InternVL whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig

from .composite_config import CompositeConfig
from .configuration_fatr_internvl_vision import FATRInternVLVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_internvl import FATRInternVLForConditionalGeneration  # noqa: F401


@strict
class FATRInternVLConfig(CompositeConfig, InternVLConfig):
    """That of `InternVLConfig`, with a ``FATRInternVLVisionConfig`` as ``vision_config``."""

    model_type = "fatr_internvl"
    _auto_class = "AutoConfig"
    tower_configs = (FATRInternVLVisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("internvl",)
