# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv2 with frequency-aware token reduction: learned scales, and a gated MLP in the giant."""

from typing import ClassVar

from torch import nn
from transformers.models.dinov2.modeling_dinov2 import (
    Dinov2Embeddings,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2PreTrainedModel,
)

from .backbone import ReductionBackbone
from .configuration_fatr_dinov2 import FATRDinov2Config
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATRDinov2PreTrainedModel(ReductionModel, Dinov2PreTrainedModel):
    """What DINOv2's encoder, classifier and backbone share."""

    config_class = FATRDinov2Config
    config: FATRDinov2Config
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRDinov2Model",
        "AutoModelForImageClassification": "FATRDinov2ForImageClassification",
        "AutoBackbone": "FATRDinov2Backbone",
    }
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["Dinov2Embeddings", "FATRLayer"]


class FATRDinov2Model(FATRDinov2PreTrainedModel, ReductionEncoder, Dinov2Model):
    """The encoder: ``Dinov2Model`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRDinov2Config):
        super(Dinov2Model, self).__init__(config)
        self.embeddings = Dinov2Embeddings(config)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()


class FATRDinov2ForImageClassification(FATRDinov2PreTrainedModel, ReductionClassifier, Dinov2ForImageClassification):
    """``Dinov2ForImageClassification`` with token reduction: CLS and the mean of the patches."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRDinov2Config):
        super(Dinov2ForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.dinov2 = FATRDinov2Model(config)
        self.classifier = linear_classifier(config)
        self.post_init()


class FATRDinov2Backbone(ReductionBackbone, FATRDinov2Model):
    """``Dinov2Backbone`` with token reduction: feature maps of the full grid."""

    config_class = FATRDinov2Config
    _auto_class = "AutoBackbone"


register_names(FATRDinov2Model, FATRDinov2Backbone)
