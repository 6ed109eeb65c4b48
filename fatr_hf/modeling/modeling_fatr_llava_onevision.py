# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A LLaVA-OneVision whose vision tower is reduced: text about images and videos that a reduced tower reads."""

from typing import ClassVar

from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_llava_onevision import FATRLlavaOnevisionConfig
from .modeling_fatr_clip_vision_model import FATRCLIPVisionModel
from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel
from .stock_names import register_stock_names


class FATRLlavaOnevisionForConditionalGeneration(CompositeModel, LlavaOnevisionForConditionalGeneration):
    """``LlavaOnevisionForConditionalGeneration`` with a FATR model as ``model.vision_tower``."""

    config_class = FATRLlavaOnevisionConfig
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModelForImageTextToText": "FATRLlavaOnevisionForConditionalGeneration"
    }
    tower_name = "model.vision_tower"
    tower_classes = (FATRSiglipVisionModel, FATRCLIPVisionModel)


register_stock_names(FATRLlavaOnevisionForConditionalGeneration, "llava_onevision")
