# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""V-JEPA 2 with frequency-aware token reduction: rotary positions along three axes, pooled by attention.

There is the encoder and the classifier; the predictor, which asks for the dense grid, is stock's alone.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.vjepa2.modeling_vjepa2 import (
    VJEPA2Embeddings,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
    VJEPA2PreTrainedModel,
)

from .attentive_pooler import FATRVJEPA2AttentivePooler
from .configuration_fatr_vjepa2 import FATRVJEPA2Config
from .encoder import Rows, build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import FATRModelOutput, ReductionModel, sides_of
from .stock_names import register_names
from .token_reduction import TokenLayout
from .video_model import VideoEncoder


class FATRVJEPA2PreTrainedModel(ReductionModel, VJEPA2PreTrainedModel):
    """What V-JEPA 2's encoder and classifier share."""

    config_class = FATRVJEPA2Config
    config: FATRVJEPA2Config
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRVJEPA2Model",
        "AutoModelForVideoClassification": "FATRVJEPA2ForVideoClassification",
    }
    head_parts: ClassVar[tuple[str, ...]] = ("pooler",)
    _no_split_modules = ["VJEPA2Embeddings", "FATRLayer", "FATRVJEPA2AttentivePooler"]
    _keys_to_ignore_on_load_unexpected = [r"^(vjepa2\.)?predictor\."]


class FATRVJEPA2Model(FATRVJEPA2PreTrainedModel, VideoEncoder, VJEPA2Model):
    """The encoder: ``VJEPA2Model`` without predictor. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRVJEPA2Config):
        super(VJEPA2Model, self).__init__(config)
        self.embeddings = VJEPA2Embeddings(config, hidden_size=config.hidden_size)
        use_products(self.embeddings)
        self.layers = build_layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """What embeds patches."""
        return self.embeddings.patch_embeddings

    def rotary(self, pixel_values: Tensor) -> Rows:
        """Cosines and sines of every patch, (patches, head_dim) each: a third of the channels turns along each axis.

        The channels that are left over do not turn. As in stock, the angles of an axis are laid out one after the
        other, twice, while neighbouring channels are paired.
        """
        weight, grid = self.embeddings.patch_embeddings.proj.weight, self.config.patch_grid(sides_of(pixel_values))
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        width = 2 * (head_dim // 3 // 2)
        rates = 1 / 10000 ** (torch.arange(width // 2, dtype=weight.dtype, device=weight.device) / (width / 2))
        places = torch.cartesian_prod(*(torch.arange(length, device=weight.device) for length in grid))
        angles = (places[:, :, None] * rates).repeat(1, 1, 2).flatten(1)
        rest = (0, head_dim - 3 * width)
        cosines, sines = nn.functional.pad(angles.cos(), rest, value=1.0), nn.functional.pad(angles.sin(), rest)
        return cosines, sines

    def pool(self, sequence: Tensor, layout: TokenLayout) -> None:
        """Nothing is pooled."""

    def forward(
        self,
        pixel_values_videos: Tensor,
        context_mask: Any = None,
        target_mask: Any = None,
        skip_predictor: bool = True,
        **kwargs: Any,
    ) -> FATRModelOutput:
        """Encodes videos; further arguments as for ``ReductionEncoder.forward``.

        Args:
            pixel_values_videos: (batch, frames, channels, height, width).
            skip_predictor: True, since there is no predictor.

        Raises:
            ValueError: a call for the predictor, and as there.
        """
        if not skip_predictor or context_mask is not None or target_mask is not None:
            raise ValueError(
                "skip_predictor=False and masks are for the predictor, which needs the whole grid and is not part of "
                "this model: leave them out, or use the stock model."
            )
        return super().forward(pixel_values_videos, **kwargs)


class FATRVJEPA2ForVideoClassification(FATRVJEPA2PreTrainedModel, ReductionClassifier, VJEPA2ForVideoClassification):
    """``VJEPA2ForVideoClassification`` with token reduction: a linear classifier on what attention pools."""

    _auto_class = "AutoModelForVideoClassification"

    def __init__(self, config: FATRVJEPA2Config):
        super(VJEPA2ForVideoClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vjepa2 = FATRVJEPA2Model(config)
        self.pooler = FATRVJEPA2AttentivePooler(config)
        self.classifier = linear_classifier(config)  # type: ignore[assignment]  # none without classes
        self.post_init()

    def classified(self, outputs: FATRModelOutput) -> Tensor:
        """What attention pools, (batch, hidden)."""
        pooled: Tensor = self.pooler(outputs.last_hidden_state, outputs.token_sizes)
        return pooled

    def forward(self, pixel_values_videos: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """Classifies videos (batch, frames, channels, height, width); arguments as for ``ReductionClassifier``."""
        return super().forward(pixel_values_videos, labels=labels, **kwargs)


register_names(FATRVJEPA2Model)
