# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole SigLIP whose vision tower is reduced: image and text features, zero-shot classification."""

from typing import ClassVar

from transformers.models.siglip.modeling_siglip import SiglipModel

from .composite_model import CompositeModel
from .configuration_fatr_siglip import FATRSiglipConfig
from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel


class FATRSiglipModel(CompositeModel, SiglipModel):
    """``SiglipModel`` with a ``FATRSiglipVisionModel`` as ``vision_model``, which has the reduction's methods."""

    config_class = FATRSiglipConfig
    _auto_class = "AutoModelForZeroShotImageClassification"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRSiglipModel",
        "AutoModelForZeroShotImageClassification": "FATRSiglipModel",
    }
    tower_name = "vision_model"
    position_table = "vision_model.embeddings.position_embedding.weight"

    def __init__(self, config: FATRSiglipConfig):
        super().__init__(config)
        self.vision_model = FATRSiglipVisionModel._from_config(config.vision_config)
        self.post_init()
