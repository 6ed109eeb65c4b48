# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""OWLv2's vision tower with frequency-aware token reduction; its sequence comes back on the full grid of patches."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.owlv2.modeling_owlv2 import Owlv2PreTrainedModel, Owlv2VisionEmbeddings, Owlv2VisionModel

from .configuration_fatr_owlv2_vision_model import FATROwlv2VisionConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout


class FATROwlv2VisionPreTrainedModel(ReductionModel, Owlv2PreTrainedModel):
    """What the tower is loaded and saved by."""

    config_class = FATROwlv2VisionConfig
    config: FATROwlv2VisionConfig  # type: ignore[assignment]  # stock's is a whole OWLv2's
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATROwlv2VisionModel"}
    position_table = "embeddings.position_embedding.weight"
    _no_split_modules = ["Owlv2VisionEmbeddings", "FATRLayer"]


class FATROwlv2VisionModel(FATROwlv2VisionPreTrainedModel, ReductionEncoder, Owlv2VisionModel):
    """The tower: ``Owlv2VisionModel`` with token reduction, every patch of whose output is a query for a box."""

    config: FATROwlv2VisionConfig
    _auto_class = "AutoModel"

    def __init__(self, config: FATROwlv2VisionConfig):
        super(Owlv2VisionModel, self).__init__(config)
        self.embeddings = Owlv2VisionEmbeddings(config)
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

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The tokens as they leave the last layer."""
        return hidden_states

    def pool(self, sequence: Tensor, layout: TokenLayout) -> Tensor:
        """The norm of CLS."""
        return self.post_layernorm(sequence[:, 0])


register_names(FATROwlv2VisionModel)
