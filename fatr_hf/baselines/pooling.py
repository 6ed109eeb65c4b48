"""Average pooling: some layers shrink the grid of patches to a smaller one, whatever the image shows.

What a reduction gains without looking at the content, and the pooling of hierarchical transformers such as PiT
(arXiv 2103.16302), here without parameters. The tokens stay a regular grid. Windows are those of PyTorch's adaptive
average pooling; where one grid does not divide the other they overlap by a row or column. Tokens before the patches are
left as they are. On CUDA PyTorch has no deterministic gradient for this pooling, which
``use_deterministic_algorithms`` then refuses.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.reduction_config import ReductionConfig, as_pair
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import TokenLayout, patch_sizes, regrouped, window_indices
from .methods import LayerwiseMethod, plan_of_counts

Grid = tuple[int, ...]
"""Tokens along each axis: rows and columns, in a video frames before them."""


@dataclass(frozen=True)
class Pooling(LayerwiseMethod):
    """Average pooling of the grid.

    Args:
        reduction_layers, keep_ratio: see ``LayerwiseMethod``. The grid after a layer is that of ``pooled_grid`` for the
            product of all shares so far, so that rounding does not add up. A layer whose grid would not change stays
            an ordinary one.
        grids: the grid after each reduction layer, as rows and columns or one number for both; the ratio is then not
            read. No side grows; a grid beyond the image's own is that of the image.
    """

    grids: Sequence[int | Sequence[int]] | None = None

    def check(self) -> None:
        """Raises a ValueError for a field that is not allowed."""
        super().check()
        if self.grids is None:
            return
        if not isinstance(self.grids, Sequence):
            raise ValueError(f"grids={self.grids!r} must be a list with a grid for each reduction layer.")
        sides = [as_pair("grids", grid) for grid in self.grids]
        for before, after in itertools.pairwise(sides):
            if after[0] > before[0] or after[1] > before[1]:
                raise ValueError(f"grids={list(self.grids)}: no side may grow, as from {before} to {after}.")

    def grid_per_layer(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[Grid]:
        """The grid of patch tokens that leaves each layer; neither rows nor columns ever grow."""
        depth = config.num_hidden_layers
        ratios = self.ratios(depth)
        if self.grids is not None and len(self.grids) != len(ratios):
            raise ValueError(
                f"grids={list(self.grids)} has {len(self.grids)} entries: give one for each of the {len(ratios)} "
                "reduction layers."
            )
        full = grid = config.patch_grid(image_size)
        grids, share, step = [], 1.0, 0
        for layer in range(depth):
            if layer in ratios:
                share *= ratios[layer]
                given = pooled_grid(full, share) if self.grids is None else as_pair("grids", self.grids[step])
                if len(given) != len(grid):
                    raise ValueError(f"grids={self.grids} are rows and columns, and a video has frames too.")
                grid, step = tuple(map(min, zip(grid, given, strict=True))), step + 1
            grids.append(grid)
        return grids

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """See ``Method.plan``.

        Raises:
            ValueError: layers that the model does not have, or another number of grids.
        """
        after = self.grid_per_layer(config, image_size)
        before = [config.patch_grid(image_size), *after]
        rules = [partial(pool_grid, grid=grid, new_grid=new) for grid, new in zip(before, after, strict=False)]
        return plan_of_counts(config, image_size, [math.prod(grid) for grid in after], rules)


def pooled_grid(grid: Grid, share: float) -> Grid:
    """The grid of about ``share`` times as many tokens and about the same aspect.

    All sides are multiplied by the same root of ``share`` and rounded, each up or down to at least 1, in the way that
    brings the number of tokens closest to ``share`` times their number; of equals the closest aspect, then fewer rows.

    Args:
        grid: tokens along each axis.
        share: in (0, 1]; 1 gives the grid back.
    """
    sides = [side * share ** (1 / len(grid)) for side in grid]
    rounded = [(max(1, math.floor(side)), math.ceil(side)) for side in sides]
    target = share * math.prod(grid)
    pairs = list(itertools.combinations(range(len(grid)), 2))
    return min(
        itertools.product(*rounded),
        key=lambda new: (
            abs(math.prod(new) - target),
            sum(abs(new[one] * grid[other] - new[other] * grid[one]) for one, other in pairs),
        ),
    )


def pool_grid(
    hidden_states: Tensor, evidence: Any, layout: TokenLayout, step: LayerPlan, *, grid: Grid, new_grid: Grid
) -> tuple[Tensor, TokenLayout]:
    """Pools the patch tokens to a smaller grid: each new token is the mean over its window; see ``LayerPlan.rule``.

    Of a side with ``n`` tokens before and ``m`` after, window ``i`` covers ``floor(i n / m)`` to
    ``ceil((i + 1) n / m)``. Token ``floor(k m / n)`` stands for token ``k``, which windows beside it may cover too.
    """
    first, device = layout.num_prefix, hidden_states.device
    image = hidden_states[:, first:].transpose(1, 2).unflatten(2, grid)
    pool: Any = nn.functional.adaptive_avg_pool2d if len(grid) == 2 else nn.functional.adaptive_avg_pool3d
    pooled = pool(image, new_grid).flatten(2).transpose(1, 2)
    window = window_indices(grid, new_grid, device)
    cover = torch.ones(1, 1, dtype=torch.bool, device=device)
    for side, new in zip(grid, new_grid, strict=True):
        cover = (cover[:, None, :, None] & covered(side, new, device)[None, :, None, :]).flatten(2).flatten(0, 1)
    sizes = (cover * patch_sizes(layout)[:, None]).sum(dim=2)
    batch = len(hidden_states)
    chosen = cover.int().argmax(dim=1).expand(batch, -1)
    reduced = torch.cat([hidden_states[:, :first], pooled], dim=1)
    return reduced, regrouped(layout, window.expand(batch, -1), chosen, sizes)


def covered(side: int, new_side: int, device: torch.device) -> Tensor:
    """Which of ``side`` tokens each of ``new_side`` windows covers, (new_side, side) bool."""
    places, windows = torch.arange(side, device=device), torch.arange(new_side, device=device)[:, None]
    return (places >= windows * side // new_side) & (places * new_side < (windows + 1) * side)
