"""Average pooling: some layers shrink the grid of patches to a smaller one, whatever the image shows.

What a reduction gains without looking at the content, and the pooling of hierarchical transformers such as PiT
(arXiv 2103.16302), here without parameters. The tokens stay a regular grid. Windows are those of PyTorch's adaptive
average pooling; where one grid does not divide the other they overlap by a row or column. CLS is left as it is.
On CUDA PyTorch has no deterministic gradient for this pooling, which ``use_deterministic_algorithms`` then refuses.
"""

import itertools
import math
from collections.abc import Iterable

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from ..modeling.token_plan import per_layer
from .backbone import BaselineForImageClassification, BaselineLayer, BaselineModel
from .configuration import Grids, LayerwiseBaselineConfig, as_pair

Grid = tuple[int, int]
"""Rows and columns of tokens."""


@strict
class PoolingConfig(LayerwiseBaselineConfig):
    r"""Configuration of ``PoolingForImageClassification``.

    Takes every argument of `ViTConfig` and:

    Args:
        reduction_layers (list[int], optional):
            0-based layers that pool, strictly increasing. Defaults to a quarter, half and three quarters of the depth.
        keep_ratio (float or list[float], defaults to 0.7):
            Share of the patch tokens that a reduction layer leaves, in (0, 1]; one value, or one per reduction layer.
            The grid after a layer is that of `pooled_grid` for the product of all shares so far, so that rounding
            does not add up. A layer whose grid would not change stays an ordinary one.
        grids (list[int] or list[tuple[int, int]], optional):
            The grid after each reduction layer, as rows and columns or one number for both, never more than before;
            `keep_ratio` is then not read.
    """

    model_type = "fatr_pooling"

    grids: list[int | list[int] | tuple[int, ...]] | tuple[int | list[int] | tuple[int, ...], ...] | None = None

    def input_grid(self, image_size: int | Iterable[int] | None = None) -> Grid:
        """Rows and columns of patches, for height and width in pixels (one number for both)."""
        height, width = as_pair("image_size", self.image_size if image_size is None else image_size)
        patch_height, patch_width = as_pair("patch_size", self.patch_size)
        return height // patch_height, width // patch_width

    def grid_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[Grid]:
        """The grid of patch tokens that leaves each layer; neither rows nor columns ever grow.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        layers = list(self.reduction_layers or ())
        ratios = per_layer("keep_ratio", self.keep_ratio, layers)
        full = grid = self.input_grid(image_size)
        grids = []
        for layer in range(self.num_hidden_layers):
            if layer in layers:
                step = layers.index(layer)
                given = None if self.grids is None else as_pair("grids", self.grids[step])
                rows, columns = given or pooled_grid(full, math.prod(ratios[: step + 1]))
                grid = (min(grid[0], rows), min(grid[1], columns))
            grids.append(grid)
        return grids

    def tokens_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[int]:
        """Tokens that leave each layer, CLS included.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        return [1 + rows * columns for rows, columns in self.grid_per_layer(image_size)]

    def token_grids(self, image_size: int | Iterable[int] | None = None) -> Grids:
        """The grid that a sequence of so many tokens is, CLS counted; sides never grow, so there is but one."""
        grids = [self.input_grid(image_size), *self.grid_per_layer(image_size)]
        return {1 + rows * columns: (rows, columns) for rows, columns in grids}

    def validate_grids(self) -> None:
        """Checks the grids (run by `@strict`)."""
        grids, layers = list(self.grids or ()), list(self.reduction_layers or ())
        if self.grids is not None and len(grids) != len(layers):
            raise ValueError(
                f"grids={grids} has {len(grids)} entries: give one for each of the {len(layers)} reduction layers "
                f"({layers})."
            )
        most = self.input_grid()
        for grid in grids:
            sides = [grid, grid] if isinstance(grid, int) else list(grid)
            if len(sides) != 2:
                raise ValueError(f"grids={grids} must be integers or pairs of rows and columns; {grid!r} is not.")
            if not all(1 <= side <= limit for side, limit in zip(sides, most, strict=True)):
                raise ValueError(
                    f"grids={grids} must have sides of at least 1 and at most the {most[0]} x {most[1]} tokens at "
                    f"hand there; {grid!r} has not."
                )
            most = (sides[0], sides[1])


def pooled_grid(grid: Grid, share: float) -> Grid:
    """The grid of about ``share`` times as many tokens and about the same aspect.

    Both sides are multiplied by the root of ``share`` and rounded, each up or down to at least 1, in the way that
    brings the number of tokens closest to ``share * rows * columns``; of equals the closer aspect, then fewer rows.

    Args:
        grid: rows and columns.
        share: in (0, 1]; 1 gives the grid back.
    """
    rows, columns = grid
    sides = [side * math.sqrt(share) for side in grid]
    rounded = [(max(1, math.floor(side)), math.ceil(side)) for side in sides]
    target = share * rows * columns
    return min(
        itertools.product(rounded[0], rounded[1]),
        key=lambda new: (abs(new[0] * new[1] - target), abs(new[0] * columns - new[1] * rows)),
    )


def pool_tokens(hidden_states: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """CLS, and the patch tokens pooled to a smaller grid: each new token is the mean over its window.

    Of a side with ``n`` tokens before and ``m`` after, window ``i`` covers ``floor(i n / m)`` to
    ``ceil((i + 1) n / m)``.

    Args:
        hidden_states: (batch, 1 + rows * columns, hidden), CLS first, then the patches row by row.

    Returns:
        (batch, 1 + new rows * new columns, hidden), in the same order and dtype.
    """
    image = hidden_states[:, 1:].transpose(1, 2).unflatten(2, grid)
    pooled = nn.functional.adaptive_avg_pool2d(image, new_grid).flatten(2).transpose(1, 2)
    return torch.cat([hidden_states[:, :1], pooled], dim=1)


class PoolingLayer(BaselineLayer):
    """A layer that may pool its grid of tokens; unlike other rivals' it has to be told the grids."""

    def reduce(
        self, hidden_states: Tensor, evidence: Tensor | None, sizes: Tensor | None, tokens_out: int, grids: Grids
    ) -> tuple[Tensor, Tensor | None]:
        """Pools to the grid that so many tokens have; sizes are not tracked."""
        assert grids is not None, "the encoder hands them to its layers"
        return pool_tokens(hidden_states, grids[hidden_states.shape[1]], grids[tokens_out]), sizes


class PoolingModel(BaselineModel):
    """The encoder: ``ViTModel`` with average pooling."""

    config_class = PoolingConfig
    config: PoolingConfig
    layer_class = PoolingLayer
    _no_split_modules = ["BaselineEmbeddings", "PoolingLayer"]


class PoolingForImageClassification(BaselineForImageClassification):
    """``ViTForImageClassification`` with average pooling."""

    config_class = PoolingConfig
    config: PoolingConfig
    model_class = PoolingModel


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("PoolingModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
