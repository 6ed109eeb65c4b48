# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""YOLOS with frequency-aware token reduction: objects are read off detection tokens, which are never reduced.

Inside, the detection tokens stand behind CLS, before the patches; what comes out is in stock's order, where they are
the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.yolos.modeling_yolos import (
    YolosEmbeddings,
    YolosForObjectDetection,
    YolosMLPPredictionHead,
    YolosModel,
    YolosObjectDetectionOutput,
    YolosPooler,
    YolosPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from .configuration_fatr_yolos import FATRYolosConfig
from .encoder import build_layers
from .patch_embedding import stretch_positions, use_products
from .reduction_classifier import asks_for_more
from .reduction_model import FATRModelOutput, ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_plan import LayerPlan


@dataclass
class FATRYolosObjectDetectionOutput(YolosObjectDetectionOutput):
    """A stock detector's output and, where asked for, ``token_sources`` (see ``FATRModelOutput``)."""

    token_sources: tuple[Tensor, ...] | None = None


class FATRYolosPreTrainedModel(ReductionModel, YolosPreTrainedModel):
    """What YOLOS' encoder and detector share."""

    config_class = FATRYolosConfig
    config: FATRYolosConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRYolosModel",
        "AutoModelForObjectDetection": "FATRYolosForObjectDetection",
    }
    _no_split_modules = ["YolosEmbeddings", "FATRLayer"]


class FATRYolosModel(FATRYolosPreTrainedModel, ReductionEncoder, YolosModel):
    """The encoder: ``YolosModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRYolosConfig, add_pooling_layer: bool = True):
        super(YolosModel, self).__init__(config)
        self.embeddings = YolosEmbeddings(config)
        use_products(self.embeddings)
        tokens = config.num_prefix_tokens + math.prod(config.patch_grid())
        table = torch.zeros(config.num_hidden_layers - 1, 1, tokens, config.hidden_size)
        self.mid_position_embeddings = nn.Parameter(table) if config.use_mid_position_embeddings else None
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = YolosPooler(config) if add_pooling_layer else None
        self.post_init()

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The sequence (batch, 1 + detection tokens + patches, hidden) that enters the first layer."""
        return detection_early(self.embeddings(pixel_values), self.config.num_detection_tokens)

    def added_positions(self, pixel_values: Tensor) -> Tensor | None:
        """What tokens get between layers, (layers - 1, 1 + detection tokens + patches, hidden)."""
        if self.mid_position_embeddings is None:
            return None
        tables = detection_early(self.mid_position_embeddings.squeeze(1), self.config.num_detection_tokens)
        return stretch_positions(tables, self.config.patch_grid(), self.config.patch_grid(pixel_values.shape[-2:]))

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> FATRModelOutput:
        """Encodes images of any size, as ``ReductionEncoder.forward`` says; gives tokens in stock's order."""
        outputs: Any = super().forward(pixel_values, return_dict=True, **kwargs)
        count = self.config.num_detection_tokens
        outputs.last_hidden_state = detection_last(outputs.last_hidden_state, count, 1)
        outputs.hidden_states = tuple(detection_last(each, count, 1) for each in outputs.hidden_states or ()) or None
        outputs.attentions = tuple(detection_last(each, count, 2, 3) for each in outputs.attentions or ()) or None
        sources = outputs.token_sources or ()
        outputs.token_sources = tuple(each.where(each < 0, each - count) for each in sources) or None
        outputs.token_sizes = detection_last(outputs.token_sizes, count, 1)
        return outputs


class FATRYolosForObjectDetection(FATRYolosPreTrainedModel, YolosForObjectDetection):
    """``YolosForObjectDetection`` with token reduction: a class and a box off every detection token."""

    _auto_class = "AutoModelForObjectDetection"

    def __init__(self, config: FATRYolosConfig):
        super(YolosForObjectDetection, self).__init__(config)
        self.vit = FATRYolosModel(config, add_pooling_layer=False)
        hidden, classes = config.hidden_size, (config.num_labels or 0) + 1  # the last is no object
        self.class_labels_classifier = YolosMLPPredictionHead(hidden, hidden, classes, num_layers=3)
        self.bbox_predictor = YolosMLPPredictionHead(hidden, hidden, 4, num_layers=3)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: list[dict[str, Tensor]] | None = None,
        plan: Sequence[LayerPlan] | None = None,
        output_token_sources: bool = False,
        **kwargs: Any,
    ) -> FATRYolosObjectDetectionOutput:
        """Detects objects; arguments as for the encoder. A fused copy's last hidden state is what is read and CLS.

        Args:
            labels: of each image ``class_labels`` (objects,) int64 and ``boxes`` (objects, 4), centre, width and height
                as shares of the image's, for the loss.
        """
        plan = self.plan_for(pixel_values, plan)
        asked = {"output_token_sources": output_token_sources, **kwargs}
        if not asks_for_more(self.config, asked):
            plan[-1] = plan[-1]._replace(prefix_only=True)
        outputs = self.vit(pixel_values, plan=plan, return_dict=True, **asked)
        detected = outputs.last_hidden_state[:, -self.config.num_detection_tokens :]
        logits, boxes = self.class_labels_classifier(detected), self.bbox_predictor(detected).sigmoid()
        loss, losses = None, None
        if labels is not None:
            loss, losses, _ = self.loss_function(logits, labels, self.device, boxes, self.config)
        return FATRYolosObjectDetectionOutput(loss=loss, loss_dict=losses, logits=logits, pred_boxes=boxes, **outputs)


def detection_early(tokens: Tensor, count: int) -> Tensor:
    """Moves the last ``count`` of (..., tokens, hidden) behind the first."""
    return torch.cat([tokens[..., :1, :], tokens[..., -count:, :], tokens[..., 1:-count, :]], dim=-2)


def detection_last(tensor: Any, count: int, *dims: int) -> Any:
    """Moves the ``count`` tokens behind the first to the end, along dimensions of a tensor; None stays None."""
    for dim in dims if tensor is not None else ():
        first, detection, others = tensor.split([1, count, tensor.shape[dim] - 1 - count], dim=dim)
        tensor = torch.cat([first, others, detection], dim=dim)
    return tensor


register_names(FATRYolosModel)
