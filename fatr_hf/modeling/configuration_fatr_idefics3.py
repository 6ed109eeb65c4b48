# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an Idefics3 whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Idefics3Config

from .composite_config import CompositeConfig
from .configuration_fatr_idefics3_vision import FATRIdefics3VisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_idefics3 import FATRIdefics3ForConditionalGeneration  # noqa: F401


@strict
class FATRIdefics3Config(CompositeConfig, Idefics3Config):
    """That of `Idefics3Config`, with a ``FATRIdefics3VisionConfig`` as ``vision_config``."""

    model_type = "fatr_idefics3"
    _auto_class = "AutoConfig"
    tower_configs = (FATRIdefics3VisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
