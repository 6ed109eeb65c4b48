# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole OWLv2 whose vision tower is reduced: objects by their names, or by a picture of one."""

from typing import ClassVar

from transformers.models.owlv2.modeling_owlv2 import Owlv2ForObjectDetection, Owlv2Model

from .composite_model import CompositeModel
from .configuration_fatr_owlv2 import FATROwlv2Config
from .modeling_fatr_owlv2_vision_model import FATROwlv2VisionModel


class FATROwlv2Repository(CompositeModel):
    """What the whole model and its detector are loaded and saved by."""

    config_class = FATROwlv2Config
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATROwlv2Model",
        "AutoModelForZeroShotObjectDetection": "FATROwlv2ForObjectDetection",
    }
    position_table = "vision_model.embeddings.position_embedding.weight"


class FATROwlv2Model(FATROwlv2Repository, Owlv2Model):
    """``Owlv2Model`` with a ``FATROwlv2VisionModel`` as ``vision_model``, which has the reduction's methods."""

    config: FATROwlv2Config  # type: ignore[assignment]
    _auto_class = "AutoModel"
    tower_name = "vision_model"

    def __init__(self, config: FATROwlv2Config):
        super().__init__(config)
        self.vision_model = FATROwlv2VisionModel._from_config(config.vision_config)
        self.post_init()


class FATROwlv2ForObjectDetection(FATROwlv2Repository, Owlv2ForObjectDetection):
    """``Owlv2ForObjectDetection`` with a ``FATROwlv2Model`` as ``owlv2``: a box for every patch of the full grid."""

    config: FATROwlv2Config  # type: ignore[assignment]
    _auto_class = "AutoModelForZeroShotObjectDetection"
    tower_name = "owlv2.vision_model"

    def __init__(self, config: FATROwlv2Config):
        super().__init__(config)
        self.owlv2 = FATROwlv2Model(config)
        self.post_init()
