# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A SmolVLM whose vision tower is reduced: text about images and videos that a reduced tower reads."""

from typing import ClassVar

from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_smolvlm import FATRSmolVLMConfig
from .modeling_fatr_smolvlm_vision import FATRSmolVLMVisionTransformer
from .stock_names import register_stock_names


class FATRSmolVLMForConditionalGeneration(CompositeModel, SmolVLMForConditionalGeneration):
    """``SmolVLMForConditionalGeneration`` with a FATR model as ``model.vision_model``."""

    config_class = FATRSmolVLMConfig
    config: FATRSmolVLMConfig  # type: ignore[assignment]
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRSmolVLMForConditionalGeneration"}
    tower_name = "model.vision_model"

    def __init__(self, config: FATRSmolVLMConfig):
        super().__init__(config)
        self.model.vision_model = FATRSmolVLMVisionTransformer._from_config(config.vision_config)
        self.post_init()


register_stock_names(FATRSmolVLMForConditionalGeneration, "smolvlm")
