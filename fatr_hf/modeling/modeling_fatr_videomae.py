# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""VideoMAE with frequency-aware token reduction: patches of a few frames, fixed positions, no CLS."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.videomae.modeling_videomae import (
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VideoMAEPatchEmbeddings,
    VideoMAEPreTrainedModel,
)

from .configuration_fatr_videomae import FATRVideoMAEConfig
from .encoder import build_layers
from .patch_embedding import use_products
from .reduction_classifier import ReductionClassifier, linear_classifier
from .reduction_model import FATRModelOutput, ReductionModel
from .stock_names import register_names
from .token_reduction import TokenLayout
from .video_model import VideoEncoder


class FATRVideoMAEEmbeddings(nn.Module):
    """Stock's patches and positions; the positions are a buffer, which moves with the model and exports."""

    position_embeddings: Tensor

    def __init__(self, config: FATRVideoMAEConfig):
        super().__init__()
        self.patch_embeddings = VideoMAEPatchEmbeddings(config)
        use_products(self)
        positions = sinusoid_table(self.patch_embeddings.num_patches, config.hidden_size)
        self.register_buffer("position_embeddings", positions, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The patches (batch, patches, hidden) of (batch, frames, channels, height, width)."""
        embedded: Tensor = self.patch_embeddings(pixel_values)
        return embedded + self.position_embeddings.to(embedded.dtype)


def sinusoid_table(length: int, hidden_size: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions (1, length, hidden) in float32: sines in even channels, cosines in odd ones.

    The angle of place ``p`` in channel ``c`` is ``p / 10000 ** (2 * (c // 2) / hidden_size)``.
    """
    divisors = [10000.0 ** (2 * (channel // 2) / hidden_size) for channel in range(hidden_size)]
    places = torch.arange(length, dtype=torch.float64, device=device)[:, None]
    angles = places / torch.tensor(divisors, dtype=torch.float64, device=device)
    is_even = torch.arange(hidden_size, device=device) % 2 == 0
    return torch.where(is_even, angles.sin(), angles.cos())[None].to(torch.float32)


class FATRVideoMAEPreTrainedModel(ReductionModel, VideoMAEPreTrainedModel):
    """What VideoMAE's encoder and classifier share."""

    config_class = FATRVideoMAEConfig
    config: FATRVideoMAEConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRVideoMAEModel",
        "AutoModelForVideoClassification": "FATRVideoMAEForVideoClassification",
    }
    head_parts: ClassVar[tuple[str, ...]] = ("fc_norm",)
    _no_split_modules = ["FATRVideoMAEEmbeddings", "FATRLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^encoder_to_decoder\.", r"^mask_token$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FATRVideoMAEEmbeddings):
            table = module.position_embeddings
            init.copy_(table, sinusoid_table(table.shape[1], table.shape[2], table.device))


class FATRVideoMAEModel(FATRVideoMAEPreTrainedModel, VideoEncoder, VideoMAEModel):
    """The encoder: ``VideoMAEModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"
    layernorm: nn.LayerNorm | None  # type: ignore[assignment]

    def __init__(self, config: FATRVideoMAEConfig):
        super(VideoMAEModel, self).__init__(config)
        self.embeddings = FATRVideoMAEEmbeddings(config)
        self.layers = build_layers(config)
        norm = None if config.use_mean_pooling else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm = norm  # where patches are averaged, the classifier has the norm
        self.post_init()

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The layers' output, after the norm where the classifier has none."""
        return hidden_states if self.layernorm is None else self.layernorm(hidden_states)

    def pool(self, sequence: Tensor, layout: TokenLayout) -> None:
        """Nothing is pooled."""


class FATRVideoMAEForVideoClassification(
    FATRVideoMAEPreTrainedModel, ReductionClassifier, VideoMAEForVideoClassification
):
    """``VideoMAEForVideoClassification`` with token reduction: a norm and a linear classifier on the mean patch."""

    _auto_class = "AutoModelForVideoClassification"

    def __init__(self, config: FATRVideoMAEConfig):
        super(VideoMAEForVideoClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.videomae = FATRVideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size) if config.use_mean_pooling else None
        self.classifier = linear_classifier(config)
        self.post_init()

    def classified(self, outputs: FATRModelOutput) -> Tensor:
        """What is classified, (batch, hidden)."""
        pooled = super().classified(outputs)
        return pooled if self.fc_norm is None else self.fc_norm(pooled)


register_names(FATRVideoMAEModel)
