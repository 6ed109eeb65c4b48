# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""An InternVL whose vision tower is reduced: text about images and videos that a reduced tower reads."""

from typing import ClassVar

from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_internvl import FATRInternVLConfig
from .modeling_fatr_internvl_vision import FATRInternVLVisionModel
from .stock_names import register_stock_names


class FATRInternVLForConditionalGeneration(CompositeModel, InternVLForConditionalGeneration):
    """``InternVLForConditionalGeneration`` with a FATR model as ``model.vision_tower``."""

    config_class = FATRInternVLConfig
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRInternVLForConditionalGeneration"}
    tower_name = "model.vision_tower"
    tower_classes = (FATRInternVLVisionModel,)


register_stock_names(FATRInternVLForConditionalGeneration, "internvl")
