# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A LLaVA whose vision tower is reduced: text about images that a reduced tower reads."""

from typing import ClassVar

from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_llava import FATRLlavaConfig
from .modeling_fatr_clip_vision_model import FATRCLIPVisionModel
from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel
from .stock_names import register_stock_names


class FATRLlavaForConditionalGeneration(CompositeModel, LlavaForConditionalGeneration):
    """``LlavaForConditionalGeneration`` with a FATR model as ``model.vision_tower``."""

    config_class = FATRLlavaConfig
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRLlavaForConditionalGeneration"}
    tower_name = "model.vision_tower"
    tower_classes = (FATRCLIPVisionModel, FATRSiglipVisionModel)


register_stock_names(FATRLlavaForConditionalGeneration, "llava")
