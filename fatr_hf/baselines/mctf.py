"""MCTF, multi-criteria token fusion (arXiv 2403.10030): alike, little attended and small tokens become one.

The three criteria, their temperatures, the matching both ways, the order of the tokens and the weights of the means are
those of the paper's method (section 3) and of the authors' code (mlvlab/MCTF, ``utils/mctf.py`` and the arguments in
its README). The paper fine-tunes with a consistency loss; here nothing is trained.

One thing differs, for all rivals reduce between attention and MLP. The authors fuse in front of a layer's attention, by
a map that this layer computes beforehand ("one-step-ahead attention", section 3), and then use that map, fused in rows
and columns, in place of a second one. Here they are fused behind the attention of the same layer: their informativeness
comes from the same map, which has by then acted on all of them. (Without one step ahead the authors' code fuses behind
the MLP.)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..modeling.frequency_attention import Evidence
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan, per_layer
from ..modeling.token_reduction import (
    TokenLayout,
    join_tokens,
    patch_sizes,
    regrouped,
    take_tokens,
    without_autocast,
)
from .arguments import is_integer, is_number
from .methods import Method, plan_of_counts


@dataclass(frozen=True)
class MCTF(Method):
    """Multi-criteria token fusion.

    Args:
        merges_per_layer: the paper's r, by how many tokens each layer shortens the sequence; at most half of its patch
            tokens. One value spares the first layer, as the authors do; a list has one for each layer.
        temperatures: of similarity, informativeness and size; each criterion is raised to one over its own, and 0
            leaves it out. The default is the README's.
        proportional_attention: whether the logarithm of a token's size is added to the attention logits towards it.
    """

    merges_per_layer: int | Sequence[int] = 16
    temperatures: Sequence[float] = (1, 20, 40)
    proportional_attention: bool = True

    def check(self) -> None:
        """Raises a ValueError for numbers of merges that are none, or temperatures that are not three."""
        given = self.merges_per_layer
        for merges in given if isinstance(given, Sequence) else [given]:
            if not is_integer(merges) or merges < 0:
                raise ValueError(f"merges_per_layer={given!r} must be integers of at least 0; {merges!r} is not.")
        temperatures = self.temperatures
        if (
            not isinstance(temperatures, Sequence)
            or len(temperatures) != 3
            or not all(is_number(each) and each >= 0 for each in temperatures)
        ):
            raise ValueError(f"temperatures={temperatures!r} must be three finite numbers of at least 0.")
        if not isinstance(self.proportional_attention, bool):
            raise ValueError(f"proportional_attention={self.proportional_attention!r} must be True or False.")

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: another number of merges than layers.
        """
        depth, patches, counts = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), []
        given = self.merges_per_layer
        steps = given if isinstance(given, Sequence) else [0, *[given] * (depth - 1)]
        for merges in per_layer("merges_per_layer", steps, range(depth)):
            patches -= min(merges, patches // 2)
            counts.append(patches)
        exponents = tuple(1 / each if each else 0.0 for each in self.temperatures)
        rules = [partial(fuse_tokens, exponents=exponents)] * depth
        exponent = 1.0 if self.proportional_attention else 0.0
        return plan_of_counts(config, image_size, counts, rules, selection="high_frequency", size_exponent=exponent)


def fuse_tokens(
    hidden_states: Tensor, evidence: Evidence, layout: TokenLayout, step: LayerPlan, *, exponents: Sequence[float]
) -> tuple[Tensor, TokenLayout]:
    """Fuses as many pairs as there are too many tokens, both ways; see ``LayerPlan.rule``.

    A fused token is the mean of its tokens, each weighted by informativeness times size ("attentive" pooling).
    """
    assert evidence.scores is not None
    first, sizes = layout.num_prefix, patch_sizes(layout)
    informativeness = evidence.scores[:, first:]
    informativeness = informativeness.clamp(min=torch.finfo(informativeness.dtype).tiny)
    attraction = log_attraction(hidden_states[:, first:], informativeness, sizes, exponents)
    kept, folded, slots = match_both_ways(attraction, step.patches_in - step.patches_out)
    reduced, _ = join_tokens(hidden_states, informativeness * sizes, first, kept, folded, slots)
    places = torch.arange(step.patches_out, device=kept.device).expand(len(kept), -1)
    destinations = torch.empty_like(sizes).scatter(1, torch.cat([kept, folded], dim=1), torch.cat([places, slots], 1))
    new_sizes = torch.zeros_like(places).scatter_add(1, destinations, sizes)
    return reduced, regrouped(layout, destinations, kept, new_sizes)


@torch.no_grad()
def log_attraction(tokens: Tensor, informativeness: Tensor, sizes: Tensor, exponents: Sequence[float]) -> Tensor:
    """The logarithm of how strongly tokens of sets A and B attract each other (section 3).

    ``((1 + cos) / 2)^e0 * (1 / (a_i a_j))^e1 * (1 / (s_i s_j))^e2``, with the cosine between the tokens themselves. The
    logarithm orders pairs alike, and small factors do not underflow in it.

    Args:
        tokens: (batch, patch tokens, hidden). The first, third, ... are set B, the others set A.
        informativeness: (batch, patch tokens) in float32 or better, above 0: what attention each token gets.
        sizes: (batch, patch tokens) int64.

    Returns:
        (batch, A, B) in float32 or better.
    """
    dtype = informativeness.dtype
    directions = nn.functional.normalize(tokens.to(dtype), dim=2)
    with without_autocast(tokens.device):
        cosines = directions[:, 1::2] @ directions[:, ::2].transpose(1, 2)
    similarity = ((1 + cosines) / 2).clamp(min=torch.finfo(dtype).tiny).log()
    weights = exponents[1] * informativeness.log() + exponents[2] * sizes.to(dtype).log()
    return exponents[0] * similarity - weights[:, 1::2, None] - weights[:, None, ::2]


@torch.no_grad()
def match_both_ways(attraction: Tensor, merges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bidirectional bipartite soft matching (section 3): half of the pairs from A to B, the rest from B to A.

    Each token of A draws an edge to the token of B that attracts it most, and the strongest ``merges // 2`` merge.
    Then each token of B, those that have just grown included, draws one to what is left of A. Of equal edges the first
    win.

    Args:
        attraction: (batch, A, B), of ``log_attraction``.
        merges: from 1 to the number of tokens in A.

    Returns:
        Places among the patch tokens of those that stay (batch, stay), what is left of A in order and then of B, the
        strongest edge first, as in the authors' code, and of those that merge (batch, merges); for each of the latter
        which of the former it becomes part of (batch, merges). All int64.
    """
    forward = merges // 2
    highest, nearest = attraction.max(dim=2)
    order = highest.argsort(dim=1, descending=True, stable=True)
    from_a, left_a = order[:, :forward], order[:, forward:].sort(dim=1).values
    highest, backward = take_tokens(attraction, left_a).max(dim=1)
    order = highest.argsort(dim=1, descending=True, stable=True)
    from_b, left_b = order[:, : merges - forward], order[:, merges - forward :]
    behind_a = torch.arange(left_b.shape[1], device=order.device).expand_as(left_b) + left_a.shape[1]
    slots_of_b = backward.scatter(1, left_b, behind_a)
    slots = torch.cat([slots_of_b.gather(1, nearest.gather(1, from_a)), slots_of_b.gather(1, from_b)], dim=1)
    return torch.cat([2 * left_a + 1, 2 * left_b], dim=1), torch.cat([2 * from_a + 1, 2 * from_b], dim=1), slots
