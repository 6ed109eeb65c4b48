# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a whole CLIPSeg whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPSegConfig

from .composite_config import CompositeConfig
from .configuration_fatr_clipseg_vision_model import FATRCLIPSegVisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_clipseg import FATRCLIPSegModel  # noqa: F401


@strict
class FATRCLIPSegConfig(CompositeConfig, CLIPSegConfig):
    """Configuration of ``FATRCLIPSegModel`` and its segmenter: `CLIPSegConfig` with a ``FATRCLIPSegVisionConfig``."""

    model_type = "fatr_clipseg"
    _auto_class = "AutoConfig"
    tower_configs = (FATRCLIPSegVisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("clipseg",)
