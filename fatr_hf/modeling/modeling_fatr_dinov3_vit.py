# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv3 with frequency-aware token reduction: rotary positions, registers behind CLS."""

from typing import ClassVar

from torch import Tensor, nn
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTEmbeddings,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
    DINOv3ViTRopePositionEmbedding,
)

from .backbone import ReductionBackbone
from .configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig
from .encoder import Rows, build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATRDINOv3ViTPreTrainedModel(ReductionModel, DINOv3ViTPreTrainedModel):
    """What DINOv3's encoder, classifier and backbone share."""

    config_class = FATRDINOv3ViTConfig
    config: FATRDINOv3ViTConfig
    base_model_prefix = "dinov3_vit"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRDINOv3ViTModel",
        "AutoModelForImageClassification": "FATRDINOv3ViTForImageClassification",
        "AutoBackbone": "FATRDINOv3ViTBackbone",
    }
    _no_split_modules = ["DINOv3ViTEmbeddings", "FATRLayer"]


class FATRDINOv3ViTModel(FATRDINOv3ViTPreTrainedModel, ReductionEncoder, DINOv3ViTModel):
    """The encoder: ``DINOv3ViTModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRDINOv3ViTConfig):
        super(DINOv3ViTModel, self).__init__(config)
        self.embeddings = DINOv3ViTEmbeddings(config)
        use_products(self.embeddings)
        self.rope_embeddings = DINOv3ViTRopePositionEmbedding(config)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def rotary(self, pixel_values: Tensor) -> Rows:
        """Cosines and sines of every patch, (patches, head_dim) each; in training of shifted and stretched grids."""
        return self.rope_embeddings(pixel_values.to(self.embeddings.patch_embeddings.weight.dtype))


class FATRDINOv3ViTForImageClassification(FATRDINOv3ViTPreTrainedModel, ReductionClassifier):
    """DINOv3 with token reduction and a linear classifier on CLS and the mean of the patches, as DINOv2's.

    transformers has no classifier of DINOv3.
    """

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRDINOv3ViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.dinov3_vit = FATRDINOv3ViTModel(config)
        self.classifier = linear_classifier(config)
        self.post_init()


class FATRDINOv3ViTBackbone(ReductionBackbone, FATRDINOv3ViTModel):
    """``DINOv3ViTBackbone`` with token reduction: feature maps of the full grid."""

    config_class = FATRDINOv3ViTConfig
    _auto_class = "AutoBackbone"
    norms_last_stage = True


register_names(FATRDINOv3ViTModel, FATRDINOv3ViTBackbone)
