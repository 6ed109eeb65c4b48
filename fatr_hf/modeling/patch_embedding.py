# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Embedding of patches as one matrix product, and position tables for other grids of patches."""

from typing import Any

import torch
from torch import Tensor, nn


class PatchProjection(nn.Conv2d):
    """A convolution over patches that do not overlap, computed as one matrix product."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeds pixels (batch, channels, height, width) as (batch, hidden, rows, columns) of whole patches.

        Pixels of another dtype are brought to that of the weight.
        """
        return embed_patches(pixel_values, self.weight, self.bias)


class TubeletProjection(nn.Conv3d):
    """``PatchProjection`` for videos (batch, channels, frames, height, width)."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """As (batch, hidden, tubelets, rows, columns) of whole patches."""
        return embed_patches(pixel_values, self.weight, self.bias)


def embed_patches(pixel_values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Embeds patches along any number of axes by one matrix product.

    Args:
        pixel_values: (batch, channels, sides...), brought to the dtype of the weight.
        weight: (hidden, channels, sides of a patch...).
        bias: (hidden,).

    Returns:
        (batch, hidden, whole patches along each side...).
    """
    axes = weight.dim() - 2
    patch = weight.shape[2:]
    grid = [side // length for side, length in zip(pixel_values.shape[2:], patch, strict=True)]
    whole: list[Any] = [slice(count * length) for count, length in zip(grid, patch, strict=True)]
    patches = pixel_values[(..., *whole)].to(weight.dtype)
    for axis in reversed(range(axes)):
        patches = patches.unflatten(2 + axis, (grid[axis], patch[axis]))
    places, within = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    patches = patches.permute(0, *places, 1, *within)
    embedded = nn.functional.linear(patches.flatten(1 + axes).flatten(1, axes), weight.flatten(1), bias)
    return embedded.transpose(1, 2).unflatten(2, grid)


PROJECTIONS: dict[type, Any] = {nn.Conv2d: PatchProjection, nn.Conv3d: TubeletProjection}
"""By the class of a convolution what computes it as one product."""


def use_products(embeddings: nn.Module) -> None:
    """Puts one of ``PROJECTIONS`` in the place of every convolution over patches in newly built embeddings."""
    for name, module in list(embeddings.named_modules()):
        projection = PROJECTIONS.get(type(module))
        if projection is None or not isinstance(module, (nn.Conv2d, nn.Conv3d)):
            continue
        size, is_padded = module.kernel_size, module.padding != "valid" and any(module.padding)
        if module.stride == size and not is_padded:
            made_alike: dict[str, Any] = {"bias": module.bias is not None, "dtype": module.weight.dtype}
            made_alike["device"] = module.weight.device
            embeddings.set_submodule(
                name, projection(module.in_channels, module.out_channels, size, size, **made_alike)
            )


def stretch_positions(
    table: Tensor, grid: tuple[int, ...], new_grid: tuple[int, ...], antialias: bool = False
) -> Tensor:
    """A table of positions for another grid of patches, bicubic, as stock models stretch it; prefix rows stay.

    Args:
        table: (..., prefix + patches, hidden), patches row by row.
        grid, new_grid: rows and columns of patches.
        antialias: as some stock models do, for smaller grids.

    Returns:
        (..., prefix + new patches, hidden).
    """
    if new_grid == grid:
        return table
    num_prefix = table.shape[-2] - grid[0] * grid[1]
    prefix, patches = table[..., :num_prefix, :], table[..., num_prefix:, :]
    image = patches.reshape(-1, *grid, table.shape[-1]).permute(0, 3, 1, 2)
    dtype = torch.promote_types(image.dtype, torch.float32)
    stretched = nn.functional.interpolate(
        image.to(dtype), size=new_grid, mode="bicubic", align_corners=False, antialias=antialias
    )
    rows = stretched.to(image.dtype).flatten(2).transpose(1, 2).reshape(*table.shape[:-2], -1, table.shape[-1])
    return torch.cat([prefix, rows], dim=-2)
