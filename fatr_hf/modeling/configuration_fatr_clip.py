# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a whole CLIP whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig

from .composite_config import CompositeConfig
from .configuration_fatr_clip_vision_model import FATRCLIPVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_clip import FATRCLIPModel  # noqa: F401


@strict
class FATRCLIPConfig(CompositeConfig, CLIPConfig):
    """Configuration of ``FATRCLIPModel``: that of `CLIPConfig`, with a ``FATRCLIPVisionConfig`` in it."""

    model_type = "fatr_clip"
    _auto_class = "AutoConfig"
    tower_configs = (FATRCLIPVisionConfig,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("clip",)
