"""Prune, then merge, in the form of DiffRate (arXiv 2305.17997): the least attended tokens go, the next ones merge.

DiffRate learns how many tokens each layer prunes and merges, for every model and cost, with labelled images. Here
every layer but the first two takes the same share of its tokens, a part of them by pruning: its form, not its search.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..modeling.frequency_attention import Evidence
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import (
    TokenLayout,
    descending_order,
    join_tokens,
    patch_sizes,
    regrouped,
    take_tokens,
    without_autocast,
)
from .arguments import is_number
from .methods import Method, plan_of_counts

SPARED = 2
"""First layers that reduce nothing; DiffRate's schedules hardly touch them."""


@dataclass(frozen=True)
class PruneMerge(Method):
    """Pruning by the attention of CLS, then merging into the most similar token that is kept.

    Args:
        keep_ratio: share of its patch tokens that every layer but the first two keeps, in (0, 1].
        pruned_share: which part of the others is pruned; the rest merges.
    """

    keep_ratio: float = 0.9
    pruned_share: float = 0.5

    def check(self) -> None:
        """Raises a ValueError for shares out of range."""
        if not is_number(self.keep_ratio) or not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio={self.keep_ratio!r} must lie in (0, 1].")
        if not is_number(self.pruned_share) or not 0 <= self.pruned_share <= 1:
            raise ValueError(f"pruned_share={self.pruned_share!r} must lie in [0, 1].")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: a model without CLS.
        """
        if not config.num_prefix_tokens:
            raise ValueError(f"Pruning goes by the attention of CLS, which {config.model_type!r} does not have.")
        depth, patches, counts, rules = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), [], []
        for layer in range(depth):
            kept = patches if layer < SPARED else max(1, math.floor(patches * self.keep_ratio + 1e-9))
            rules.append(partial(prune_and_merge, pruned=math.floor((patches - kept) * self.pruned_share)))
            counts.append(kept)
            patches = kept
        return plan_of_counts(config, image_size, counts, rules, selection="cls_attention", size_exponent=1.0)


def prune_and_merge(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan, *, pruned: int
) -> tuple[Tensor, TokenLayout]:
    """Drops the ``pruned`` tokens that CLS attends to least and merges the next; see ``LayerPlan.rule``.

    Likeness is the cosine between the tokens themselves; means are weighted by size.
    """
    assert evidence.scores is not None
    first, keep = layout.num_prefix, step.patches_out
    order = descending_order(evidence.scores[:, first : first + step.patches_in])
    kept, merged = order[:, :keep].sort(dim=1).values, order[:, keep : step.patches_in - pruned]
    directions = nn.functional.normalize(hidden_states.detach().float(), dim=2)
    with without_autocast(directions.device):
        similarity = take_tokens(directions, first + merged) @ take_tokens(directions, first + kept).transpose(1, 2)
    targets = similarity.argmax(dim=2)
    reduced, sizes = join_tokens(hidden_states, patch_sizes(layout), first, kept, merged, targets)
    places = torch.arange(keep, device=kept.device).expand(len(kept), -1)
    destinations = torch.full_like(layout.positions, -1 - first).scatter(1, kept, places).scatter(1, merged, targets)
    return reduced, regrouped(layout, destinations, kept, sizes)
