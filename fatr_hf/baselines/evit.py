"""EViT (arXiv 2202.07800): keeps the tokens that CLS attends to most and fuses the others into one.

The arithmetic is that of the authors' implementation (evit.py of their repository). The fused token is the sum of
the inattentive tokens, each times its share of CLS's attention, as in the paper's formula; the shares are not divided
by their sum, so the fused token is smaller than an average. It stands last and is a candidate like any other in the
next reduction.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from ..modeling.token_plan import per_layer
from ..modeling.token_reduction import take_tokens, without_autocast
from .backbone import BaselineAttention, BaselineForImageClassification, BaselineLayer, BaselineModel
from .configuration import Grids, LayerwiseBaselineConfig


@strict
class EViTConfig(LayerwiseBaselineConfig):
    r"""Configuration of ``EViTForImageClassification``.

    Takes every argument of `ViTConfig` and:

    Args:
        reduction_layers (list[int], optional):
            0-based layers that reduce, strictly increasing. Defaults to a quarter, half and three quarters of the
            depth, the paper's choice for 12 layers.
        keep_ratio (float or list[float], defaults to 0.7):
            Share of the tokens beside CLS that a reduction layer keeps, in (0, 1], rounded up to whole tokens; one
            value, or one per reduction layer. 1 leaves that layer an ordinary one.
        fuse_inattentive (bool, defaults to True):
            Whether the other tokens are fused into one; otherwise they are dropped. A layer that would fuse a single
            token stays an ordinary one: its sequence would not be shorter.
    """

    model_type = "fatr_evit"

    fuse_inattentive: bool = True

    def tokens_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[int]:
        """Tokens that leave each layer, CLS and fused token included.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        layers = list(self.reduction_layers or ())
        ratios = dict(zip(layers, per_layer("keep_ratio", self.keep_ratio, layers), strict=True))
        tokens, counts = self.num_input_tokens(image_size), []
        for layer in range(self.num_hidden_layers):
            # 100 * 0.55 is 55.00000000000001 and means 55.
            kept = max(1, math.ceil((tokens - 1) * ratios.get(layer, 1) - 1e-9))
            tokens = min(tokens, 1 + kept + self.fuse_inattentive)
            counts.append(tokens)
        return counts


class EViTAttention(BaselineAttention):
    """Attention that, in a layer that reduces, also returns CLS's attention to every token."""

    def forward(
        self,
        hidden_states: Tensor,
        sizes: Tensor | None,
        reduces: bool,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As every rival's attention; the third is (batch, tokens), averaged over heads, without gradient."""
        selection = "cls_attention" if reduces else None
        output, result = self.attend(*self.project(hidden_states, num_queries), selection=selection, **kwargs)
        return output, result.weights, result.scores


class EViTLayer(BaselineLayer):
    """A layer that may reorganise its tokens: attentive ones stay, the others are fused or dropped."""

    attention_class = EViTAttention

    def __init__(self, config: EViTConfig):
        super().__init__(config)
        self.config = config

    def reduce(
        self, hidden_states: Tensor, evidence: Tensor | None, sizes: Tensor | None, tokens_out: int, grids: Grids
    ) -> tuple[Tensor, Tensor | None]:
        """Keeps as many tokens as leave room for CLS and the fused token; sizes are not tracked."""
        assert evidence is not None
        fuse = self.config.fuse_inattentive
        return reorganize_tokens(hidden_states, evidence, tokens_out - 1 - fuse, fuse), sizes


def reorganize_tokens(hidden_states: Tensor, cls_attention: Tensor, keep: int, fuse: bool) -> Tensor:
    """CLS, the ``keep`` tokens it attends to most in the order of the sequence and, if asked for, the others fused.

    The paper's "attentive token identification" and "inattentive token fusion" (section 3). Unlike in the authors'
    implementation the attention carries no gradient; the order of the tokens kept, there by attention, does not matter
    to any layer.

    Args:
        hidden_states: (batch, tokens, hidden), CLS first.
        cls_attention: (batch, tokens), each row of sum 1, without gradient.
        keep: tokens kept beside CLS, at least 1; of equal ones the first stay.

    Returns:
        (batch, 1 + keep, hidden), one token more if ``fuse``.
    """
    order = cls_attention[:, 1:].argsort(dim=1, descending=True, stable=True)
    kept = nn.functional.pad(order[:, :keep].sort(dim=1).values + 1, (1, 0))
    tokens = take_tokens(hidden_states, kept)
    if not fuse:
        return tokens
    shares = cls_attention.scatter(1, kept, 0.0)[:, None].to(hidden_states.dtype)
    with without_autocast(hidden_states.device):
        fused = shares @ hidden_states
    return torch.cat([tokens, fused], dim=1)


class EViTModel(BaselineModel):
    """The encoder: ``ViTModel`` with EViT's token reorganisation."""

    config_class = EViTConfig
    config: EViTConfig
    layer_class = EViTLayer
    _no_split_modules = ["BaselineEmbeddings", "EViTLayer"]


class EViTForImageClassification(BaselineForImageClassification):
    """``ViTForImageClassification`` with EViT's token reorganisation."""

    config_class = EViTConfig
    config: EViTConfig
    model_class = EViTModel


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("EViTModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
