# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Token reduction as pure tensor functions: which patches stay, and the DC tokens that stand for the others.

A sequence is ``[prefix | patches | DC tokens]``. The patch tokens with the highest scores stay, in the order of their
place in the image. Every other patch is folded into the DC token of its window of the original patch grid, which is at
all times the mean of all patches it stands for (section 3 of the paper, arXiv 2511.21477); or into the kept patch that
is most like it, which then stands for both. Nothing here knows about
ViT, attention or learned parameters.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .token_plan import axis_windows, window_count

COSINE_STEPS = 2**16
"""Steps of a cosine from 0 to 1: finer than half precision tells tokens apart, coarser than float32 rounds a cosine. A
square number."""


class TokenLayout(NamedTuple):
    """Where the patches of the original grid are in the present sequence; passed from layer to layer, never changed.

    A tuple, so that gradient checkpointing, device hooks and export carry it like any other argument.
    """

    grid: tuple[int, ...]
    """Patches along each axis of the original grid: rows and columns, in a video frames before them."""
    num_prefix: int
    """Tokens before the patches."""
    windows: tuple[int, ...]
    """DC windows along each axis of the grid; empty while there are no DC tokens."""
    positions: Tensor
    """(batch, patch tokens) int64: the original grid place of every patch token; of one that stands for several
    patches, the place of one of them."""
    dc_counts: Tensor
    """(batch, DC tokens) int64: how many patches each DC token stands for."""
    residual: Tensor | None = None
    """(batch, patches, hidden): what each patch differs by from the token that stands for it; None if not kept."""
    sources: Tensor | None = None
    """(batch, patches) int64: the place in the sequence of the token that stands for each patch, -1 for none; None
    where positions and windows tell it."""
    sizes: Tensor | None = None
    """(batch, patch tokens) int64: how many patches each patch token stands for; None where each stands for one."""

    @property
    def num_patches(self) -> int:
        return self.positions.shape[1]

    @property
    def is_reduced(self) -> bool:
        """Whether some patches are no tokens of their own."""
        return self.num_patches < math.prod(self.grid)

    @property
    def counts(self) -> Tensor:
        """(batch, last tokens) int64: how many patches the last tokens stand for, of which any stands for several."""
        return self.dc_counts if self.sizes is None else torch.cat([self.sizes, self.dc_counts], dim=1)

    @property
    def num_dc(self) -> int:
        return window_count(self.windows)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products keep the dtype they are given; the meta device knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def dense_layout(batch_size: int, grid: tuple[int, ...], num_prefix: int, device: torch.device) -> TokenLayout:
    """The layout before any reduction: every patch in its own place, no DC tokens."""
    positions = torch.arange(math.prod(grid), device=device).expand(batch_size, -1)
    return TokenLayout(grid, num_prefix, (), positions, positions[:, :0])


def with_residual(layout: TokenLayout, hidden_states: Tensor) -> TokenLayout:
    """A layout before any reduction that keeps the residual of every patch, which is zero so far."""
    patches = hidden_states[:, layout.num_prefix :]
    return layout._replace(residual=torch.zeros_like(patches))


def with_prefix(layout: TokenLayout, count: int) -> TokenLayout:
    """The layout after so many tokens were put in front of the sequence."""
    sources = layout.sources
    if sources is not None:
        sources = torch.where(sources < 0, sources, sources + count)
    return layout._replace(num_prefix=layout.num_prefix + count, sources=sources)


def after_reduction(
    layout: TokenLayout, before: Tensor, reduced: Tensor, new_layout: TokenLayout, added: Tensor | None
) -> TokenLayout:
    """The layout after a reduction, whose residual took up what the reduction leaves out of every patch.

    ``residual += restore(before) - restore(after)``, where ``after`` are the means, before their learned positions are
    added: over nested windows the residuals telescope, and their mean over the patches of a DC token is zero.

    Args:
        layout, new_layout: before and after.
        before, reduced: (batch, tokens, hidden), the sequences.
        added: (DC tokens, hidden), the positions that were added to the new DC tokens.
    """
    if layout.residual is None:
        return new_layout
    means = reduced
    if added is not None:
        count = new_layout.num_dc
        means = torch.cat([reduced[:, :-count], reduced[:, -count:] - added], dim=1)
    left_out = restore_tokens(before, token_sources(layout)) - restore_tokens(means, token_sources(new_layout))
    return new_layout._replace(residual=layout.residual + left_out)


def dense_sequence(hidden_states: Tensor, layout: TokenLayout) -> Tensor:
    """A reduced sequence on the full grid, (batch, prefix + patches, hidden): prefix tokens, then every patch.

    A patch gets the token that stands for it, and its residual where the layout keeps one.
    """
    if not layout.is_reduced:
        return hidden_states
    patches = restore_tokens(hidden_states, token_sources(layout))
    if layout.residual is not None:
        patches = patches + layout.residual
    return torch.cat([hidden_states[:, : layout.num_prefix], patches], dim=1)


def window_indices(grid: Sequence[int], windows: int | Sequence[int], device: torch.device) -> Tensor:
    """The DC window of every patch: along an axis ``place * windows // length``, counted like the patches themselves.

    Of a grid of windows instead of patches, where the new windows divide the old: the new window of every old one.

    Args:
        grid: patches along each axis.
        windows: along every axis, or a number for each.

    Returns:
        (patches,) int64 in ``[0, prod(windows))``.
    """
    index = torch.zeros(1, dtype=torch.int64, device=device)
    for length, count in zip(grid, axis_windows(windows, len(grid)), strict=True):
        along = torch.arange(length, device=device) * count // length
        index = (index[:, None] * count + along).flatten()
    return index


def partition_tokens(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Splits patch tokens into the ``keep`` highest scores and the rest; equal scores go by place, the first wins.

    Args:
        scores: (batch, patches); not-a-number is lower than any number.

    Returns:
        Indices of the kept tokens (batch, keep) and of the others (batch, patches - keep), int64, both ascending.
    """
    order = descending_order(scores)
    return order[:, :keep].sort(dim=1).values, order[:, keep:].sort(dim=1).values


def descending_order(scores: Tensor) -> Tensor:
    """Indices (batch, patches) that sort scores from high to low, equal ones by place; not-a-number comes last."""
    if scores.is_floating_point():
        scores = torch.where(scores.isnan(), -torch.inf, scores)
    if not torch.compiler.is_exporting():
        return scores.sort(dim=1, descending=True, stable=True).indices
    # Stable sorts do not export to ONNX, and other sorts break ties at will: comparing all pairs gives every rank.
    places = torch.arange(scores.shape[1], device=scores.device)
    own, other = scores[:, :, None], scores[:, None, :]
    goes_before = (other > own) | ((other == own) & (places < places[:, None]))
    ranks = goes_before.sum(dim=2)
    return torch.zeros_like(ranks).scatter(1, ranks, places.expand_as(ranks))


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """``tokens[b, index[b]]`` for every image.

    Args:
        tokens: (batch, tokens, hidden).
        index: (batch, chosen) int64.

    Returns:
        (batch, chosen, hidden).
    """
    batch, length, hidden = tokens.shape
    # Whole rows, since a gather reads an index for every element.
    rows = index + length * torch.arange(batch, device=tokens.device)[:, None]
    return tokens.reshape(-1, hidden).index_select(0, rows.flatten()).view(batch, -1, hidden)


def pool_windows(tokens: Tensor, counts: Tensor, window_index: Tensor, num_windows: int) -> tuple[Tensor, Tensor]:
    """The mean of each window's tokens, weighted by how many patches each token stands for.

    A window without any patch takes the mean over all windows, with count 0. Sums run in float32 or better.

    Args:
        tokens: (batch, tokens, hidden), the tokens to fold.
        counts: (batch, tokens) int64, patches behind each token; 0 gives it no weight.
        window_index: (batch, tokens) int64 in ``[0, num_windows)``.

    Returns:
        Means (batch, num_windows, hidden) in the dtype of ``tokens``, and counts (batch, num_windows) int64.
    """
    index = torch.arange(num_windows, device=tokens.device)
    weights = (window_index[:, None, :] == index[:, None]) * counts[:, None, :]
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    with without_autocast(tokens.device):
        sums = weights.to(dtype) @ tokens.to(dtype)
    window_counts = weights.sum(dim=2)
    total_mean = sums.sum(dim=1, keepdim=True) / window_counts.sum(dim=1)[:, None, None]
    means = sums / window_counts.clamp(min=1)[:, :, None]
    means = torch.where(window_counts[:, :, None] > 0, means, total_mean)
    return means.to(tokens.dtype), window_counts


def reduce_tokens(
    hidden_states: Tensor,
    scores: Tensor,
    layout: TokenLayout,
    keep: int,
    windows: int | Sequence[int],
    dc_position_embeddings: Tensor | None = None,
) -> tuple[Tensor, TokenLayout]:
    """Keeps the ``keep`` highest patch tokens and folds the rest, and the old DC tokens, into a DC token a window.

    Args:
        hidden_states: (batch, tokens, hidden), laid out as ``layout`` says.
        scores: (batch, patches), higher is kept; carries no gradient.
        layout: where the patches are.
        keep: patch tokens that stay, at least 1 and fewer than there are.
        windows: DC windows along every axis of the grid, or a number for each; they divide those of the layout. 0 where
            no DC token is to stand for the other patches: they are dropped.
        dc_position_embeddings: (DC tokens, hidden), added to the new DC tokens.

    Returns:
        The new sequence (batch, prefix + keep + DC tokens, hidden) and its layout.
    """
    windows = axis_windows(windows, len(layout.grid))
    first, last = layout.num_prefix, layout.num_prefix + layout.num_patches
    kept, folded = partition_tokens(scores, keep)
    positions = layout.positions.gather(1, kept)
    remaining = [hidden_states[:, :first], take_tokens(hidden_states, first + kept)]
    if not windows:
        return torch.cat(remaining, dim=1), layout._replace(positions=positions)

    folded_positions = layout.positions.gather(1, folded)
    window_index = window_indices(layout.grid, windows, hidden_states.device)[folded_positions]
    tokens, counts = take_tokens(hidden_states, first + folded), torch.ones_like(folded_positions)
    if layout.windows:
        old_index = window_indices(layout.windows, windows, hidden_states.device)
        tokens = torch.cat([tokens, hidden_states[:, last:]], dim=1)
        counts = torch.cat([counts, layout.dc_counts], dim=1)
        window_index = torch.cat([window_index, old_index.expand(counts.shape[0], -1)], dim=1)
    dc_tokens, dc_counts = pool_windows(tokens, counts, window_index, window_count(windows))
    if dc_position_embeddings is not None:
        dc_tokens = dc_tokens + dc_position_embeddings

    reduced = torch.cat([*remaining, dc_tokens], dim=1)
    return reduced, TokenLayout(layout.grid, layout.num_prefix, windows, positions, dc_counts)


def token_features(keys: Tensor, tokens: Tensor) -> Tensor:
    """What patch tokens are compared by: their keys and the tokens themselves, each divided by its length.

    The cosine of two such features is the mean of the cosine of the keys and that of the tokens.

    Args:
        keys: (batch, patches, head_dim), in float32 or better.
        tokens: (batch, patches, hidden).

    Returns:
        (batch, patches, head_dim + hidden) in the dtype of the keys; without gradient.
    """
    parts = (keys.detach(), tokens.detach().to(keys.dtype))
    return torch.cat([torch.nn.functional.normalize(each, dim=2) for each in parts], dim=2)


def feature_directions(features: Tensor) -> Tensor:
    """Features by their lengths, times the root of ``COSINE_STEPS``, so that their products are cosines in steps.

    A feature that is zero, infinite or not a number has no direction: zeros.

    Args:
        features: (batch, patches, channels), in float32 or better.

    Returns:
        The same shape and dtype; without gradient.
    """
    directions = torch.nn.functional.normalize(features.detach(), dim=2).nan_to_num(0.0, 0.0, 0.0)
    return directions * math.isqrt(COSINE_STEPS)


def feature_similarity(features: Tensor) -> Tensor:
    """How much alike patch tokens are: the cosines between their features, in steps of ``1 / COSINE_STEPS``.

    In steps, equal features are equally alike wherever they are compared, so that ties go by place on every device. A
    feature that is zero, infinite or not a number is like nothing: its cosines are 0.

    Args:
        features: (batch, patches, channels), in float32 or better.

    Returns:
        (batch, patches, patches), whole numbers from ``-COSINE_STEPS`` to ``COSINE_STEPS``; without gradient.
    """
    directions = feature_directions(features)
    with without_autocast(features.device):
        products = directions @ directions.transpose(1, 2)
    return products.round() if torch.compiler.is_exporting() else products.round_()


def distinctness(similarity: Tensor, energies: Tensor) -> Tensor:
    """How little of a token another one of more energy says: one minus their cosine, of the one most like it.

    Of a group of tokens that are alike, the one of most energy stays distinct, and so stands for the group. The token
    of most energy of all is compared with the one least like it.

    Args:
        similarity: (batch, patches, patches), of ``feature_similarity``.
        energies: (batch, patches); equal ones go by place.

    Returns:
        (batch, patches), from 0 to 2.
    """
    order = descending_order(energies)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.zeros_like(order).scatter(1, order, places)
    nearest = similarity.masked_fill(ranks[:, None] >= ranks[:, :, None], -torch.inf).amax(dim=2)
    first = order[:, :1]
    nearest = nearest.scatter(1, first, take_tokens(similarity, first).amin(dim=2))
    return 1 - nearest / COSINE_STEPS


def fold_similar(
    hidden_states: Tensor, scores: Tensor, similarity: Tensor, layout: TokenLayout, keep: int
) -> tuple[Tensor, TokenLayout]:
    """Keeps the ``keep`` highest patch tokens; every other one joins the kept one that is most like it.

    They become their mean, weighted by the patches that each stands for. A kept token that none joins stays as it is,
    bit for bit. Of kept ones that are equally alike the first is joined.

    Args:
        hidden_states: (batch, tokens, hidden): prefix tokens, then patch tokens.
        scores: (batch, patches), higher is kept; carries no gradient.
        similarity: (batch, patches, patches), of ``feature_similarity``.
        layout: where the patches are.
        keep: patch tokens that stay, at least 1 and fewer than there are.

    Returns:
        The new sequence (batch, prefix + keep, hidden) and its layout.
    """
    kept, folded = partition_tokens(scores, keep)
    is_kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, kept, True)
    ranks = is_kept.cumsum(dim=1) - 1
    nearest = take_tokens(similarity, folded).masked_fill(~is_kept[:, None], -torch.inf).argmax(dim=2)
    targets = ranks.gather(1, nearest)
    sizes = patch_sizes(layout)
    reduced, new_sizes = join_tokens(hidden_states, sizes, layout.num_prefix, kept, folded, targets)
    return reduced, regrouped(layout, ranks.scatter(1, folded, targets), kept, new_sizes)


def join_tokens(
    hidden_states: Tensor, sizes: Tensor, num_prefix: int, kept: Tensor, folded: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Means of kept tokens and of those that join them, weighted by size; sums run in float32 or better.

    Args:
        hidden_states: (batch, prefix + patches, hidden).
        sizes: (batch, patches) int64, the patches that each token stands for.
        kept, folded: (batch, kept) and (batch, folded), places among the patch tokens.
        targets: (batch, folded), which of the kept tokens each folded one joins.

    Returns:
        Prefix and kept tokens (batch, prefix + kept, hidden), and the sizes of the kept ones (batch, kept).
    """
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    places = torch.arange(kept.shape[1], device=kept.device)[:, None]
    weights = (targets[:, None] == places) * sizes.gather(1, folded).to(dtype)[:, None]
    own = sizes.gather(1, kept).to(dtype)
    new_sizes = own + weights.sum(dim=2)
    weights, shares = weights / new_sizes[:, :, None], (own / new_sizes)[:, :, None]
    with without_autocast(kept.device):
        added = weights @ take_tokens(hidden_states, num_prefix + folded).to(dtype)
    if dtype == hidden_states.dtype and not torch.compiler.is_exporting():
        # In place: on a CPU new memory costs more than these sums.
        prefix = torch.arange(num_prefix, device=kept.device).expand(len(kept), -1)
        reduced = take_tokens(hidden_states, torch.cat([prefix, num_prefix + kept], dim=1))
        reduced[:, num_prefix:].mul_(shares).add_(added)
    else:
        means = torch.addcmul(added, take_tokens(hidden_states, num_prefix + kept), shares).to(hidden_states.dtype)
        reduced = torch.cat([hidden_states[:, :num_prefix], means], dim=1)
    return reduced, new_sizes.to(sizes.dtype)


def patch_sizes(layout: TokenLayout) -> Tensor:
    """How many patches each patch token stands for, (batch, patch tokens) int64."""
    return torch.ones_like(layout.positions) if layout.sizes is None else layout.sizes


def regrouped(layout: TokenLayout, destinations: Tensor, chosen: Tensor, sizes: Tensor) -> TokenLayout:
    """The layout after patch tokens were joined.

    Args:
        destinations: (batch, patch tokens), which of the new patch tokens each old one is part of.
        chosen: (batch, new patch tokens), an old one of each new one, which says where it sits.
        sizes: (batch, new patch tokens), how many patches each stands for.
    """
    sources = token_sources(layout)
    new = layout.num_prefix + destinations.gather(1, (sources - layout.num_prefix).clamp(min=0))
    return layout._replace(
        positions=layout.positions.gather(1, chosen),
        sources=torch.where(sources < 0, sources, new),
        sizes=sizes,
    )


def token_sources(layout: TokenLayout) -> Tensor:
    """For every patch of the original grid the place in the sequence that stands for it: its own, or its DC token's.

    Returns:
        (batch, patches) int64; -1 for a patch that was dropped without a DC token.
    """
    if layout.sources is not None:
        return layout.sources
    batch_size, patches = layout.positions.shape[0], math.prod(layout.grid)
    device = layout.positions.device
    is_kept = torch.zeros(batch_size, patches, dtype=torch.bool, device=device).scatter(1, layout.positions, True)
    own = layout.num_prefix + is_kept.cumsum(dim=1) - 1
    if not layout.windows:
        return own.masked_fill(~is_kept, -1)
    dc = layout.num_prefix + layout.num_patches + window_indices(layout.grid, layout.windows, device)
    return torch.where(is_kept, own, dc)


def token_sizes(layout: TokenLayout) -> Tensor:
    """How many patches each token of a sequence stands for: none for the prefix.

    Returns:
        (batch, tokens) int64.
    """
    kept = torch.ones_like(layout.positions) if layout.sizes is None else layout.sizes
    prefix = kept.new_zeros(1, 1).expand(kept.shape[0], layout.num_prefix)
    return torch.cat([prefix, kept, layout.dc_counts], dim=1)


def restore_tokens(hidden_states: Tensor, source: Tensor) -> Tensor:
    """The dense patch grid of a reduced sequence: every patch gets the token that stands for it.

    Args:
        hidden_states: (batch, tokens, hidden), a sequence as it leaves the reduction layer of ``source`` or any later
            layer before the next reduction.
        source: (batch, patches) int64, one entry of the model's ``token_sources``.

    Returns:
        (batch, patches, hidden), patches in the order of the grid; zeros where nothing stands for a patch.
    """
    return take_tokens(hidden_states, source.clamp(min=0)).masked_fill(source[:, :, None] < 0, 0)
