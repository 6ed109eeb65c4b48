# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""DeiT with frequency-aware token reduction: ViT with a second token in front, which learned from a teacher."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from transformers.models.deit.modeling_deit import (
    DeiTEmbeddings,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    DeiTPooler,
    DeiTPreTrainedModel,
)

from .configuration_fatr_deit import FATRDeiTConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import FATRImageClassifierOutput, ReductionClassifier, linear_classifier
from .reduction_model import FATRModelOutput, ReductionEncoder, ReductionModel
from .stock_names import register_names


@dataclass
class FATRTwoTokenClassifierOutput(FATRImageClassifierOutput):
    """A classifier's output, with the logits of either token."""

    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None


class FATRDeiTPreTrainedModel(ReductionModel, DeiTPreTrainedModel):
    """What DeiT's encoder and classifiers share."""

    config_class = FATRDeiTConfig
    config: FATRDeiTConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRDeiTModel",
        "AutoModelForImageClassification": "FATRDeiTForImageClassification",
    }
    position_table = "embeddings.position_embeddings"
    _no_split_modules = ["DeiTEmbeddings", "FATRLayer"]


class FATRDeiTModel(FATRDeiTPreTrainedModel, ReductionEncoder, DeiTModel):
    """The encoder: ``DeiTModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRDeiTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super(DeiTModel, self).__init__(config)
        self.embeddings = DeiTEmbeddings(config, use_mask_token=use_mask_token)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = DeiTPooler(config) if add_pooling_layer else None
        self.post_init()


class FATRDeiTForImageClassification(FATRDeiTPreTrainedModel, ReductionClassifier, DeiTForImageClassification):
    """``DeiTForImageClassification`` with token reduction: a linear classifier on the CLS token."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRDeiTConfig):
        super(DeiTForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.deit = FATRDeiTModel(config, add_pooling_layer=False)
        self.classifier = linear_classifier(config)
        self.post_init()


class FATRDeiTForImageClassificationWithTeacher(
    FATRDeiTPreTrainedModel, ReductionClassifier, DeiTForImageClassificationWithTeacher
):
    """``DeiTForImageClassificationWithTeacher`` with token reduction: the mean of two classifiers."""

    _auto_class = "AutoModelForImageClassification"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRDeiTModel",
        "AutoModelForImageClassification": "FATRDeiTForImageClassificationWithTeacher",
    }
    output_class = FATRTwoTokenClassifierOutput

    def __init__(self, config: FATRDeiTConfig):
        super(DeiTForImageClassificationWithTeacher, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.deit = FATRDeiTModel(config, add_pooling_layer=False)
        for name in ("cls_classifier", "distillation_classifier"):
            self.add_module(name, linear_classifier(config))
        self.post_init()

    def classify(self, outputs: FATRModelOutput) -> Tensor:
        """Logits (batch, classes), the mean of those of CLS and of the distillation token."""
        both = self.further_outputs(outputs)
        return (both["cls_logits"] + both["distillation_logits"]) / 2

    def further_outputs(self, outputs: FATRModelOutput) -> dict[str, Tensor]:
        """The logits (batch, classes) of either token."""
        sequence = outputs.last_hidden_state
        assert sequence is not None
        return {
            "cls_logits": self.cls_classifier(sequence[:, 0]),
            "distillation_logits": self.distillation_classifier(sequence[:, 1]),
        }


register_names(FATRDeiTModel)
