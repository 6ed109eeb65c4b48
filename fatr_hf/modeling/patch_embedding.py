# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Embedding of patches as one matrix product, and position tables for other grids of patches."""

import torch
from torch import Tensor, nn


class PatchProjection(nn.Conv2d):
    """A convolution over patches that do not overlap, computed as one matrix product."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeds pixels (batch, channels, height, width) as (batch, hidden, rows, columns) of whole patches.

        Pixels of another dtype are brought to that of the weight.
        """
        height, width = self.kernel_size
        rows, columns = pixel_values.shape[2] // height, pixel_values.shape[3] // width
        image = pixel_values[:, :, : rows * height, : columns * width].to(self.weight.dtype)
        patches = image.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5)
        embedded = nn.functional.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)
        return embedded.transpose(1, 2).unflatten(2, (rows, columns))


def use_products(embeddings: nn.Module) -> None:
    """Puts a ``PatchProjection`` in the place of every convolution over patches in newly built embeddings."""
    for name, module in list(embeddings.named_modules()):
        if type(module) is nn.Conv2d and module.stride == module.kernel_size and module.padding in ((0, 0), "valid"):
            height, width = module.kernel_size
            projection = PatchProjection(
                module.in_channels, module.out_channels, (height, width), (height, width), bias=module.bias is not None
            )
            embeddings.set_submodule(name, projection)


def stretch_positions(
    table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], antialias: bool = False
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
