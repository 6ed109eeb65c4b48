# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""An Idefics3 whose vision tower is reduced: text about images that a reduced tower reads."""

from typing import ClassVar

from transformers.models.idefics3.modeling_idefics3 import Idefics3ForConditionalGeneration

from .composite_model import CompositeModel
from .configuration_fatr_idefics3 import FATRIdefics3Config
from .modeling_fatr_idefics3_vision import FATRIdefics3VisionTransformer
from .stock_names import register_stock_names


class FATRIdefics3ForConditionalGeneration(CompositeModel, Idefics3ForConditionalGeneration):
    """``Idefics3ForConditionalGeneration`` with a FATR model as ``model.vision_model``."""

    config_class = FATRIdefics3Config
    config: FATRIdefics3Config  # type: ignore[assignment]
    _auto_class = "AutoModelForImageTextToText"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "FATRIdefics3ForConditionalGeneration"}
    tower_name = "model.vision_model"

    def __init__(self, config: FATRIdefics3Config):
        super().__init__(config)
        self.model.vision_model = FATRIdefics3VisionTransformer._from_config(config.vision_config)
        self.post_init()


register_stock_names(FATRIdefics3ForConditionalGeneration, "idefics3")
