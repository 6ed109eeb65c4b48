# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""I-JEPA with frequency-aware token reduction: ViT without CLS, read out by the mean of its patches."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.ijepa.modeling_ijepa import (
    IJepaEmbeddings,
    IJepaForImageClassification,
    IJepaModel,
    IJepaPooler,
    IJepaPreTrainedModel,
)

from .configuration_fatr_ijepa import FATRIJepaConfig
from .encoder import Encoded, build_layers
from .patch_embedding import use_products
from .reduction_model import FATRModelOutput, ReductionClassifier, ReductionEncoder, ReductionModel, mean_of_patches
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

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The sequence (batch, patches, hidden) that enters the first layer; arguments as for ``forward``."""
        return self.embeddings(pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype), **kwargs)

    def read_out(self, encoded: Encoded) -> FATRModelOutput:
        """The norm of all tokens, and the pooler where there is one."""
        sequence = self.layernorm(encoded.hidden_states)
        pooled = None if self.pooler is None else self.pooler(sequence)
        return FATRModelOutput(last_hidden_state=sequence, pooler_output=pooled)


class FATRIJepaForImageClassification(FATRIJepaPreTrainedModel, ReductionClassifier, IJepaForImageClassification):
    """``IJepaForImageClassification`` with token reduction: a linear classifier on the mean of all patches."""

    _auto_class = "AutoModelForImageClassification"
    reads_prefix = False

    def __init__(self, config: FATRIJepaConfig):
        super(IJepaForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.ijepa = FATRIJepaModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def classify(self, outputs: FATRModelOutput) -> Tensor:
        """Logits (batch, classes) of the mean of all patches."""
        assert outputs.last_hidden_state is not None
        return self.classifier(mean_of_patches(outputs.last_hidden_state, outputs.token_sizes, num_prefix=0))


register_names(FATRIJepaModel)
