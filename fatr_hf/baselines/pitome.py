"""PiToMe (arXiv 2405.16148): tokens that resemble many others merge, tokens that resemble few are protected.

The energy of a token, the margin that falls with depth and the two ways to match are those of the authors'
implementation. Similarities are computed in float32 or better, and merging is a small matrix product.
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
from ..modeling.token_reduction import TokenLayout, join_tokens, patch_sizes, regrouped, without_autocast
from .arguments import is_number
from .methods import Method, plan_of_counts

LARGEST_MARGIN = 0.75
"""The margin in the first layer; it falls in equal steps, towards 0 behind the last."""


@dataclass(frozen=True)
class PiToMe(Method):
    """Energy-protecting token merging.

    Args:
        keep_ratio: share of its patch tokens that every layer keeps, in [0.5, 1].
        proportional_attention: whether the logarithm of a token's size is added to the attention logits towards it;
            off by default, as in the authors' code.
    """

    keep_ratio: float = 0.925
    proportional_attention: bool = False

    def check(self) -> None:
        """Raises a ValueError for a ratio outside of [0.5, 1]."""
        if not is_number(self.keep_ratio) or not 0.5 <= self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio={self.keep_ratio!r} must lie in [0.5, 1]: a layer merges pairs at most.")
        if not isinstance(self.proportional_attention, bool):
            raise ValueError(f"proportional_attention={self.proportional_attention!r} must be True or False.")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``."""
        depth, patches, counts, rules = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), [], []
        for layer in range(depth):
            patches -= min(math.floor(patches * (1 - self.keep_ratio) + 1e-9), patches // 2)
            counts.append(patches)
            margin = LARGEST_MARGIN * (1 - layer / depth)
            rules.append(partial(merge_redundant, margin=margin, protects=2 * layer >= depth))
        exponent = 1.0 if self.proportional_attention else 0.0
        return plan_of_counts(config, image_size, counts, rules, compares_keys=True, size_exponent=exponent)


def token_energies(similarity: Tensor, margin: float) -> Tensor:
    """How much each token resembles all: the mean of ``ELU(cosine - margin)``.

    Args:
        similarity: (batch, patch tokens, patch tokens), cosines between keys.

    Returns:
        (batch, patch tokens); high for redundant tokens.
    """
    return nn.functional.elu(similarity - margin).mean(dim=2)


def merge_redundant(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan, *, margin: float, protects: bool
) -> tuple[Tensor, TokenLayout]:
    """Merges as many pairs as there are too many tokens; see ``LayerPlan.rule``.

    Tokens are sorted by energy, and every second one is a source. In the first half of the layers the sources with the
    most similar targets merge, as in ToMe. In the second half (``protects``) only the most redundant take part, two for
    each pair, and all of their sources merge.
    """
    assert evidence.keys is not None
    merges = step.patches_in - step.patches_out
    directions = nn.functional.normalize(evidence.keys[:, layout.num_prefix :], dim=2)
    with without_autocast(directions.device):
        similarity = directions @ directions.transpose(1, 2)
    order = token_energies(similarity, margin).argsort(dim=1, descending=True, stable=True)
    if protects:
        order = order[:, : 2 * merges]
    sources, targets = order[:, ::2], order[:, 1::2]
    rows = similarity.gather(1, sources[:, :, None].expand(-1, -1, step.patches_in))
    highest, nearest = rows.gather(2, targets[:, None].expand(-1, sources.shape[1], -1)).max(dim=2)
    chosen = highest.argsort(dim=1, descending=True, stable=True)[:, :merges]
    merged, joined = sources.gather(1, chosen), targets.gather(1, nearest.gather(1, chosen))

    is_left = torch.ones_like(layout.positions, dtype=torch.bool).scatter(1, merged, False)
    ranks = is_left.cumsum(dim=1) - 1
    left = is_left.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : step.patches_out]
    slots = ranks.gather(1, joined)
    reduced, sizes = join_tokens(hidden_states, patch_sizes(layout), layout.num_prefix, left, merged, slots)
    return reduced, regrouped(layout, ranks.scatter(1, merged, slots), left, sizes)
