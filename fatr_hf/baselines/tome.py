"""ToMe, token merging (arXiv 2210.09461): every layer merges its r most similar pairs of tokens.

Matching, order of tokens and size weighting are those of the authors' implementation. What differs is how it is
computed: similarities in float32 or better, proportional attention by further channels of queries and keys instead
of a mask, so that fused attention kernels serve, and merging by a small matrix product instead of scattered sums,
whose order of addition is not fixed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modeling.frequency_attention import Evidence
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan, per_layer
from ..modeling.token_reduction import TokenLayout, patch_sizes, regrouped, take_tokens, without_autocast
from .arguments import is_integer
from .methods import Method, plan_of_counts


@dataclass(frozen=True)
class ToMe(Method):
    """Token merging.

    Args:
        merges_per_layer: the paper's r, pairs of tokens that each layer merges: so many tokens fewer leave it. One
            value, or one for each layer. A layer merges at most half of its patch tokens, whatever the value.
        proportional_attention: whether the logarithm of a token's size is added to the attention logits towards it
            (equation 1).
    """

    merges_per_layer: int | Sequence[int] = 13
    proportional_attention: bool = True

    def check(self) -> None:
        """Raises a ValueError for numbers of merges that are none."""
        given = self.merges_per_layer
        for merges in given if isinstance(given, Sequence) else [given]:
            if not is_integer(merges) or merges < 0:
                raise ValueError(f"merges_per_layer={given!r} must be integers of at least 0; {merges!r} is not.")
        if not isinstance(self.proportional_attention, bool):
            raise ValueError(f"proportional_attention={self.proportional_attention!r} must be True or False.")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: another number of merges than layers.
        """
        depth, patches, counts = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), []
        for merges in per_layer("merges_per_layer", self.merges_per_layer, range(depth)):
            patches -= min(merges, patches // 2)
            counts.append(patches)
        exponent = 1.0 if self.proportional_attention else 0.0
        rules = [merge_similar] * depth
        return plan_of_counts(config, image_size, counts, rules, compares_keys=True, size_exponent=exponent)


def merge_similar(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan
) -> tuple[Tensor, TokenLayout]:
    """Merges as many pairs of patch tokens as there are too many; see ``LayerPlan.rule``."""
    assert evidence.keys is not None
    first = layout.num_prefix
    merged, unmerged, targets = match_tokens(evidence.keys[:, first:], step.patches_in - step.patches_out)
    reduced, sizes = merge_tokens(hidden_states, patch_sizes(layout), merged, unmerged, targets)
    set_b = torch.arange(0, step.patches_in, 2, device=merged.device).expand(len(merged), -1)
    chosen = torch.cat([unmerged, set_b], dim=1)
    places = torch.arange(step.patches_out, device=merged.device).expand(len(merged), -1)
    joined = torch.cat([places, unmerged.shape[1] + targets], dim=1)
    destinations = torch.empty_like(joined).scatter(1, torch.cat([chosen, merged], dim=1), joined)
    return reduced, regrouped(layout, destinations, chosen, sizes)


@torch.no_grad()
def match_tokens(metric: Tensor, merges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching (section 3): which patch tokens merge, and into which.

    The first, third, ... form set B, the others set A: with CLS, which never merges, in front of them A is every other
    token of the sequence. Each token of A draws an edge to the token of B with the highest cosine similarity; the
    ``merges`` highest edges merge. Of equal ones the first win.

    Args:
        metric: (batch, patch tokens, head_dim) in float32 or better.
        merges: at least 1, at most half the tokens.

    Returns:
        Places of the tokens of A that merge (batch, merges), and of those that do not, ascending
        (batch, A - merges); for each merging token the place of its target in set B (batch, merges). All int64.
    """
    directions = nn.functional.normalize(metric, dim=2)
    with without_autocast(metric.device):
        similarity = directions[:, 1::2] @ directions[:, ::2].transpose(1, 2)
    highest, nearest = similarity.max(dim=2)
    order = highest.argsort(dim=1, descending=True, stable=True)
    merged, unmerged = order[:, :merges], order[:, merges:].sort(dim=1).values
    return 2 * merged + 1, 2 * unmerged + 1, nearest.gather(1, merged)


def merge_tokens(
    hidden_states: Tensor, sizes: Tensor, merged: Tensor, unmerged: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Merges tokens by their mean, weighted by size: what is left of set A, then set B ("Tracking Token Size").

    A token into which none is merged stays as it is, bit for bit.

    Args:
        hidden_states: (batch, prefix + patch tokens, hidden).
        sizes: (batch, patch tokens) int64, patches behind each token.
        merged, unmerged, targets: as ``match_tokens`` returns them.

    Returns:
        The new sequence (batch, prefix + patch tokens - merges, hidden), and the sizes of its patch tokens
        (batch, patch tokens - merges).
    """
    prefix = hidden_states.shape[1] - sizes.shape[1]
    chosen = torch.cat([unmerged, merged], dim=1) + prefix
    leading = torch.arange(prefix, device=chosen.device).expand(len(chosen), -1)
    from_a = take_tokens(hidden_states, torch.cat([leading, chosen], dim=1))
    left, sources = from_a.split([prefix + unmerged.shape[1], merged.shape[1]], dim=1)
    set_b, dtype = hidden_states[:, prefix::2], torch.promote_types(hidden_states.dtype, torch.float32)
    old_sizes = sizes[:, ::2].to(dtype)
    places = torch.arange(old_sizes.shape[1], device=sizes.device)[:, None]
    weights = (targets[:, None, :] == places) * sizes.gather(1, merged).to(dtype)[:, None, :]
    new_sizes = old_sizes + weights.sum(dim=2)
    with without_autocast(sizes.device):
        added = (weights / new_sizes[:, :, None]) @ sources.to(dtype)
    means = torch.addcmul(added, set_b, (old_sizes / new_sizes)[:, :, None]).to(hidden_states.dtype)
    return torch.cat([left, means], dim=1), torch.cat([sizes.gather(1, unmerged), new_sizes.to(sizes.dtype)], dim=1)
