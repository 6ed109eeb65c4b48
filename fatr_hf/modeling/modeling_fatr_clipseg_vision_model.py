# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""CLIPSeg's vision tower with frequency-aware token reduction; its sequences come back on the full grid of patches."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.clipseg.modeling_clipseg import (
    CLIPSegPreTrainedModel,
    CLIPSegVisionEmbeddings,
    CLIPSegVisionModel,
)

from .configuration_fatr_clipseg_vision_model import FATRCLIPSegVisionConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout


class FATRCLIPSegVisionPreTrainedModel(ReductionModel, CLIPSegPreTrainedModel):
    """What the tower is loaded and saved by."""

    config_class = FATRCLIPSegVisionConfig
    config: FATRCLIPSegVisionConfig  # type: ignore[assignment]  # stock's is a whole CLIPSeg's
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATRCLIPSegVisionModel"}
    position_table = "embeddings.position_embedding.weight"
    _no_split_modules = ["CLIPSegVisionEmbeddings", "FATRLayer"]


class FATRCLIPSegVisionModel(FATRCLIPSegVisionPreTrainedModel, ReductionEncoder, CLIPSegVisionModel):
    """The tower: ``CLIPSegVisionModel`` with token reduction, several of whose hidden states a decoder reads."""

    config: FATRCLIPSegVisionConfig
    _auto_class = "AutoModel"

    def __init__(self, config: FATRCLIPSegVisionConfig):
        super(CLIPSegVisionModel, self).__init__(config)
        self.embeddings = CLIPSegVisionEmbeddings(config)
        use_products(self.embeddings)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = build_layers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The sequence (batch, 1 + patches, hidden) that enters the first layer, of images of any size."""
        return self.pre_layrnorm(self.embeddings(pixel_values))

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The tokens as they leave the last layer."""
        return hidden_states

    def pool(self, sequence: Tensor, layout: TokenLayout) -> Tensor:
        """The norm of CLS."""
        return self.post_layernorm(sequence[:, 0])


register_names(FATRCLIPSegVisionModel)
