"""EViT (arXiv 2202.07800): keeps the tokens that CLS attends to most and fuses the others into one.

The arithmetic is that of the authors' implementation (evit.py of their repository). The fused token is the sum of
the inattentive tokens, each times its share of CLS's attention, as in the paper's formula; the shares are not divided
by their sum, so the fused token is smaller than an average. It stands last and is a candidate like any other in the
next reduction.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modeling.frequency_attention import Evidence
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import (
    TokenLayout,
    partition_tokens,
    patch_sizes,
    regrouped,
    take_tokens,
    without_autocast,
)
from .methods import LayerwiseMethod, plan_of_counts


@dataclass(frozen=True)
class EViT(LayerwiseMethod):
    """Token reorganisation, for models with CLS.

    Args:
        reduction_layers, keep_ratio: see ``LayerwiseMethod``; of the tokens that a layer keeps there are as many as the
            ratio gives, rounded up. The paper takes a quarter, half and three quarters of 12 layers.
        fuse_inattentive: whether the other tokens are fused into one; otherwise they are dropped. A layer that would
            fuse a single token stays an ordinary one: its sequence would not be shorter.
    """

    fuse_inattentive: bool = True

    def check(self) -> None:
        """Raises a ValueError for a field that is not allowed."""
        super().check()
        if not isinstance(self.fuse_inattentive, bool):
            raise ValueError(f"fuse_inattentive={self.fuse_inattentive!r} must be True or False.")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: a model without CLS, or layers that it does not have.
        """
        if not config.num_prefix_tokens:
            raise ValueError(f"EViT ranks tokens by the attention of CLS, which {config.model_type!r} does not have.")
        depth, patches, counts = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), []
        ratios = self.ratios(depth)
        for layer in range(depth):
            # 100 * 0.55 is 55.00000000000001 and means 55.
            kept = max(1, math.ceil(patches * ratios.get(layer, 1) - 1e-9))
            patches = min(patches, kept + self.fuse_inattentive)
            counts.append(patches)
        rule = keep_and_fuse if self.fuse_inattentive else keep_attentive
        return plan_of_counts(config, image_size, counts, [rule] * depth, selection="cls_attention")


def keep_attentive(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan
) -> tuple[Tensor, TokenLayout]:
    """Keeps the patch tokens that CLS attends to most, in the order of the sequence; see ``LayerPlan.rule``.

    The paper's "attentive token identification" (section 3). Unlike in the authors' implementation the attention
    carries no gradient; the order of the tokens kept, there by attention, does not matter to any layer.
    """
    assert evidence.scores is not None
    first = layout.num_prefix
    kept, _ = partition_tokens(evidence.scores[:, first:], step.patches_out)
    reduced = torch.cat([hidden_states[:, :first], take_tokens(hidden_states, first + kept)], dim=1)
    return reduced, layout._replace(positions=layout.positions.gather(1, kept))


def keep_and_fuse(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan
) -> tuple[Tensor, TokenLayout]:
    """``keep_attentive``, with the other tokens fused into a last one: "inattentive token fusion" (section 3)."""
    assert evidence.scores is not None
    first, keep = layout.num_prefix, step.patches_out - 1
    kept, others = partition_tokens(evidence.scores[:, first:], keep)
    tokens = take_tokens(hidden_states, first + others)
    shares = evidence.scores.gather(1, first + others)[:, None].to(hidden_states.dtype)
    with without_autocast(hidden_states.device):
        fused = shares @ tokens
    reduced = torch.cat([hidden_states[:, :first], take_tokens(hidden_states, first + kept), fused], dim=1)
    old_sizes = patch_sizes(layout)
    sizes = torch.cat([old_sizes.gather(1, kept), old_sizes.gather(1, others).sum(dim=1, keepdim=True)], dim=1)
    places = torch.arange(keep, device=kept.device).expand(len(kept), -1)
    destinations = torch.full_like(layout.positions, keep).scatter(1, kept, places)
    return reduced, regrouped(layout, destinations, torch.cat([kept, others[:, :1]], dim=1), sizes)
