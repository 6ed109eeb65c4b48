# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""SigLIP's vision tower with frequency-aware token reduction: no CLS, pooled by attention over the patches."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import (
    SiglipForImageClassification,
    SiglipMultiheadAttentionPoolingHead,
    SiglipPreTrainedModel,
    SiglipVisionEmbeddings,
    SiglipVisionModel,
)

from .configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout, token_sizes


class FATRSiglipPoolingHead(SiglipMultiheadAttentionPoolingHead):
    """Stock's pooling by attention, to which a token that stands for ``c`` patches counts as ``c`` tokens."""

    def forward(self, hidden_state: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The pooled image (batch, hidden) of (batch, tokens, hidden).

        The logits towards a token are raised by the logarithm of its size, so that this equals pooling of the restored
        grid; a token of size 0 is left out.

        Args:
            sizes: (batch, tokens), of ``token_sizes``; None where every token stands for one patch.
        """
        if sizes is None:
            return super().forward(hidden_state)
        mask = sizes.to(hidden_state.dtype).log()[:, None].repeat_interleave(self.attention.num_heads, dim=0)
        probe = self.probe.expand(hidden_state.shape[0], -1, -1)
        pooled = self.attention(probe, hidden_state, hidden_state, attn_mask=mask, need_weights=False)[0]
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


class FATRSiglipVisionPreTrainedModel(ReductionModel, SiglipPreTrainedModel):
    """What the tower and its classifier share."""

    config_class = FATRSiglipVisionConfig
    config: FATRSiglipVisionConfig  # type: ignore[assignment]  # stock's is a whole Siglip's
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRSiglipVisionModel",
        "AutoModelForImageClassification": "FATRSiglipForImageClassification",
    }
    position_table = "embeddings.position_embedding.weight"
    _no_split_modules = ["SiglipVisionEmbeddings", "FATRLayer", "FATRSiglipPoolingHead"]
    _keys_to_ignore_on_load_unexpected = [r"text_model\.", "logit_scale", "logit_bias", "position_ids"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Of a classifier stock reads the configuration of a whole SigLIP; its linear layer has its turn by itself.
        if not isinstance(module, SiglipForImageClassification):
            super()._init_weights(module)


class FATRSiglipVisionModel(FATRSiglipVisionPreTrainedModel, ReductionEncoder, SiglipVisionModel):
    """The tower: ``SiglipVisionModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRSiglipVisionConfig):
        super(SiglipVisionModel, self).__init__(config)
        self.embeddings = SiglipVisionEmbeddings(config)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.use_head = getattr(config, "vision_use_head", True)
        if self.use_head:
            self.head = FATRSiglipPoolingHead(config)
        self.post_init()

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Tensor:
        """The sequence (batch, patches, hidden) that enters the first layer; arguments as for ``forward``."""
        return self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The norm of all tokens."""
        return self.post_layernorm(hidden_states)

    def pool(self, sequence: Tensor, layout: TokenLayout) -> Tensor | None:
        """What attention pools from the tokens; None without a head."""
        return self.head(sequence, token_sizes(layout) if layout.is_reduced else None) if self.use_head else None


class FATRSiglipForImageClassification(
    FATRSiglipVisionPreTrainedModel, ReductionClassifier, SiglipForImageClassification
):
    """``SiglipForImageClassification`` with token reduction: a linear classifier on the mean of the patches."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRSiglipVisionConfig):
        super(SiglipForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vision_model = FATRSiglipVisionModel(config)
        self.classifier = linear_classifier(config)
        self.post_init()


register_names(FATRSiglipVisionModel)
