# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A Gemma 3 whose vision tower is reduced: text about images that a reduced SigLIP reads."""

from typing import ClassVar

from transformers.models.gemma3.modeling_gemma3 import Gemma3ForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_gemma3 import FATRGemma3Config
from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel
from .stock_names import register_stock_names


class FATRGemma3ForConditionalGeneration(CompositeModel, Gemma3ForConditionalGeneration):
    """``Gemma3ForConditionalGeneration`` with a FATR model as ``model.vision_tower``."""

    config_class = FATRGemma3Config
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRGemma3ForConditionalGeneration"}
    tower_name = "model.vision_tower"
    tower_classes = (FATRSiglipVisionModel,)


register_stock_names(FATRGemma3ForConditionalGeneration, "gemma3")
