# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""OWL-ViT's vision tower with frequency-aware token reduction; its sequence comes back on the full grid of patches."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.owlvit.modeling_owlvit import OwlViTPreTrainedModel, OwlViTVisionEmbeddings, OwlViTVisionModel

from .configuration_fatr_owlvit_vision_model import FATROwlViTVisionConfig
from .encoder import Encoded, build_layers
from .patch_embedding import use_products
from .reduction_model import FATRModelOutput, ReductionEncoder, ReductionModel
from .stock_names import register_names


class FATROwlViTVisionPreTrainedModel(ReductionModel, OwlViTPreTrainedModel):
    """What the tower is loaded and saved by."""

    config_class = FATROwlViTVisionConfig
    config: FATROwlViTVisionConfig  # type: ignore[assignment]  # stock's is a whole OWL-ViT's
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATROwlViTVisionModel"}
    position_table = "embeddings.position_embedding.weight"
    _no_split_modules = ["OwlViTVisionEmbeddings", "FATRLayer"]


class FATROwlViTVisionModel(FATROwlViTVisionPreTrainedModel, ReductionEncoder, OwlViTVisionModel):
    """The tower: ``OwlViTVisionModel`` with token reduction, every patch of whose output is a query for a box."""

    config: FATROwlViTVisionConfig
    _auto_class = "AutoModel"

    def __init__(self, config: FATROwlViTVisionConfig):
        super(OwlViTVisionModel, self).__init__(config)
        self.embeddings = OwlViTVisionEmbeddings(config)
        use_products(self.embeddings)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = build_layers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution over patches."""
        return self.embeddings.patch_embedding

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Tensor:
        """The sequence (batch, 1 + patches, hidden) that enters the first layer; arguments as for ``forward``."""
        return self.pre_layernorm(self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding))

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> FATRModelOutput:
        """Encodes images, as ``ReductionEncoder.forward`` says; gives all patches, (batch, 1 + patches, hidden)."""
        return super().forward(pixel_values, dense_stages=(self.config.num_hidden_layers,), **kwargs)

    def read_out(self, encoded: Encoded) -> FATRModelOutput:
        """CLS and every patch of the grid as they leave the last layer, and the norm of CLS."""
        (dense,) = encoded.dense
        return FATRModelOutput(last_hidden_state=dense, pooler_output=self.post_layernorm(dense[:, 0]))


register_names(FATROwlViTVisionModel)
