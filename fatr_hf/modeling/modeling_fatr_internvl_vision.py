# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""InternVL's vision tower with frequency-aware token reduction: a CLS token, and learned scales of both branches."""

from typing import ClassVar

from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLVisionEmbeddings, InternVLVisionModel

from .configuration_fatr_internvl_vision import FATRInternVLVisionConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_model import ReductionEncoder
from .stock_names import register_names
from .token_reduction import TokenLayout


class FATRInternVLVisionModel(ReductionEncoder, InternVLVisionModel):
    """The tower: ``InternVLVisionModel`` with token reduction. Its last hidden state is the reduced sequence."""

    config_class = FATRInternVLVisionConfig
    config: FATRInternVLVisionConfig
    _auto_class = "AutoModel"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATRInternVLVisionModel"}
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["InternVLVisionEmbeddings", "FATRLayer"]
    layernorm: nn.Identity | nn.LayerNorm  # type: ignore[assignment]

    def __init__(self, config: FATRInternVLVisionConfig):
        super(InternVLVisionModel, self).__init__(config)
        self.embeddings = InternVLVisionEmbeddings(config)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm = nn.Identity() if config.use_mean_pooling else norm
        self.post_init()

    def pool(self, sequence: Tensor, layout: TokenLayout) -> None:
        """Nothing is pooled, as in stock."""


register_names(FATRInternVLVisionModel)
