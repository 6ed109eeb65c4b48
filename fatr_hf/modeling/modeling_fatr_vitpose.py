# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole ViTPose whose backbone is reduced: heat maps of a person's joints."""

from typing import ClassVar

from transformers.models.vitpose.modeling_vitpose import (
    VitPoseClassicDecoder,
    VitPoseForPoseEstimation,
    VitPoseSimpleDecoder,
)

from .composite_model import CompositeModel
from .configuration_fatr_vitpose import FATRVitPoseConfig
from .modeling_fatr_vitpose_backbone import FATRVitPoseBackbone


class FATRVitPoseForPoseEstimation(CompositeModel, VitPoseForPoseEstimation):
    """``VitPoseForPoseEstimation`` with a ``FATRVitPoseBackbone``, ``backbone``, which has the reduction's methods."""

    config_class = FATRVitPoseConfig
    config: FATRVitPoseConfig  # type: ignore[assignment]
    _auto_class = "AutoModelForPoseEstimation"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRVitPoseForPoseEstimation",
        "AutoModelForPoseEstimation": "FATRVitPoseForPoseEstimation",
    }
    tower_name = "backbone"
    position_table = "backbone.embeddings.position_embeddings"

    def __init__(self, config: FATRVitPoseConfig):
        super(VitPoseForPoseEstimation, self).__init__(config)
        self.backbone = FATRVitPoseBackbone._from_config(config.backbone_config)
        self.head = VitPoseSimpleDecoder(config) if config.use_simple_decoder else VitPoseClassicDecoder(config)
        self.post_init()
