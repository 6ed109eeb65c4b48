# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViViT (its model of joint space and time) with frequency-aware token reduction: a ViT of tubelets."""

from typing import ClassVar

from torch import nn
from transformers.models.vivit.modeling_vivit import (
    VivitEmbeddings,
    VivitForVideoClassification,
    VivitModel,
    VivitPooler,
    VivitPreTrainedModel,
)

from .configuration_fatr_vivit import FATRVivitConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionModel
from .stock_names import register_names
from .video_model import VideoEncoder


class FATRVivitPreTrainedModel(ReductionModel, VivitPreTrainedModel):
    """What ViViT's encoder and classifier share."""

    config_class = FATRVivitConfig
    config: FATRVivitConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRVivitModel",
        "AutoModelForVideoClassification": "FATRVivitForVideoClassification",
    }
    _no_split_modules = ["VivitEmbeddings", "FATRLayer"]


class FATRVivitModel(FATRVivitPreTrainedModel, VideoEncoder, VivitModel):
    """The encoder: ``VivitModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRVivitConfig, add_pooling_layer: bool = True):
        super(VivitModel, self).__init__(config)
        self.embeddings = VivitEmbeddings(config)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = VivitPooler(config) if add_pooling_layer else None
        self.post_init()


class FATRVivitForVideoClassification(FATRVivitPreTrainedModel, ReductionClassifier, VivitForVideoClassification):
    """``VivitForVideoClassification`` with token reduction: a linear classifier on the CLS token."""

    _auto_class = "AutoModelForVideoClassification"

    def __init__(self, config: FATRVivitConfig):
        super(VivitForVideoClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vivit = FATRVivitModel(config, add_pooling_layer=False)
        self.classifier = linear_classifier(config)
        self.post_init()


register_names(FATRVivitModel)
