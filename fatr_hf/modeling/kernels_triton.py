# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Triton kernels of token reduction: column means without a map, the reduced sequence in one launch, its gradient.

What ``column_means`` and ``reduce_tokens`` compute, the plain functions of these names say. No atomics and no
autotuning: a result is the same from run to run. The functions at the end launch the kernels; they neither check their
arguments nor know autograd.
"""
# Arguments of kernels have no Python types.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor

from .kernels_common import PROGRAMS, launch, lowest_kept, next_kept, next_power_of_2, product, tl, triton

LOG2_E = 1.4426950408889634

KEY_TILE_BYTES = 64 * 1024
"""Keys of a head that may be in shared memory at a time: with the queries, they fit into the 99 KiB of small GPUs."""

REGISTER_LIMIT = {} if torch.version.hip else {"maxnreg": 128}
"""With it 16 warps share a multiprocessor; by itself ``column_sums_kernel`` takes twice the registers."""

TILE = (16, 128)
"""Tokens and hidden columns of a program of the backward pass and of ``add_residual``."""

REDUCTION_BYTES = (512, 128)
"""Bytes of every token that a program of the reduction moves: with many images, and with few."""


@triton.jit
def _load_tokens(base, image, head, first, tokens, strides, DIMS: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK, DIMS[1]): queries or keys of one head from token ``first`` on, zero beyond the last and ``DIMS[0]``."""
    places, dims = first + tl.arange(0, BLOCK), tl.arange(0, DIMS[1])
    mask = (places[:, None] < tokens) & (dims[None, :] < DIMS[0])
    base += (image * strides[0] + head * strides[1]) * DIMS[2]
    return tl.load(base + places[:, None] * strides[2] * DIMS[2] + dims[None, :] * strides[3], mask=mask, other=0.0)


@triton.jit
def row_statistics_kernel(
    tensors, heads, tokens, factor, strides, DIMS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr
):
    """First of two passes, one block of queries: the largest logit of every row in powers of 2, one over its sum."""
    query, key, row_offsets, row_weights = tensors
    query_strides, key_strides = strides
    query_blocks = tl.cdiv(tokens, QUERIES)
    first = tl.program_id(0) % query_blocks * QUERIES
    image_head = (tl.program_id(0) // query_blocks).to(tl.int64)
    image, head = image_head // heads, image_head % heads
    query_tile = _load_tokens(query, image, head, first, tokens, query_strides, DIMS, QUERIES)
    offsets, sums = tl.full((QUERIES,), float("-inf"), tl.float32), tl.zeros((QUERIES,), tl.float32)
    for first_key in range(0, tokens, KEYS):
        key_tile = _load_tokens(key, image, head, first_key, tokens, key_strides, DIMS, KEYS)
        is_key = first_key + tl.arange(0, KEYS) < tokens
        products = tl.where(is_key[None, :], product(query_tile, tl.trans(key_tile)), float("-inf"))
        new_offsets = tl.maximum(offsets, tl.max(products, axis=1) * factor)
        exponentials = tl.exp2(tl.fma(products, factor, -new_offsets[:, None]))
        sums = sums * tl.exp2(offsets - new_offsets) + tl.sum(exponentials, axis=1)
        offsets = new_offsets
    places = first + tl.arange(0, QUERIES)
    tl.store(row_offsets + image_head * tokens + places, offsets, mask=places < tokens)
    tl.store(row_weights + image_head * tokens + places, 1.0 / sums, mask=places < tokens)


@triton.jit
def column_sums_kernel(
    tensors, heads, tokens, splits, factors, strides, DIMS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr
):
    """Sums of one block of columns of one image's maps, over some heads and queries.

    Without ``row_offsets`` the block is the whole row, which is normalized in registers; with them and without
    ``row_weights`` they are the logarithms of the rows' sums. ``column_weights`` weigh every head's columns.
    """
    query, key, row_offsets, row_weights, column_weights, sums = tensors
    head_splits, query_splits, split_heads, split_queries = splits
    logit_factor, offset_factor, weight = factors
    query_strides, key_strides, offset_strides = strides
    key_blocks = tl.cdiv(tokens, KEYS)
    first_key = 0 if row_offsets is None else tl.program_id(0) % key_blocks * KEYS
    columns = first_key + tl.arange(0, KEYS)
    image_split = (tl.program_id(0) // key_blocks).to(tl.int64)
    image = image_split // (head_splits * query_splits)
    split = tl.program_id(0) // key_blocks % (head_splits * query_splits)
    first_head, first_query = split // query_splits * split_heads, split % query_splits * split_queries

    column_sums = tl.zeros((QUERIES // 16, 8, KEYS), tl.float32)
    for head in range(first_head, min(first_head + split_heads, heads)):
        key_tile = _load_tokens(key, image, head, first_key, tokens, key_strides, DIMS, KEYS)
        for first in range(first_query, min(first_query + split_queries, tokens), QUERIES):
            query_tile = _load_tokens(query, image, head, first, tokens, query_strides, DIMS, QUERIES)
            places = first + tl.arange(0, QUERIES)
            products = product(query_tile, tl.trans(key_tile))
            if row_offsets is None:
                # One rounded offset for the whole row cancels in the quotient, however large the logits are.
                products = tl.where(columns[None, :] < tokens, products, float("-inf"))
                offsets = tl.max(products, axis=1) * logit_factor
                exponentials = tl.exp2(tl.fma(products, logit_factor, -offsets[:, None]))
                exponentials *= tl.where(places < tokens, 1.0 / tl.sum(exponentials, axis=1), 0.0)[:, None]
            else:
                offset_places = image * offset_strides[0] + head * offset_strides[1] + places * offset_strides[2]
                # Rows beyond the last get no weight: 2 ** -inf.
                offsets = tl.load(row_offsets + offset_places, mask=places < tokens, other=float("inf"))
                exponentials = tl.exp2(tl.fma(products, logit_factor, -(offsets * offset_factor)[:, None]))
                if row_weights is not None:
                    exponentials *= tl.load(row_weights + offset_places, mask=places < tokens, other=0.0)[:, None]
            # Rows i and i + 8 of every 16 are in one thread of a tensor core's result: nothing is exchanged here.
            pair_sums = tl.sum(tl.reshape(exponentials, (QUERIES // 16, 2, 8, KEYS)), axis=1)
            if column_weights is not None:
                weight_places = column_weights + (image * heads + head) * tokens + columns
                pair_sums *= tl.load(weight_places, mask=columns < tokens, other=0.0).to(tl.float32)[None, None, :]
            column_sums += pair_sums
    totals = tl.sum(tl.reshape(column_sums, (QUERIES // 2, KEYS)), axis=0) * weight
    tl.store(sums + image_split * tokens + columns, totals, mask=columns < tokens)


@triton.jit
def _window(places, lengths, windows):
    """The window of places of a grid of three axes, in ``[0, prod(windows))``."""
    index = places // (lengths[1] * lengths[2]) * windows[0] // lengths[0]
    index = index * windows[1] + places // lengths[2] % lengths[1] * windows[1] // lengths[1]
    return index * windows[2] + places % lengths[2] * windows[2] // lengths[2]


@triton.jit
def reduce_tokens_kernel(
    inputs, outputs, sizes, grids, strides, PATCHES: tl.constexpr, HIDDEN: tl.constexpr, WINDOWS: tl.constexpr
):
    """Some hidden columns of one image: every token is read once, and goes to its place or into its DC token's sum."""
    TOKENS: tl.constexpr = 32
    hidden_states, scores, positions, dc_counts, dc_position_embeddings = inputs
    reduced, new_positions, new_dc_counts, destinations = outputs
    hidden_size, num_prefix, patches, keep, num_dc, num_old_dc = sizes
    patch_grid, old_windows, windows = grids
    hidden_strides, score_strides, position_strides = strides
    column_block = tl.program_id(0) % tl.cdiv(hidden_size, HIDDEN)
    image = (tl.program_id(0) // tl.cdiv(hidden_size, HIDDEN)).to(tl.int64)
    first_dc, first_old_dc = num_prefix + keep, num_prefix + patches
    scores += image * score_strides[0]
    positions += image * position_strides[0]
    reduced += image * (first_dc + num_dc) * hidden_size
    destinations += image * (first_old_dc + num_old_dc)
    hidden_columns = column_block * HIDDEN + tl.arange(0, HIDDEN)
    is_column = hidden_columns < hidden_size
    column_places = hidden_states + image * hidden_strides[0] + hidden_columns[None, :] * hidden_strides[2]

    threshold, ties = lowest_kept(scores, score_strides[1], patches, keep, PATCHES)
    window_places = tl.arange(0, WINDOWS)
    sums, counts = tl.zeros((WINDOWS, HIDDEN), tl.float32), tl.zeros((WINDOWS,), tl.int32)
    counted = tl.zeros((1,), tl.int64)
    for first in range(0, first_old_dc, TOKENS):
        tokens = first + tl.arange(0, TOKENS)
        is_token, is_patch = tokens < first_old_dc, (tokens >= num_prefix) & (tokens < first_old_dc)
        mask = is_token[:, None] & is_column[None, :]
        tile = tl.load(column_places + tokens[:, None] * hidden_strides[1], mask=mask, other=0.0)

        patch = tokens - num_prefix
        is_kept, slots, counted = next_kept(scores, score_strides[1], patch, is_patch, threshold, ties, counted)
        is_folded = is_patch & (is_kept == 0)

        position = tl.load(positions + patch * position_strides[1], mask=is_patch, other=0)
        window = _window(position.to(tl.int32), patch_grid, windows)
        destination = tl.where(is_folded, first_dc + window, tl.where(is_kept, num_prefix + slots, tokens))
        new_places = reduced + destination[:, None] * hidden_size + hidden_columns[None, :]
        tl.store(new_places, tile, mask=mask & (is_folded == 0)[:, None])
        # Kept tokens are zeroed as well: an infinite one must not reach the sums.
        is_in_window = is_folded[None, :] & (window[None, :] == window_places[:, None])
        folded_tile = tl.where(is_folded[:, None], tile, 0.0).to(tile.dtype)
        sums += product(is_in_window.to(tl.float32).to(tile.dtype), folded_tile)
        counts += tl.sum(is_in_window.to(tl.int32), axis=1)
        if column_block == 0:
            tl.store(destinations + tokens, destination, mask=is_token)
            tl.store(new_positions + image * keep + slots, position, mask=is_kept)

    for first in range(0, num_old_dc, 16):
        old_dc = first + tl.arange(0, 16)
        is_old_dc = old_dc < num_old_dc
        mask, tokens = is_old_dc[:, None] & is_column[None, :], first_old_dc + old_dc
        tile = tl.load(column_places + tokens[:, None] * hidden_strides[1], mask=mask, other=0.0).to(tl.float32)
        old_counts = tl.load(dc_counts + image * num_old_dc + old_dc, mask=is_old_dc, other=0).to(tl.int32)
        window = _window(old_dc, old_windows, windows)
        weights = tl.where(window[None, :] == window_places[:, None], old_counts[None, :], 0)
        sums += product(weights.to(tl.float32), tile)
        counts += tl.sum(weights, axis=1)
        if column_block == 0:
            tl.store(destinations + tokens, first_dc + window, mask=is_old_dc)

    total_means = tl.sum(sums, axis=0) / tl.sum(counts, axis=0).to(tl.float32)
    means = tl.div_rn(sums, tl.maximum(counts, 1).to(tl.float32)[:, None])
    means = tl.where(counts[:, None] > 0, means, total_means[None, :]).to(reduced.dtype.element_ty)
    dc_mask = (window_places < num_dc)[:, None] & is_column[None, :]
    dc_places = window_places[:, None] * hidden_size + hidden_columns[None, :]
    if dc_position_embeddings is not None:
        embeddings = tl.load(dc_position_embeddings + dc_places, mask=dc_mask, other=0.0).to(means.dtype)
        means = (means.to(tl.float32) + embeddings.to(tl.float32)).to(means.dtype)
    tl.store(reduced + first_dc * hidden_size + dc_places, means, mask=dc_mask)
    if column_block == 0:
        tl.store(new_dc_counts + image * num_dc + window_places, counts.to(tl.int64), mask=window_places < num_dc)


@triton.jit
def reduce_tokens_backward_kernel(
    tensors, sizes, strides, TOKENS: tl.constexpr, HIDDEN: tl.constexpr, WINDOWS: tl.constexpr
):
    """The gradient of some tokens and hidden columns of one image, gathered from where these went."""
    grad_reduced, destinations, dc_counts, new_dc_counts, grad_hidden = tensors
    hidden_size, tokens, first_dc, num_dc, num_old_dc = sizes
    column_blocks, token_blocks = tl.cdiv(hidden_size, HIDDEN), tl.cdiv(tokens, TOKENS)
    image = (tl.program_id(0) // column_blocks // token_blocks).to(tl.int64)
    token = tl.program_id(0) // column_blocks % token_blocks * TOKENS + tl.arange(0, TOKENS)
    hidden_columns = tl.program_id(0) % column_blocks * HIDDEN + tl.arange(0, HIDDEN)
    is_token, is_column = token < tokens, hidden_columns < hidden_size
    column_places = grad_reduced + image * strides[0] + hidden_columns[None, :] * strides[2]
    new_dc_counts += image * num_dc

    # Empty windows took the mean of all that was folded, so their gradient goes to all of it.
    windows = tl.arange(0, WINDOWS)
    window_counts = tl.load(new_dc_counts + windows, mask=windows < num_dc, other=0)
    is_empty = (windows < num_dc) & (window_counts == 0)
    dc_places = column_places + (first_dc + windows)[:, None] * strides[1]
    grad_empty = tl.load(dc_places, mask=is_empty[:, None] & is_column[None, :], other=0.0).to(tl.float32)
    grad_total = tl.sum(grad_empty, axis=0) / tl.sum(window_counts, axis=0).to(tl.float32)

    destination = tl.load(destinations + image * tokens + token, mask=is_token, other=0)
    old_dc = token - (tokens - num_old_dc)
    is_folded = is_token & (destination >= first_dc)
    count = tl.load(dc_counts + image * num_old_dc + old_dc, mask=is_token & (old_dc >= 0), other=1)
    window_count = tl.load(new_dc_counts + destination - first_dc, mask=is_folded, other=1)
    shares = count.to(tl.float32) / tl.maximum(window_count, 1).to(tl.float32)

    mask = is_token[:, None] & is_column[None, :]
    grad = tl.load(column_places + destination[:, None] * strides[1], mask=mask, other=0.0).to(tl.float32)
    grad_folded = grad * shares[:, None] + grad_total[None, :] * count.to(tl.float32)[:, None]
    grad = tl.where(is_folded[:, None], grad_folded, grad)
    old_places = grad_hidden + (image * tokens + token)[:, None] * hidden_size + hidden_columns[None, :]
    tl.store(old_places, grad.to(grad_hidden.dtype.element_ty), mask=mask)


@triton.jit
def token_means_kernel(hidden_states, means, hidden_size, tokens, strides, TOKENS: tl.constexpr, HIDDEN: tl.constexpr):
    """The mean of some hidden columns of one image."""
    image = (tl.program_id(0) // tl.cdiv(hidden_size, HIDDEN)).to(tl.int64)
    columns = tl.program_id(0) % tl.cdiv(hidden_size, HIDDEN) * HIDDEN + tl.arange(0, HIDDEN)
    hidden_states += image * strides[0]
    sums = tl.zeros((TOKENS, HIDDEN), tl.float32)
    for first in tl.range(0, tokens, TOKENS, num_stages=3):
        token = first + tl.arange(0, TOKENS)
        mask = (token < tokens)[:, None] & (columns < hidden_size)[None, :]
        token_places = hidden_states + token[:, None] * strides[1] + columns[None, :] * strides[2]
        sums += tl.load(token_places, mask=mask, other=0.0).to(tl.float32)
    mean = (tl.sum(sums, axis=0) / tokens).to(means.dtype.element_ty)
    tl.store(means + image * hidden_size + columns, mean, mask=columns < hidden_size)


@triton.jit
def add_residual_kernel(tensors, hidden_size, tokens, strides, TOKENS: tl.constexpr, HIDDEN: tl.constexpr):
    """The sum for some tokens and hidden columns of one image."""
    residual, update, vector, output = tensors
    residual_strides, update_strides, vector_strides = strides
    column_blocks, token_blocks = tl.cdiv(hidden_size, HIDDEN), tl.cdiv(tokens, TOKENS)
    image = (tl.program_id(0) // column_blocks // token_blocks).to(tl.int64)
    token = tl.program_id(0) // column_blocks % token_blocks * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) % column_blocks * HIDDEN + tl.arange(0, HIDDEN)
    mask = (token < tokens)[:, None] & (columns < hidden_size)[None, :]
    residual += image * residual_strides[0] + columns[None, :] * residual_strides[2]
    update += image * update_strides[0] + columns[None, :] * update_strides[2]
    vector += image * vector_strides[0] + columns[None, :] * vector_strides[1]
    total = tl.load(residual + token[:, None] * residual_strides[1], mask=mask).to(tl.float32)
    total += tl.load(update + token[:, None] * update_strides[1], mask=mask).to(tl.float32)
    total += tl.load(vector, mask=columns[None, :] < hidden_size).to(tl.float32)
    places = output + (image * tokens + token)[:, None] * hidden_size + columns[None, :]
    tl.store(places, total.to(output.dtype.element_ty), mask=mask)


def column_means(
    query: Tensor, key: Tensor, scaling: float, log_sum_exp: Tensor | None = None, column_weights: Tensor | None = None
) -> Tensor:
    """Mean of every column of ``softmax(scaling * Q K^T)`` over all heads and all queries, without the map.

    Up to 256 tokens a query's row of logits is in registers and one pass does; beyond, a first pass finds each row's
    maximum and sum. The sums over parts of the heads and queries are added in a fixed order.

    Args:
        query, key: (batch, heads, tokens, head_dim), float32, bfloat16 or float16, of any strides; head_dim up to 128.
        scaling: factor of the logits, above 0.
        log_sum_exp: (batch, heads, tokens) float32, of the scaled logits; spares the first of two passes.
        column_weights: (batch, heads, tokens) float32, by which a head's columns count; None for 1.

    Returns:
        (batch, tokens) float32.
    """
    batch, heads, tokens, head_dim = query.shape
    # Strides in units of 8, if they are: triton must know it to load 16 bytes at a time.
    unit = 8 if all(stride % 8 == 0 for stride in (*query.stride()[:3], *key.stride()[:3])) else 1
    strides = tuple((*(stride // unit for stride in tensor.stride()[:3]), tensor.stride(3)) for tensor in (query, key))
    half = query.element_size() == 2
    dims, keys = (head_dim, max(16, next_power_of_2(head_dim)), unit), max(16, next_power_of_2(tokens))
    one_pass = tokens <= 256 and keys * dims[1] * query.element_size() <= KEY_TILE_BYTES
    # Products in float32 know no tensor cores: with larger tiles their operands would not fit in registers.
    # The weights of the columns take registers of their own.
    half_queries = 64 if column_weights is None else 32
    if one_pass:
        queries, warps = half_queries if half else 16, 8 if keys * query.element_size() >= 512 else 4
    else:
        queries, keys, warps = (half_queries, 128, 4) if half else (32, 64, 8)
    options = {"num_warps": warps, "num_stages": 3 if half and dims[1] <= 64 else 2}
    options |= REGISTER_LIMIT if half else {}
    query_blocks, key_blocks = ceil(tokens / queries), ceil(tokens / keys)
    factor, blocks = scaling * LOG2_E, (dims, queries, keys)
    offsets, weights, offset_factor = (None if one_pass else log_sum_exp), None, LOG2_E
    if offsets is None and not one_pass:
        # Kept apart: in their sum, a large maximum would round the logarithm away.
        (offsets, weights), offset_factor = query.new_empty((2, batch, heads, tokens), dtype=torch.float32), 1.0
        rows = ((query, key, offsets, weights), heads, tokens, factor, strides, *blocks)
        launch(row_statistics_kernel, batch * heads * query_blocks, query.device, *rows, **options)

    # Few images: parts of the heads, then of the queries, are summed by programs of their own.
    wanted = ceil(PROGRAMS / (batch * key_blocks))
    split_heads = ceil(heads / min(heads, wanted))
    head_splits = ceil(heads / split_heads)
    split_blocks = ceil(query_blocks / min(query_blocks, ceil(wanted / head_splits)))
    splits = (head_splits, ceil(query_blocks / split_blocks), split_heads, split_blocks * queries)
    sums = query.new_empty((batch, splits[0] * splits[1], tokens), dtype=torch.float32)
    factors = (factor, offset_factor, 1.0 / (heads * tokens))
    all_strides = (*strides, None if offsets is None else offsets.stride())
    column_weights = None if column_weights is None else column_weights.contiguous()
    tensors = (query, key, offsets, weights, column_weights, sums)
    columns = (tensors, heads, tokens, splits, factors, all_strides, *blocks)
    launch(column_sums_kernel, batch * sums.shape[1] * key_blocks, query.device, *columns, **options)
    return sums[:, 0] if sums.shape[1] == 1 else sums.sum(dim=1)


def reduce_tokens(
    hidden_states: Tensor,
    scores: Tensor,
    positions: Tensor,
    dc_counts: Tensor,
    grid: Sequence[int],
    num_prefix: int,
    old_windows: Sequence[int],
    keep: int,
    windows: Sequence[int],
    dc_position_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keeps the ``keep`` highest patch tokens and folds all other patches and old DC tokens, in one launch.

    Args:
        hidden_states: (batch, tokens, hidden), float32, bfloat16 or float16: ``[prefix | patches | old DC tokens]``.
        scores: (batch, patches) float32, float64 or int64, of any strides; equal scores go by place, NaN is -inf.
        positions: (batch, patches) int64, of any strides: the grid place of every patch.
        dc_counts: (batch, old DC tokens) int64.
        grid, old_windows, windows: along each of up to three axes; ``old_windows`` is empty without old DC tokens.
        dc_position_embeddings: (DC tokens, hidden).

    Returns:
        The new sequence (batch, num_prefix + keep + DC tokens, hidden), its positions (batch, keep) int64, its
        dc_counts (batch, DC tokens) int64, and the place in it of every old token, or of its DC token (batch, tokens)
        int32.
    """
    (batch, tokens, hidden_size), patches = hidden_states.shape, scores.shape[1]
    # Three axes for the kernel, the first ones of length 1.
    grids = tuple((1,) * (3 - len(numbers)) + tuple(numbers) for numbers in (grid, old_windows, windows))
    num_dc, num_old_dc = prod(grids[2]), dc_counts.shape[1]
    reduced = hidden_states.new_empty((batch, num_prefix + keep + num_dc, hidden_size))
    new_positions, new_dc_counts = positions.new_empty((batch, keep)), positions.new_empty((batch, num_dc))
    destinations = positions.new_empty((batch, tokens), dtype=torch.int32)
    embeddings = None if dc_position_embeddings is None else dc_position_embeddings.contiguous()
    inputs = (hidden_states, scores, positions, dc_counts.contiguous(), embeddings)
    outputs = (reduced, new_positions, new_dc_counts, destinations)
    sizes = (hidden_size, num_prefix, patches, keep, num_dc, num_old_dc)
    strides = (hidden_states.stride(), scores.stride(), positions.stride())
    wide, narrow = (number // hidden_states.element_size() for number in REDUCTION_BYTES)
    # The sums of many windows over a wide block would not fit in registers.
    columns = wide if num_dc <= 16 and 2 * batch * ceil(hidden_size / wide) >= PROGRAMS else narrow
    blocks = (min(512, next_power_of_2(patches)), columns, max(16, next_power_of_2(num_dc)))
    programs = batch * ceil(hidden_size / columns)
    launch(reduce_tokens_kernel, programs, reduced.device, inputs, outputs, sizes, grids, strides, *blocks)
    return outputs


def reduce_tokens_backward(
    grad_reduced: Tensor, destinations: Tensor, dc_counts: Tensor, new_dc_counts: Tensor, first_dc: int
) -> Tensor:
    """The gradient of ``reduce_tokens`` with respect to its hidden states (batch, tokens, hidden), summed in float32.

    Args:
        grad_reduced: (batch, new tokens, hidden), of whose dtype the result is.
        destinations, new_dc_counts: as ``reduce_tokens`` gave them.
        dc_counts: as it took them.
        first_dc: the place of the first new DC token.
    """
    (batch, tokens), hidden_size = destinations.shape, grad_reduced.shape[2]
    grad_hidden = grad_reduced.new_empty((batch, tokens, hidden_size))
    tensors = (grad_reduced, destinations, dc_counts.contiguous(), new_dc_counts, grad_hidden)
    num_dc = new_dc_counts.shape[1]
    sizes = (hidden_size, tokens, first_dc, num_dc, dc_counts.shape[1])
    programs = batch * ceil(tokens / TILE[0]) * ceil(hidden_size / TILE[1])
    arguments = (tensors, sizes, grad_reduced.stride(), *TILE, next_power_of_2(num_dc))
    launch(reduce_tokens_backward_kernel, programs, grad_hidden.device, *arguments)
    return grad_hidden


def token_means(hidden_states: Tensor) -> Tensor:
    """The mean over tokens of (batch, tokens, hidden), summed in float32: (batch, hidden) in the same dtype."""
    batch, tokens, hidden_size = hidden_states.shape
    means = hidden_states.new_empty((batch, hidden_size))
    # Few images: narrow programs of many tokens, so that more of them read at a time.
    block = (32, 128) if batch * ceil(hidden_size / 128) >= PROGRAMS else (128, 32)
    programs, strides = batch * ceil(hidden_size / block[1]), hidden_states.stride()
    launch(token_means_kernel, programs, means.device, hidden_states, means, hidden_size, tokens, strides, *block)
    return means


def add_residual(residual: Tensor, update: Tensor, vector: Tensor) -> Tensor:
    """``residual + update + vector[:, None, :]`` in one pass and in float32, rounded to the dtype of ``residual``.

    ``residual`` and ``update`` are (batch, tokens, hidden), ``vector`` is (batch, hidden).
    """
    (batch, tokens, hidden_size), output = residual.shape, residual.new_empty(residual.shape)
    tensors, strides = (residual, update, vector, output), (residual.stride(), update.stride(), vector.stride())
    programs = batch * ceil(tokens / TILE[0]) * ceil(hidden_size / TILE[1])
    launch(add_residual_kernel, programs, output.device, tensors, hidden_size, tokens, strides, *TILE)
    return output
