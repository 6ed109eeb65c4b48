# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""EoMT with frequency-aware token reduction: the encoder is the model, and masks are read off the full grid.

The queries join in front of the sequence before the last ``num_blocks`` layers; from there on they are part of the
prefix, which is never reduced.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.eomt.modeling_eomt import (
    EomtEmbeddings,
    EomtForUniversalSegmentation,
    EomtForUniversalSegmentationOutput,
    EomtLoss,
    EomtMaskHead,
    EomtPreTrainedModel,
    EomtScaleBlock,
)
from transformers.utils.generic import can_return_tuple

from .configuration_fatr_eomt import FATREomtConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .positions import Joining, Positions
from .reduction_model import ReductionEncoder, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout


@dataclass
class FATREomtForUniversalSegmentationOutput(EomtForUniversalSegmentationOutput):
    """Stock's output and, where asked for, ``token_sources``: places in the sequence that leaves each reduction."""

    token_sources: tuple[Tensor, ...] | None = None


class FATREomtPreTrainedModel(ReductionModel, EomtPreTrainedModel):
    """What the model is loaded and saved by."""

    config_class = FATREomtConfig
    config: FATREomtConfig
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForUniversalSegmentation": "FATREomtForUniversalSegmentation"}
    position_table = "embeddings.position_embeddings.weight"
    _no_split_modules = ["EomtEmbeddings", "FATRLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EomtForUniversalSegmentation):
            init.zeros_(module.attn_mask_probs)


class FATREomtForUniversalSegmentation(FATREomtPreTrainedModel, ReductionEncoder, EomtForUniversalSegmentation):
    """``EomtForUniversalSegmentation`` with token reduction: a class and a mask off every query."""

    _auto_class = "AutoModelForUniversalSegmentation"

    def __init__(self, config: FATREomtConfig):
        super(EomtForUniversalSegmentation, self).__init__(config)
        self.embeddings = EomtEmbeddings(config)
        use_products(self.embeddings)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        self.layers = build_layers(config)
        self.upscale_block = EomtScaleBlock(config)
        self.mask_head = EomtMaskHead(config)
        self.class_predictor = nn.Linear(config.hidden_size, (config.num_labels or 0) + 1)
        rows, columns = config.patch_grid()
        self.grid_size = (rows, columns)
        losses = (config.class_weight, config.mask_weight, config.dice_weight)
        self.weight_dict = dict(zip(("loss_cross_entropy", "loss_mask", "loss_dice"), losses, strict=True))
        self.criterion = EomtLoss(config=config, weight_dict=self.weight_dict)
        self.attn_mask_probs = nn.Buffer(torch.zeros(config.num_blocks))
        self.post_init()

    def start(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, TokenLayout, Positions]:
        """The embedded images, their layout and the queries that are to join.

        Raises:
            ValueError: images of another size than the configured one.
        """
        if self.config.patch_grid(pixel_values.shape[-2:]) != self.grid_size:
            raise ValueError(
                f"Images of {tuple(pixel_values.shape[-2:])} pixels cannot be taken: image_size="
                f"{self.config.image_size}. Load the model with another image_size to stretch its positions."
            )
        hidden_states, layout, positions = super().start(pixel_values)
        joining = Joining(len(self.layers) - self.config.num_blocks, self.query.weight)
        return hidden_states, layout, positions._replace(joining=joining)

    def pool(self, sequence: Tensor, layout: TokenLayout) -> None:
        """Nothing is pooled."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        patch_offsets: list[Tensor] | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> FATREomtForUniversalSegmentationOutput:
        """Segments images; further arguments as for ``ReductionEncoder.forward``.

        Args:
            mask_labels: of each image (objects, height, width), for the loss; in training it is that of the
                predictions before each of the last blocks, too.
            class_labels: of each image (objects,) int64.
            patch_offsets: given back, for the processor.

        Raises:
            ValueError: as for encoders, and where attention is to be masked.
        """
        check_no_masked_attention(self.attn_mask_probs)
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded: Any = super().forward(
            pixel_values, output_hidden_states=bool(asked) or self.training, return_dict=True, **kwargs
        )
        predictions = []
        if self.training:
            predictions = [self.predict(self.layernorm(each)) for each in self.block_states(encoded.hidden_states)]
        predictions.append(self.predict(encoded.last_hidden_state))
        loss: Any = None
        if mask_labels is not None and class_labels is not None:
            labels: Any = {"mask_labels": mask_labels, "class_labels": class_labels, "auxiliary_predictions": {}}
            losses: list[Any] = [self.get_loss(self.get_loss_dict(*each, **labels)) for each in predictions]
            loss = sum(losses)
        masks, classes = predictions[-1]
        states: Any = (*encoded.hidden_states[:-1], encoded.last_hidden_state) if asked else None
        return FATREomtForUniversalSegmentationOutput(
            loss=loss,
            masks_queries_logits=masks,
            class_queries_logits=classes,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=states,
            attentions=encoded.attentions,
            patch_offsets=patch_offsets,
            token_sources=encoded.token_sources,
        )

    def block_states(self, states: tuple[Tensor, ...]) -> list[Tensor]:
        """What enters the last blocks, on the full grid, by all hidden states: the first before the queries join."""
        first = len(self.layers) - self.config.num_blocks
        queries = self.query.weight.expand(states[first].shape[0], -1, -1)
        return [torch.cat([queries, states[first]], dim=1), *states[first + 1 : -1]]


def check_no_masked_attention(probabilities: Tensor) -> None:
    """Raises a ValueError where queries are to attend to their own masks alone; a compiled model does not look."""
    if torch.compiler.is_compiling() or probabilities.is_meta:
        return
    if probabilities.gt(0).any():
        raise ValueError(
            f"attn_mask_probs={probabilities.tolist()} must be 0: masks that are predicted for every patch do not hold "
            "for a reduced sequence. Finish this stage of training with the stock model, or set the buffer to zeros."
        )


register_names(FATREomtForUniversalSegmentation)
