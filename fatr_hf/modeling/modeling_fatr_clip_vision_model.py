# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""CLIP's vision tower with frequency-aware token reduction; only the pooled CLS token is normed."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import (
    CLIPForImageClassification,
    CLIPPreTrainedModel,
    CLIPVisionEmbeddings,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from .configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout


class FATRCLIPVisionPreTrainedModel(ReductionModel, CLIPPreTrainedModel):
    """What the tower, its classifier and its projection share."""

    config_class = FATRCLIPVisionConfig
    config: FATRCLIPVisionConfig  # type: ignore[assignment]  # stock's is a whole CLIP's
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRCLIPVisionModel",
        "AutoModelForImageClassification": "FATRCLIPForImageClassification",
    }
    position_table = "embeddings.position_embedding.weight"
    _no_split_modules = ["CLIPVisionEmbeddings", "FATRLayer"]
    _keys_to_ignore_on_load_unexpected = [r"text_model\.", r"text_projection\.", "logit_scale", "position_ids"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Of a classifier stock reads the configuration of a whole CLIP; its linear layer has its turn by itself.
        if not isinstance(module, CLIPForImageClassification):
            super()._init_weights(module)


class FATRCLIPVisionModel(FATRCLIPVisionPreTrainedModel, ReductionEncoder, CLIPVisionModel):
    """The tower: ``CLIPVisionModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRCLIPVisionConfig):
        super(CLIPVisionModel, self).__init__(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        use_products(self.embeddings)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = build_layers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Tensor:
        """The sequence (batch, 1 + patches, hidden) that enters the first layer; arguments as for ``forward``."""
        return self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding))

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The tokens as they leave the last layer."""
        return hidden_states

    def pool(self, sequence: Tensor, layout: TokenLayout) -> Tensor:
        """The norm of CLS."""
        return self.post_layernorm(sequence[:, 0])


class FATRCLIPVisionModelWithProjection(FATRCLIPVisionPreTrainedModel, CLIPVisionModelWithProjection):
    """``CLIPVisionModelWithProjection`` with token reduction: the image's place beside texts."""

    def __init__(self, config: FATRCLIPVisionConfig):
        super(CLIPVisionModelWithProjection, self).__init__(config)
        self.vision_model = FATRCLIPVisionModel(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()


class FATRCLIPForImageClassification(FATRCLIPVisionPreTrainedModel, ReductionClassifier, CLIPForImageClassification):
    """``CLIPForImageClassification`` with token reduction: a linear classifier on the mean of the patches."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRCLIPVisionConfig):
        super(CLIPForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vision_model = FATRCLIPVisionModel(config)
        self.classifier = linear_classifier(config)
        self.post_init()


register_names(FATRCLIPVisionModel)
