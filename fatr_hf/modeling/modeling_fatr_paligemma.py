# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A PaliGemma whose vision tower is reduced: text about images that a reduced SigLIP reads."""

from typing import ClassVar

from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_paligemma import FATRPaliGemmaConfig
from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel
from .stock_names import register_stock_names


class FATRPaliGemmaForConditionalGeneration(CompositeModel, PaliGemmaForConditionalGeneration):
    """``PaliGemmaForConditionalGeneration`` with a FATR model as ``model.vision_tower``."""

    config_class = FATRPaliGemmaConfig
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRPaliGemmaForConditionalGeneration"}
    tower_name = "model.vision_tower"
    tower_classes = (FATRSiglipVisionModel,)


register_stock_names(FATRPaliGemmaForConditionalGeneration, "paligemma")
