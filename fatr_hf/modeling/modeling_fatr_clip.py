# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole CLIP whose vision tower is reduced: image and text features, zero-shot classification."""

from typing import ClassVar

from transformers.models.clip.modeling_clip import CLIPModel

from .composite_model import CompositeModel
from .configuration_fatr_clip import FATRCLIPConfig
from .modeling_fatr_clip_vision_model import FATRCLIPVisionModel


class FATRCLIPModel(CompositeModel, CLIPModel):
    """``CLIPModel`` with a ``FATRCLIPVisionModel`` as ``vision_model``, which has the reduction's methods."""

    config_class = FATRCLIPConfig
    _auto_class = "AutoModelForZeroShotImageClassification"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRCLIPModel",
        "AutoModelForZeroShotImageClassification": "FATRCLIPModel",
    }
    tower_name = "vision_model"
    position_table = "vision_model.embeddings.position_embedding.weight"

    def __init__(self, config: FATRCLIPConfig):
        super().__init__(config)
        self.vision_model = FATRCLIPVisionModel._from_config(config.vision_config)
        self.post_init()
