# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Positions of a reduced sequence: tables with a row for every patch, read for the tokens that are there.

The row of a token is the mean of the rows of the patches it stands for: what a token has that carries its rows along
through every reduction. For rotary positions, the logit towards a DC token then is the mean of the logits towards its
patches, as far as these share their features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .token_reduction import TokenLayout, window_indices


def token_rows(table: Tensor, layout: TokenLayout) -> Tensor:
    """The rows of a table for the patch and DC tokens of a layout.

    Args:
        table: (patches, channels), a row for every patch of the grid.

    Returns:
        (batch, tokens without prefix, channels): a kept patch has its own row, any other token the mean of those it
        stands for, an empty window the mean of all that were folded.
    """
    if layout.sources is not None:
        place = torch.arange(layout.num_patches, device=table.device)[:, None] + layout.num_prefix
        return mean_rows(table, layout.sources[:, None] == place)
    kept = table[layout.positions]
    if not layout.windows:
        return kept
    batch, patches = layout.positions.shape[0], table.shape[0]
    is_folded = torch.ones(batch, patches, dtype=torch.bool, device=table.device)
    is_folded = is_folded.scatter(1, layout.positions, False)
    window = window_indices(layout.grid, layout.windows, table.device)
    places = torch.arange(layout.num_dc, device=table.device)[:, None]
    members = (window == places) & is_folded[:, None]
    members = torch.where(members.any(dim=2, keepdim=True), members, is_folded[:, None])
    return torch.cat([kept, mean_rows(table, members)], dim=1)


def mean_rows(table: Tensor, members: Tensor) -> Tensor:
    """The means of rows of a table (patches, channels), by ``members`` (batch, means, patches), each of at least one.

    Returns:
        (batch, means, channels).
    """
    dtype = torch.promote_types(table.dtype, torch.float32)
    shares = members.to(dtype) / members.sum(dim=2, keepdim=True)
    return (shares @ table.to(dtype)).to(table.dtype)


def rotary_rows(layout: TokenLayout, rotary: Sequence[Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines for the tokens behind the prefix, (batch, 1, tokens without prefix, head_dim) each.

    Args:
        rotary: cosines and sines of every patch, (patches, head_dim) each; None without rotary positions.
    """
    if rotary is None:
        return None
    cosines, sines = (token_rows(table, layout)[:, None] for table in rotary)
    return cosines, sines


def rotate(tokens: Tensor, rows: tuple[Tensor, Tensor], neighbours: bool = False) -> Tensor:
    """Turns queries or keys by their rotary positions; prefix tokens, which have none, stay as they are.

    Args:
        tokens: (batch, heads, tokens, head_dim).
        rows: of ``rotary_rows``.
        neighbours: whether channels are paired with their neighbours; else by halves: channel ``c`` with channel
            ``c + head_dim / 2``.
    """
    cosines, sines = rows
    num_prefix = tokens.shape[2] - cosines.shape[2]
    prefix, patches = tokens[:, :, :num_prefix], tokens[:, :, num_prefix:]
    if neighbours:
        first, second = patches.unflatten(3, (-1, 2)).unbind(dim=4)
        crossed = torch.stack([-second, first], dim=4).flatten(3)
    else:
        first, second = patches.chunk(2, dim=3)
        crossed = torch.cat([-second, first], dim=3)
    turned = patches * cosines + crossed * sines
    return torch.cat([prefix, turned], dim=2)
