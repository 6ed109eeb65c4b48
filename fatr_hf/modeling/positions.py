# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Positions of a reduced sequence: tables with a row for every patch, read for the tokens that are there.

The row of a token is the mean of the rows of the patches it stands for: what a token has that carries its rows along
through every reduction. For rotary positions, the logit towards a DC token then is the mean of the logits towards its
patches, as far as these share their features.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .token_reduction import TokenLayout, restore_tokens, token_sources, with_prefix, without_autocast


class Joining(NamedTuple):
    """Tokens that join a sequence on its way, in front of it."""

    layer: int
    """The layer before which they join, counted from 0."""
    tokens: Tensor
    """(joining, hidden), the same for every image."""


class Positions(NamedTuple):
    """What acts behind the embeddings: positions, by tables with a row for every patch of the grid, and new tokens."""

    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines, (patches, head_dim) each, by which every layer turns queries and keys."""
    added: Tensor | None = None
    """(layers - 1, prefix + patches, hidden), what the tokens get between two layers; the prefix has rows too."""
    joining: Joining | None = None
    """Tokens that are part of the prefix from a layer on."""


NO_POSITIONS = Positions()


def add_positions(
    hidden_states: Tensor, layout: TokenLayout, positions: Positions, layer: int
) -> tuple[Tensor, TokenLayout]:
    """Adds what tokens get before a layer, as if every patch had got its own before it was folded; lets tokens join.

    Args:
        hidden_states: (batch, tokens, hidden).
        layer: counted from 0; the first gets nothing.

    Returns:
        The sequence, and the layout, whose residual took up what the mean leaves out of every patch.
    """
    joining = positions.joining
    if joining is not None and joining.layer == layer:
        tokens = joining.tokens.to(hidden_states.dtype).expand(hidden_states.shape[0], -1, -1)
        hidden_states, layout = torch.cat([tokens, hidden_states], dim=1), with_prefix(layout, tokens.shape[1])
    if positions.added is None or layer == 0:
        return hidden_states, layout
    prefix, table = positions.added[layer - 1].split([layout.num_prefix, math.prod(layout.grid)])
    rows = torch.cat([prefix.expand(hidden_states.shape[0], -1, -1), token_rows(table, layout)], dim=1)
    if layout.residual is not None:
        left_out = table - restore_tokens(rows, token_sources(layout))
        layout = layout._replace(residual=layout.residual + left_out)
    return hidden_states + rows, layout


def token_rows(table: Tensor, layout: TokenLayout) -> Tensor:
    """The rows of a table for the patch and DC tokens of a layout; means run in float32 or better.

    Args:
        table: (patches, channels), a row for every patch of the grid.

    Returns:
        (batch, tokens without prefix, channels): a kept patch has its own row, any other token the mean of those it
        stands for, an empty window the mean of all that were folded.
    """
    batch = layout.positions.shape[0]
    if not layout.is_reduced:
        return table.expand(batch, -1, -1)
    tokens, sources = layout.num_patches + layout.num_dc, token_sources(layout)
    slots = torch.where(sources < 0, tokens, sources - layout.num_prefix)  # the last slot is for what was dropped
    counts = slots.new_zeros(batch, tokens + 1).scatter_add(1, slots, torch.ones_like(slots))
    rows = mean_rows(table.to(torch.promote_types(table.dtype, torch.float32)), slots, counts)[:, :tokens]
    if layout.num_dc:
        counts = counts[:, :tokens, None]
        folded = counts[:, layout.num_patches :]
        total = (rows[:, layout.num_patches :] * folded).sum(dim=1, keepdim=True) / folded.sum(dim=1, keepdim=True)
        rows = torch.where(counts > 0, rows, total)
    return rows.to(table.dtype)


def mean_rows(table: Tensor, slots: Tensor, counts: Tensor) -> Tensor:
    """The means of rows of a table (patches, channels) by slots; zeros where a slot has none.

    Args:
        slots: (batch, patches) int64, of each row.
        counts: (batch, slots) int64, of rows.

    Returns:
        (batch, slots, channels).
    """
    places = torch.arange(len(table), device=table.device)
    if torch.compiler.is_exporting():  # ONNX has bags as loops only
        is_member = slots[:, None] == torch.arange(counts.shape[1], device=table.device)[:, None]
        with without_autocast(table.device):
            return is_member.to(table.dtype) / counts.clamp(min=1)[:, :, None] @ table
    # A bag for each slot: the order of a sum is the order of places, on a GPU too, where a scatter leaves it to chance.
    members = (slots * len(table) + places).sort(dim=1).indices
    starts = counts.flatten().cumsum(0) - counts.flatten()
    means = nn.functional.embedding_bag(members.flatten(), table, starts, mode="mean")
    return means.unflatten(0, counts.shape)


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
