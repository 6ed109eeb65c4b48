# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViT with frequency-aware token reduction (arXiv 2511.21477).

A few layers score their tokens by the attention map's column means, keep the patches that carry high frequencies and
average the others into DC tokens, between attention and MLP. At the start of training nothing but the reduction differs
from the stock ViT.
"""

from typing import ClassVar

from torch import Tensor, nn
from transformers.models.vit.modeling_vit import (
    ViTEmbeddings,
    ViTForImageClassification,
    ViTModel,
    ViTPooler,
    ViTPreTrainedModel,
)

from .configuration_fatr_vit import FATRViTConfig
from .encoder import build_layers
from .patch_embedding import stretch_positions, use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATRViTEmbeddings(ViTEmbeddings):
    """Stock ViT's embeddings, by a matrix product; positions also stretch from and to grids that are not square."""

    def __init__(self, config: FATRViTConfig, use_mask_token: bool = False):
        super().__init__(config, use_mask_token=use_mask_token)
        self.config = config
        use_products(self)

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position embeddings for an image of ``height x width`` pixels, bicubic where its grid is another.

        Returns:
            (1, 1 + patches, hidden).
        """
        grid, new_grid = self.config.patch_grid(), self.config.patch_grid((height, width))
        return stretch_positions(self.position_embeddings, grid, new_grid)


class FATRViTPreTrainedModel(ReductionModel, ViTPreTrainedModel):
    """What ViT's encoder and classifier share."""

    config_class = FATRViTConfig
    config: FATRViTConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRViTModel",
        "AutoModelForImageClassification": "FATRViTForImageClassification",
    }
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["FATRViTEmbeddings", "FATRLayer"]


class FATRViTModel(FATRViTPreTrainedModel, ReductionEncoder, ViTModel):
    """The encoder: ``ViTModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super(ViTModel, self).__init__(config)
        self.embeddings = FATRViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()


class FATRViTForImageClassification(FATRViTPreTrainedModel, ReductionClassifier, ViTForImageClassification):
    """``ViTForImageClassification`` with token reduction: a linear classifier on the CLS token."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRViTConfig):
        super(ViTForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vit = FATRViTModel(config, add_pooling_layer=False)
        self.classifier = linear_classifier(config)
        self.post_init()


register_names(FATRViTModel)
