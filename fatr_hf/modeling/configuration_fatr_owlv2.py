# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a whole OWLv2 whose vision tower is reduced."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Owlv2Config

from .composite_config import CompositeConfig
from .configuration_fatr_owlv2_vision_model import FATROwlv2VisionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_owlv2 import FATROwlv2Model  # noqa: F401


@strict
class FATROwlv2Config(CompositeConfig, Owlv2Config):
    """Configuration of ``FATROwlv2Model`` and its detector: `Owlv2Config` with a ``FATROwlv2VisionConfig`` in it."""

    model_type = "fatr_owlv2"
    _auto_class = "AutoConfig"
    tower_configs = (FATROwlv2VisionConfig,)
    dense_choices = (True,)
    stock_model_types: ClassVar[tuple[str, ...]] = ("owlv2",)
