# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole OWL-ViT whose vision tower is reduced: objects by their names, or by a picture of one."""

from typing import ClassVar

from transformers.models.owlvit.modeling_owlvit import OwlViTForObjectDetection, OwlViTModel

from .composite_model import CompositeModel
from .configuration_fatr_owlvit import FATROwlViTConfig
from .modeling_fatr_owlvit_vision_model import FATROwlViTVisionModel


class FATROwlViTRepository(CompositeModel):
    """What the whole model and its detector are loaded and saved by."""

    config_class = FATROwlViTConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATROwlViTModel",
        "AutoModelForZeroShotObjectDetection": "FATROwlViTForObjectDetection",
    }
    position_table = "vision_model.embeddings.position_embedding.weight"


class FATROwlViTModel(FATROwlViTRepository, OwlViTModel):
    """``OwlViTModel`` with a ``FATROwlViTVisionModel`` as ``vision_model``, which has the reduction's methods."""

    config: FATROwlViTConfig  # type: ignore[assignment]
    _auto_class = "AutoModel"
    tower_name = "vision_model"

    def __init__(self, config: FATROwlViTConfig):
        super().__init__(config)
        self.vision_model = FATROwlViTVisionModel._from_config(config.vision_config)
        self.post_init()


class FATROwlViTForObjectDetection(FATROwlViTRepository, OwlViTForObjectDetection):
    """``OwlViTForObjectDetection`` with a ``FATROwlViTModel`` as ``owlvit``: a box for every patch of the full grid."""

    config: FATROwlViTConfig  # type: ignore[assignment]
    _auto_class = "AutoModelForZeroShotObjectDetection"
    tower_name = "owlvit.vision_model"

    def __init__(self, config: FATROwlViTConfig):
        super().__init__(config)
        self.owlvit = FATROwlViTModel(config)
        self.post_init()
