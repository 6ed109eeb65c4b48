# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""I-JEPA with frequency-aware token reduction: ViT without CLS, read out by the mean of its patches."""

from typing import ClassVar

from torch import nn
from transformers.models.ijepa.modeling_ijepa import (
    IJepaEmbeddings,
    IJepaForImageClassification,
    IJepaModel,
    IJepaPooler,
    IJepaPreTrainedModel,
)

from .configuration_fatr_ijepa import FATRIJepaConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATRIJepaPreTrainedModel(ReductionModel, IJepaPreTrainedModel):
    """What I-JEPA's encoder and classifier share."""

    config_class = FATRIJepaConfig
    config: FATRIJepaConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRIJepaModel",
        "AutoModelForImageClassification": "FATRIJepaForImageClassification",
    }
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["IJepaEmbeddings", "FATRLayer"]


class FATRIJepaModel(FATRIJepaPreTrainedModel, ReductionEncoder, IJepaModel):
    """The encoder: ``IJepaModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRIJepaConfig, add_pooling_layer: bool = False, use_mask_token: bool = False):
        super(IJepaModel, self).__init__(config)
        self.embeddings = IJepaEmbeddings(config, use_mask_token=use_mask_token)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = IJepaPooler(config) if add_pooling_layer else None
        self.post_init()


class FATRIJepaForImageClassification(FATRIJepaPreTrainedModel, ReductionClassifier, IJepaForImageClassification):
    """``IJepaForImageClassification`` with token reduction: a linear classifier on the mean of all patches."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRIJepaConfig):
        super(IJepaForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.ijepa = FATRIJepaModel(config, add_pooling_layer=False)
        self.classifier = linear_classifier(config)
        self.post_init()


register_names(FATRIJepaModel)
