# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a whole OWL-ViT whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import OwlViTConfig

from .composite_config import CompositeConfig
from .configuration_fatr_owlvit_vision_model import FATROwlViTVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_owlvit import FATROwlViTModel  # noqa: F401


@strict
class FATROwlViTConfig(CompositeConfig, OwlViTConfig):
    """Configuration of ``FATROwlViTModel`` and its detector: `OwlViTConfig` with a ``FATROwlViTVisionConfig`` in it."""

    model_type = "fatr_owlvit"
    _auto_class = "AutoConfig"
    tower_configs = (FATROwlViTVisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("owlvit",)
