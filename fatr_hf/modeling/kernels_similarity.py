# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Triton kernels of the comparison of tokens: how distinct a token is, the fold by similarity, the fold's gradient.

What ``distinctness`` and ``fold_similar`` compute, the plain functions of these names say; here no matrix of patches by
patches is in memory. No atomics, no sums in an order that may change: a result is the same from run to run. The
functions at the end launch the kernels; they neither check their arguments nor know autograd.
"""
# Arguments of kernels have no Python types.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from math import ceil, isqrt

import torch
from torch import Tensor

from .kernels_common import (
    HAS_TRITON,
    PROGRAMS,
    launch,
    lowest_kept,
    next_kept,
    next_power_of_2,
    ordered_integers,
    product,
    tl,
    triton,
)
from .token_reduction import COSINE_STEPS

if HAS_TRITON:
    COSINE_ROOT, STEP = tl.constexpr(isqrt(COSINE_STEPS)), tl.constexpr(1 / COSINE_STEPS)

COMPARED = (32, 64)
"""Patches whose features a program holds, and patches that these are compared with at a time."""

COMPARISON_OPTIONS = {"num_warps": 8, "num_stages": 2}
"""With them a thread takes at most 128 registers, and 16 warps share a multiprocessor."""

JOINED = (4096, 1024, 16)
"""Elements of the new sequence that a program makes, and the most hidden columns and rows of them."""

SCANNED = 256
"""Tokens whose destinations a program looks at at a time."""

TILE = (16, 128)
"""Tokens and hidden columns of a program of the backward pass."""


@triton.jit
def feature_directions_kernel(
    features, directions, patches, channels, strides, PATCHES: tl.constexpr, DIMS: tl.constexpr
):
    """One block of one image's features, each by its length."""
    blocks = tl.cdiv(patches, PATCHES)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    patch, dims = tl.program_id(0) % blocks * PATCHES + tl.arange(0, PATCHES), tl.arange(0, DIMS)
    mask = (patch < patches)[:, None] & (dims < channels)[None, :]
    places = features + image * strides[0] + patch[:, None] * strides[1] + dims[None, :] * strides[2]
    tile = tl.load(places, mask=mask, other=0.0).to(tl.float32)
    lengths = tl.sqrt_rn(tl.sum(tile * tile, axis=1))
    is_finite = lengths < float("inf")
    tile = tl.where(is_finite[:, None], tile, 0.0)
    tile = tl.div_rn(tile, tl.where(is_finite, tl.maximum(lengths, 1e-12), 1.0)[:, None]) * COSINE_ROOT
    tl.store(directions + (image * patches + patch)[:, None] * channels + dims[None, :], tile, mask=mask)


@triton.jit
def _cosines(directions, own, is_own, other, is_other, channels):
    """(own, other): cosines between patches of one image, in steps that are not whole yet."""
    # A few channels at a time: products in float32 know no tensor cores, and hold their operands in registers.
    CHANNELS: tl.constexpr = 32
    products = tl.zeros((own.shape[0], other.shape[0]), tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        mask = is_own[:, None] & (channel < channels)[None, :]
        left = tl.load(directions + own[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        mask = is_other[:, None] & (channel < channels)[None, :]
        right = tl.load(directions + other[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        products += product(left, tl.trans(right))
    return products


@triton.jit
def _whole(steps):
    """The whole numbers nearest to numbers up to ``COSINE_STEPS``, of two the even one."""
    # Float32 holds no fractions from 2 ** 23 on.
    return steps + 12582912.0 - 12582912.0


@triton.jit
def distinctness_kernel(tensors, patches, channels, strides, OWN: tl.constexpr, OTHERS: tl.constexpr):
    """One block of patches of one image against all of the image."""
    directions, energies, distinct = tensors
    blocks = tl.cdiv(patches, OWN)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    directions += image * patches * channels
    energies += image * strides[0]
    own = tl.program_id(0) % blocks * OWN + tl.arange(0, OWN)
    is_own = own < patches
    own_energies = ordered_integers(tl.load(energies + own * strides[1], mask=is_own, other=0))
    nearest = tl.full((OWN, OTHERS), float("-inf"), tl.float32)
    farthest = tl.full((OWN, OTHERS), float("inf"), tl.float32)
    for first in range(0, patches, OTHERS):
        other = first + tl.arange(0, OTHERS)
        is_other = other < patches
        other_energies = ordered_integers(tl.load(energies + other * strides[1], mask=is_other, other=0))
        cosines = _cosines(directions, own, is_own, other, is_other, channels)
        is_equal = other_energies[None, :] == own_energies[:, None]
        goes_before = (other_energies[None, :] > own_energies[:, None]) | (is_equal & (other[None, :] < own[:, None]))
        nearest = tl.where(goes_before & is_other[None, :], tl.maximum(nearest, cosines), nearest)
        farthest = tl.where(is_other[None, :], tl.minimum(farthest, cosines), farthest)
    # The patch of most energy has none of more to be compared with.
    most, least = tl.max(nearest, axis=1), tl.min(farthest, axis=1)
    steps = _whole(tl.where(most == float("-inf"), least, most))
    tl.store(distinct + image * patches + own, 1.0 - steps * STEP, mask=is_own)


@triton.jit
def nearest_kept_kernel(
    inputs, outputs, sizes, strides, PATCHES: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr
):
    """Where one block of one image's folded patches goes; the first block also says it of all other tokens."""
    directions, scores, positions = inputs
    destinations, new_positions = outputs
    num_prefix, patches, keep, channels = sizes
    score_strides, position_strides = strides
    blocks = tl.maximum(tl.cdiv(patches - keep, OWN), 1)
    block, image = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    directions += image * patches * channels
    scores += image * score_strides[0]
    positions += image * position_strides[0]
    destinations += image * (num_prefix + patches)
    threshold, ties = lowest_kept(scores, score_strides[1], patches, keep, PATCHES)

    # The folded patches of this block, which lie anywhere among the others.
    ranks, own = block * OWN + tl.arange(0, OWN), tl.zeros((OWN,), tl.int32)
    counted = tl.zeros((1,), tl.int64)
    for first in range(0, num_prefix + patches, OTHERS):
        token = first + tl.arange(0, OTHERS)
        patch = token - num_prefix
        is_patch = (patch >= 0) & (patch < patches)
        is_kept, slots, counted = next_kept(scores, score_strides[1], patch, is_patch, threshold, ties, counted)
        is_folded = is_patch & (is_kept == 0)
        is_own = is_folded[None, :] & ((patch - slots)[None, :] == ranks[:, None])
        own += tl.sum(tl.where(is_own, patch[None, :], 0), axis=1)
        if block == 0:
            is_staying = (token < num_prefix + patches) & (is_folded == 0)
            tl.store(destinations + token, tl.where(is_kept, num_prefix + slots, token), mask=is_staying)
            position = tl.load(positions + patch * position_strides[1], mask=is_kept, other=0)
            tl.store(new_positions + image * keep + slots, position, mask=is_kept)

    is_own = ranks < patches - keep
    nearest, joined = tl.full((OWN, OTHERS), float("-inf"), tl.float32), tl.zeros((OWN, OTHERS), tl.int32)
    counted = tl.zeros((1,), tl.int64)
    for first in range(0, patches, OTHERS):
        patch = first + tl.arange(0, OTHERS)
        is_patch = patch < patches
        is_kept, slots, counted = next_kept(scores, score_strides[1], patch, is_patch, threshold, ties, counted)
        steps = _whole(_cosines(directions, own, is_own, patch, is_kept, channels))
        is_nearer = is_kept[None, :] & (steps > nearest)
        nearest, joined = tl.where(is_nearer, steps, nearest), tl.where(is_nearer, slots[None, :], joined)
    is_nearest = nearest == tl.max(nearest, axis=1)[:, None]
    slot = tl.min(tl.where(is_nearest, joined, keep), axis=1)
    tl.store(destinations + num_prefix + own, num_prefix + slot, mask=is_own)


@triton.jit
def _token_sizes(sizes, token, is_token, num_prefix):
    """How many patches tokens stand for: 1 before the patches, and where there are no ``sizes``."""
    if sizes is None:
        token_sizes = tl.full(token.shape, 1, tl.int32)
    else:
        mask = is_token & (token >= num_prefix)
        token_sizes = tl.load(sizes + token - num_prefix, mask=mask, other=1).to(tl.int32)
    return token_sizes


@triton.jit
def join_tokens_kernel(
    inputs, outputs, counts, strides, TOKENS: tl.constexpr, ROWS: tl.constexpr, HIDDEN: tl.constexpr
):
    """Some rows and hidden columns of one image's new sequence: each row is gathered from the tokens that go there."""
    hidden_states, sizes, sources, destinations = inputs
    reduced, new_sizes, new_sources = outputs
    hidden_size, num_prefix, tokens, new_tokens, places = counts
    column_blocks, row_blocks = tl.cdiv(hidden_size, HIDDEN), tl.cdiv(new_tokens, ROWS)
    column_block, row_block = tl.program_id(0) % column_blocks, tl.program_id(0) // column_blocks % row_blocks
    image = (tl.program_id(0) // column_blocks // row_blocks).to(tl.int64)
    hidden_columns, rows = column_block * HIDDEN + tl.arange(0, HIDDEN), row_block * ROWS + tl.arange(0, ROWS)
    is_column, is_row = hidden_columns < hidden_size, rows < new_tokens
    column_places = hidden_states + image * strides[0] + hidden_columns[None, :] * strides[2]
    destinations += image * tokens
    if sizes is not None:
        sizes += image * (tokens - num_prefix)

    totals, members = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int32)
    for first in range(0, tokens, TOKENS):
        token = first + tl.arange(0, TOKENS)
        destination = tl.load(destinations + token, mask=token < tokens, other=-1)
        is_member = destination[None, :] == rows[:, None]
        size = _token_sizes(sizes, token, token < tokens, num_prefix)
        totals += tl.sum(tl.where(is_member, size[None, :], 0), axis=1)
        members += tl.sum(is_member.to(tl.int32), axis=1)

    totals_or_1 = tl.maximum(totals, 1).to(tl.float32)
    sums, last = tl.zeros((ROWS, HIDDEN), tl.float32), tl.full((ROWS,), -1, tl.int32)
    for _ in range(tl.max(members, axis=0)):
        own = tl.full((ROWS,), tokens, tl.int32)  # the next member of every row
        for first in range(0, tokens, TOKENS):
            token = first + tl.arange(0, TOKENS)
            destination = tl.load(destinations + token, mask=token < tokens, other=-1)
            is_next = (destination[None, :] == rows[:, None]) & (token[None, :] > last[:, None])
            own = tl.minimum(own, tl.min(tl.where(is_next, token[None, :], tokens), axis=1))
        is_member, last = own < tokens, own
        shares = tl.div_rn(_token_sizes(sizes, own, is_member, num_prefix).to(tl.float32), totals_or_1)
        mask = is_member[:, None] & is_column[None, :]
        tile = tl.load(column_places + own[:, None] * strides[1], mask=mask, other=0.0).to(tl.float32)
        sums += tile * shares[:, None]
    new_places = reduced + (image * new_tokens + rows)[:, None] * hidden_size + hidden_columns[None, :]
    tl.store(new_places, sums.to(reduced.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])

    if column_block == 0:
        size_places = new_sizes + image * (new_tokens - num_prefix) + rows - num_prefix
        tl.store(size_places, totals.to(tl.int64), mask=is_row & (rows >= num_prefix))
        for first in range(row_block * TOKENS, places, row_blocks * TOKENS):
            place = first + tl.arange(0, TOKENS)
            source = (num_prefix + place).to(tl.int64)
            if sources is not None:
                source = tl.load(sources + image * places + place, mask=place < places, other=-1)
            new_source = tl.load(destinations + source, mask=(place < places) & (source >= 0), other=-1)
            tl.store(new_sources + image * places + place, new_source.to(tl.int64), mask=place < places)


@triton.jit
def fold_similar_backward_kernel(tensors, counts, strides, TOKENS: tl.constexpr, HIDDEN: tl.constexpr):
    """The gradient of some tokens and hidden columns of one image: their shares of that of where they went."""
    grad_reduced, destinations, sizes, new_sizes, grad_hidden = tensors
    hidden_size, num_prefix, tokens, new_tokens = counts
    column_blocks, token_blocks = tl.cdiv(hidden_size, HIDDEN), tl.cdiv(tokens, TOKENS)
    image = (tl.program_id(0) // column_blocks // token_blocks).to(tl.int64)
    token = tl.program_id(0) // column_blocks % token_blocks * TOKENS + tl.arange(0, TOKENS)
    hidden_columns = tl.program_id(0) % column_blocks * HIDDEN + tl.arange(0, HIDDEN)
    is_token, is_column = token < tokens, hidden_columns < hidden_size
    if sizes is not None:
        sizes += image * (tokens - num_prefix)
    destination = tl.load(destinations + image * tokens + token, mask=is_token, other=0)
    size = _token_sizes(sizes, token, is_token, num_prefix)
    total = _token_sizes(new_sizes + image * (new_tokens - num_prefix), destination, is_token, num_prefix)
    shares = tl.div_rn(size.to(tl.float32), total.to(tl.float32))
    mask = is_token[:, None] & is_column[None, :]
    grad_places = grad_reduced + image * strides[0] + hidden_columns[None, :] * strides[2]
    grad = tl.load(grad_places + destination[:, None] * strides[1], mask=mask, other=0.0).to(tl.float32)
    old_places = grad_hidden + (image * tokens + token)[:, None] * hidden_size + hidden_columns[None, :]
    tl.store(old_places, (grad * shares[:, None]).to(grad_hidden.dtype.element_ty), mask=mask)


def feature_directions(features: Tensor) -> Tensor:
    """``token_reduction.feature_directions`` in one launch: (batch, patches, channels) float32.

    ``features`` are (batch, patches, channels), float32, bfloat16 or float16, of any strides.
    """
    (batch, patches, channels), directions = features.shape, features.new_empty(features.shape, dtype=torch.float32)
    dims = next_power_of_2(channels)
    block = max(1, TILE[0] * TILE[1] // dims)
    programs = batch * ceil(patches / block)
    arguments = (features, directions, patches, channels, features.stride())
    launch(feature_directions_kernel, programs, features.device, *arguments, block, dims)
    return directions


def distinctness(directions: Tensor, energies: Tensor) -> Tensor:
    """``token_reduction.distinctness`` by the directions of features, in one launch.

    Args:
        directions: (batch, patches, channels) float32, of ``feature_directions``.
        energies: (batch, patches) float32 or float64, of any strides; equal ones go by place, NaN is -inf.

    Returns:
        (batch, patches) float32.
    """
    batch, patches, channels = directions.shape
    distinct = directions.new_empty((batch, patches))
    tensors, programs = (directions.contiguous(), energies, distinct), batch * ceil(patches / COMPARED[0])
    arguments = (tensors, patches, channels, energies.stride(), *COMPARED)
    launch(distinctness_kernel, programs, directions.device, *arguments, **COMPARISON_OPTIONS)
    return distinct


def fold_similar(
    hidden_states: Tensor,
    scores: Tensor,
    directions: Tensor,
    positions: Tensor,
    sizes: Tensor | None,
    sources: Tensor | None,
    num_prefix: int,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Joins every patch that is not kept to the kept one that is most like it: one launch finds it, one joins.

    Two launches, since the comparison is cut by patches, and the sequence by rows that gather from all patches.

    Args:
        hidden_states: (batch, tokens, hidden), float32, bfloat16 or float16, of any strides: ``[prefix | patches]``.
        scores: (batch, patches) float32, float64 or int64, of any strides; equal scores go by place, NaN is -inf.
        directions: (batch, patches, channels) float32, of ``feature_directions``.
        positions: (batch, patches) int64, of any strides: the grid place of every patch.
        sizes: (batch, patches) int64; None where each stands for one patch.
        sources: (batch, patches of the grid) int64, places in the sequence; None where each patch is its own token.

    Returns:
        The new sequence (batch, num_prefix + keep, hidden), its positions and sizes (batch, keep) int64, its sources
        (batch, patches of the grid) int64, and the place in it of every old token (batch, tokens) int32.
    """
    (batch, tokens, hidden_size), patches = hidden_states.shape, scores.shape[1]
    places, new_tokens = patches if sources is None else sources.shape[1], num_prefix + keep
    reduced = hidden_states.new_empty((batch, new_tokens, hidden_size))
    new_positions, new_sizes = (positions.new_empty((batch, keep)) for _ in range(2))
    new_sources = positions.new_empty((batch, places))
    destinations = positions.new_empty((batch, tokens), dtype=torch.int32)
    inputs, strides = (directions.contiguous(), scores, positions), (scores.stride(), positions.stride())
    blocks = (min(512, next_power_of_2(patches)), *COMPARED)
    programs = batch * max(1, ceil((patches - keep) / COMPARED[0]))
    found = (inputs, (destinations, new_positions), (num_prefix, patches, keep, directions.shape[2]), strides, *blocks)
    launch(nearest_kept_kernel, programs, directions.device, *found, **COMPARISON_OPTIONS)

    sizes, sources = (None if each is None else each.contiguous() for each in (sizes, sources))
    columns = min(JOINED[1], next_power_of_2(hidden_size))
    rows, column_blocks = min(JOINED[2], JOINED[0] // columns), ceil(hidden_size / columns)
    # Few images: a program for every row.
    rows = rows if batch * ceil(new_tokens / rows) * column_blocks >= PROGRAMS else 1
    counts = (hidden_size, num_prefix, tokens, new_tokens, places)
    joined = ((hidden_states, sizes, sources, destinations), (reduced, new_sizes, new_sources), counts)
    blocks = (min(SCANNED, next_power_of_2(tokens)), rows, columns)
    programs = batch * ceil(new_tokens / rows) * column_blocks
    launch(join_tokens_kernel, programs, reduced.device, *joined, hidden_states.stride(), *blocks)
    return reduced, new_positions, new_sizes, new_sources, destinations


def fold_similar_backward(
    grad_reduced: Tensor, destinations: Tensor, sizes: Tensor | None, new_sizes: Tensor, num_prefix: int
) -> Tensor:
    """The gradient of ``fold_similar`` with respect to its hidden states (batch, tokens, hidden), in one launch.

    Args:
        grad_reduced: (batch, new tokens, hidden), of any strides and of whose dtype the result is.
        destinations, new_sizes: as ``fold_similar`` gave them.
        sizes, num_prefix: as it took them.
    """
    (batch, tokens), (_, new_tokens, hidden_size) = destinations.shape, grad_reduced.shape
    grad_hidden = grad_reduced.new_empty((batch, tokens, hidden_size))
    sizes = None if sizes is None else sizes.contiguous()
    tensors = (grad_reduced, destinations, sizes, new_sizes, grad_hidden)
    counts = (hidden_size, num_prefix, tokens, new_tokens)
    programs = batch * ceil(tokens / TILE[0]) * ceil(hidden_size / TILE[1])
    launch(fold_similar_backward_kernel, programs, grad_hidden.device, tensors, counts, grad_reduced.stride(), *TILE)
    return grad_hidden
