"""Zero-TPrune (arXiv 2305.17328): tokens that important tokens attend to stay; of those that are alike, one goes.

A pruning layer has three stages, in the paper's order: I' ranks by a single vote; S drops those of the less important
half that are most like a token of the other; I ranks what is left by weighted PageRank over the attention map, and
keeps the first. From the paper, read in third parties' accounts of it (its authors' code was not found), come the step
``s <- A^T s``, taken 30 to 50 times in the first three of 12 layers, 5 to 10 times in the middle and once in the last
three; a start in which CLS weighs sqrt(N) times as much as any other token; the root mean square over heads, without
those whose scores vary by less than 0.01 or by more than 0.7; and the cosine between keys. Decided here:

- The numbers of steps are the lower ends of these ranges.
- Variances are those of the patch tokens' scores, scaled to a mean of 1. Of more than 100 scores that sum to 1, as the
  paper writes them, none could have a variance of 0.01; and among patches CLS would stand out by itself. Where no head
  passes, all count.
- Stage I starts anew, on the map among the tokens that are left, whose rows are made to sum to 1 again.
- Keys are averaged over heads, as for all rivals.
- Half of the tokens that go fall to stage S, and five layers prune to the same share. The paper's numbers for each
  layer could not be read.
"""

import math
from collections.abc import Iterable, Sequence
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
    partition_tokens,
    take_tokens,
    without_autocast,
)
from .arguments import is_integer, is_number
from .methods import LayerwiseMethod, plan_of_counts


@dataclass(frozen=True)
class ZeroTPrune(LayerwiseMethod):
    """Pruning by weighted PageRank and similarity. A model without CLS starts from equal weights.

    Args:
        reduction_layers, keep_ratio: see ``LayerwiseMethod``; a layer keeps the ratio rounded down, at least one token.
        similar_share: which part of the tokens that go is dropped for its likeness to others.
        steps: of PageRank in the first quarter of the layers, in the middle and in the last quarter.
        variances: the smallest and the largest variance of a head whose scores count.
    """

    keep_ratio: float | Sequence[float] = 0.85
    similar_share: float = 0.5
    steps: Sequence[int] = (30, 5, 1)
    variances: Sequence[float] = (0.01, 0.7)

    def check(self) -> None:
        """Raises a ValueError for a field that is not allowed."""
        super().check()
        if not is_number(self.similar_share) or not 0 <= self.similar_share <= 1:
            raise ValueError(f"similar_share={self.similar_share!r} must lie in [0, 1].")
        steps, variances = self.steps, self.variances
        if (
            not isinstance(steps, Sequence)
            or len(steps) != 3
            or not all(is_integer(each) and each >= 1 for each in steps)
        ):
            raise ValueError(f"steps={steps!r} must be three integers of at least 1.")
        if (
            not isinstance(variances, Sequence)
            or len(variances) != 2
            or not all(is_number(each) for each in variances)
            or not 0 <= variances[0] < variances[1]
        ):
            raise ValueError(f"variances={variances!r} must be two increasing numbers of at least 0.")

    def usual_layers(self, depth: int) -> Sequence[int]:
        """Of 12 layers 1, 3, 6, 9 and 11; of others those at the same shares of the depth."""
        return sorted({depth * place // 12 for place in (1, 3, 6, 9, 11)})

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: layers that the model does not have.
        """
        depth, patches, counts, rules = config.num_hidden_layers, math.prod(config.patch_grid(image_size)), [], []
        ratios = self.ratios(depth)
        for layer in range(depth):
            kept = max(1, math.floor(patches * ratios.get(layer, 1) + 1e-9))
            similar = min(math.floor((patches - kept) * self.similar_share), patches // 2)
            zone = (4 * layer >= depth) + (4 * layer >= 3 * depth)
            rules.append(partial(prune_tokens, similar=similar, steps=self.steps[zone], variances=self.variances))
            counts.append(kept)
            patches = kept
        return plan_of_counts(config, image_size, counts, rules, selection=attention_maps, compares_keys=True)


@torch.no_grad()
def attention_maps(query: Tensor, key: Tensor, scaling: float, known: Tensor | None) -> Tensor:
    """The map of every head, for ``LayerPlan.selection``: the known one, or one that is computed beside the output.

    Args:
        query, key: (batch, heads, tokens, head_dim).
        known: (batch, heads, tokens, tokens), where the attention function makes an exact one.

    Returns:
        (batch, heads, tokens, tokens) in float32 or better, without gradient.
    """
    if known is not None:
        return known
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        logits = query.to(dtype) @ key.to(dtype).transpose(2, 3) * scaling
    return logits.softmax(dim=3)


def prune_tokens(
    hidden_states: Tensor,
    evidence: Evidence,
    layout: TokenLayout,
    step: LayerPlan,
    *,
    similar: int,
    steps: int,
    variances: Sequence[float],
) -> tuple[Tensor, TokenLayout]:
    """Drops ``similar`` tokens that are like others, then those of least importance; see ``LayerPlan.rule``.

    Those that stay keep their order.
    """
    assert evidence.scores is not None
    assert evidence.keys is not None
    maps, first = evidence.scores, layout.num_prefix
    left = drop_similar(token_importance(maps, first, 1, variances), evidence.keys[:, first:], similar)
    scores = token_importance(map_among(maps, first, left), first, steps, variances)
    kept = left.gather(1, partition_tokens(scores, step.patches_out)[0])
    reduced = torch.cat([hidden_states[:, :first], take_tokens(hidden_states, first + kept)], dim=1)
    return reduced, layout._replace(positions=layout.positions.gather(1, kept))


def token_importance(maps: Tensor, num_prefix: int, steps: int, variances: Sequence[float]) -> Tensor:
    """Weighted PageRank, joined over heads (the I-stage, section 3).

    Args:
        maps: (batch, heads, tokens, tokens), rows sum to 1.
        num_prefix: tokens before the patches; the first of them is CLS.

    Returns:
        (batch, patch tokens).
    """
    votes = maps.new_ones(maps.shape[:3])
    if num_prefix:
        votes[:, :, 0] = math.sqrt(maps.shape[3])
    with without_autocast(maps.device):
        for _ in range(steps):
            votes = (maps.transpose(2, 3) @ votes[:, :, :, None]).squeeze(3)
    patches = votes[:, :, num_prefix:]
    spread = (patches / patches.mean(dim=2, keepdim=True)).var(dim=2, correction=0)
    counts = (spread >= variances[0]) & (spread <= variances[1])
    counts = (counts | ~counts.any(dim=1, keepdim=True)).to(maps.dtype)
    return ((patches.square() * counts[:, :, None]).sum(dim=1) / counts.sum(dim=1, keepdim=True)).sqrt()


def drop_similar(importance: Tensor, keys: Tensor, count: int) -> Tensor:
    """The S-stage (section 3): which patch tokens are left without ``count`` of the less important half.

    Those go whose cosine to their nearest token of the more important half, which is the larger, is highest.

    Args:
        importance: (batch, patch tokens).
        keys: (batch, patch tokens, head_dim) in float32 or better.

    Returns:
        (batch, patch tokens - count) int64, ascending.
    """
    order = descending_order(importance)
    half = order.shape[1] - order.shape[1] // 2
    important, lesser = order[:, :half], order[:, half:]
    directions = nn.functional.normalize(keys, dim=2)
    with without_autocast(keys.device):
        similarity = take_tokens(directions, lesser) @ take_tokens(directions, important).transpose(1, 2)
    unlike = lesser.gather(1, descending_order(similarity.amax(dim=2))[:, count:])
    return torch.cat([important, unlike], dim=1).sort(dim=1).values


def map_among(maps: Tensor, num_prefix: int, left: Tensor) -> Tensor:
    """The maps (batch, heads, left, left) among prefix and some patch tokens (batch, left); rows sum to 1 again."""
    prefix = torch.arange(num_prefix, device=left.device).expand(len(left), -1)
    tokens = torch.cat([prefix, num_prefix + left], dim=1)
    rows = maps.gather(2, tokens[:, None, :, None].expand(-1, maps.shape[1], -1, maps.shape[3]))
    among = rows.gather(3, tokens[:, None, None].expand(-1, maps.shape[1], tokens.shape[1], -1))
    return among / among.sum(dim=3, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
