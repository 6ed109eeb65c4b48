# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv2 with registers with frequency-aware token reduction: registers stand behind CLS."""

from typing import ClassVar

from torch import nn
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersEmbeddings,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    Dinov2WithRegistersPreTrainedModel,
)

from .backbone import ReductionBackbone
from .configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATRDinov2WithRegistersPreTrainedModel(ReductionModel, Dinov2WithRegistersPreTrainedModel):
    """What DINOv2 with registers's encoder, classifier and backbone share."""

    config_class = FATRDinov2WithRegistersConfig
    config: FATRDinov2WithRegistersConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRDinov2WithRegistersModel",
        "AutoModelForImageClassification": "FATRDinov2WithRegistersForImageClassification",
        "AutoBackbone": "FATRDinov2WithRegistersBackbone",
    }
    position_table = "embeddings.position_embeddings"
    position_antialias = True
    _no_split_modules = ["Dinov2WithRegistersEmbeddings", "FATRLayer"]


class FATRDinov2WithRegistersModel(FATRDinov2WithRegistersPreTrainedModel, ReductionEncoder, Dinov2WithRegistersModel):
    """The encoder: ``Dinov2WithRegistersModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRDinov2WithRegistersConfig):
        super(Dinov2WithRegistersModel, self).__init__(config)
        self.embeddings = Dinov2WithRegistersEmbeddings(config)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()


class FATRDinov2WithRegistersForImageClassification(
    FATRDinov2WithRegistersPreTrainedModel, ReductionClassifier, Dinov2WithRegistersForImageClassification
):
    """``Dinov2WithRegistersForImageClassification`` with token reduction: CLS and the mean of the patches."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRDinov2WithRegistersConfig):
        super(Dinov2WithRegistersForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.dinov2_with_registers = FATRDinov2WithRegistersModel(config)
        self.classifier = linear_classifier(config)
        self.post_init()


class FATRDinov2WithRegistersBackbone(ReductionBackbone, FATRDinov2WithRegistersModel):
    """``Dinov2WithRegistersBackbone`` with token reduction: feature maps of the full grid."""

    config_class = FATRDinov2WithRegistersConfig
    _auto_class = "AutoBackbone"


register_names(FATRDinov2WithRegistersModel, FATRDinov2WithRegistersBackbone)
