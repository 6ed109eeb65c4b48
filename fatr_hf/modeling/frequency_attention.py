# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention for token reduction: exact scores, per-head re-weighting and the size of tokens.

``A`` (N x N, rows sum to 1) is the attention map of a head, ``A_LP = 11^T / N`` its low-pass part and
``A_HP = A - A_LP`` the rest (section 3 of the paper, arXiv 2511.21477). Re-weighting and sizes are rewritten as
changes of queries, keys and values, so that any attention function computes them, without a map.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .attention_scores import attention_with_log_sum_exp, cls_attention, naive_column_means
from .operators import Likeness, check_kernels, column_kernel_serves, column_means
from .token_plan import SIZE_CHANNELS
from .token_reduction import TokenLayout

SCORE_IMPLEMENTATIONS = ("map", "log_sum_exp", "triton", "blocked", "naive")
"""How column means are computed: from the map of eager attention, from the log-sum-exp of PyTorch's fused attention, by
the fused kernel, by blocks of queries, or one map per head at a time. All are exact."""

EXCLUDED_LOGIT = -2e3
"""The logit towards an empty window: its weight underflows to 0, and float16 can hold it before the scaling."""


class AttentionResult(NamedTuple):
    """What attention gives besides its output."""

    output: Tensor
    """(batch, tokens, heads, head_dim)."""
    weights: Tensor | None
    """(batch, heads, tokens, tokens), the map ``A`` where the attention function makes one."""
    scores: Tensor | None
    """(batch, tokens) in float32 or better, where the selection is scored by the attention."""


class Evidence(NamedTuple):
    """What a layer's attention tells of its tokens to a reduction."""

    scores: Tensor | None
    """(batch, tokens) in float32 or better, where the selection is scored by the attention; of a selection that is a
    function, its result."""
    keys: Tensor | None = None
    """(batch, tokens, head_dim) in float32 or better: the keys as projected, averaged over heads, without gradient;
    where the plan asks for them."""


def mean_keys(key: Tensor) -> Tensor:
    """``Evidence.keys`` of the keys (batch, heads, tokens, head_dim)."""
    return key.detach().mean(dim=1, dtype=torch.promote_types(key.dtype, torch.float32))


def attend(
    attention_function: Callable[..., tuple[Tensor, Tensor | None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    selection: str | Callable[..., Any] | None = None,
    column_weights: Tensor | None = None,
    dropout: float = 0.0,
    score_implementation: str | None = None,
    **kwargs: Any,
) -> AttentionResult:
    """Attention output and the attention scores of a selection: one interface for every implementation.

    Args:
        attention_function: one of transformers' attention functions; computes the output.
        module: the attention module, which these functions take first.
        query, key, value: (batch, heads, tokens, head_dim).
        scaling: factor of the logits.
        selection: one of ``SELECTIONS``, or a function (see ``LayerPlan``), in a layer that reduces; None elsewhere.
        column_weights: (batch, heads, tokens), by which a head's columns count in their mean; None for 1.
        dropout: attention dropout; the scores are those of the map before it.
        score_implementation: one of ``SCORE_IMPLEMENTATIONS`` for the column means; by default the best available.

    Raises:
        ValueError: an implementation that is unknown or cannot serve here.
    """
    by_columns = selection in ("high_frequency", "low_frequency", "high_frequency_energy")
    if by_columns and score_implementation in (None, "log_sum_exp"):
        attended = None
        if attention_function is sdpa_attention_forward and not dropout:
            attended = attend_with_log_sum_exp(query, key, value, scaling, column_weights, score_implementation)
        if attended is not None:
            return attended
        if score_implementation is not None:
            raise ValueError(
                "score_implementation='log_sum_exp' needs attn_implementation='sdpa' without attention dropout, and a "
                f"fused kernel of PyTorch's for {query.dtype} on {query.device.type}: one of these is missing."
            )

    output, weights = attention_function(module, query, key, value, None, dropout=dropout, scaling=scaling, **kwargs)
    if weights is not None and weights.dim() != 4:
        weights = None  # flex attention gives its log-sum-exp in this place
    # A map in half precision is rounded and a map with dropout is another one: neither gives exact scores.
    exact_map = weights.detach() if weights is not None and not dropout and weights.dtype.itemsize >= 4 else None
    scores = None
    if by_columns and exact_map is not None and score_implementation in (None, "map"):
        scores = means_of_columns(exact_map, column_weights)
    elif by_columns:
        scores = column_means_without_map(query, key, scaling, column_weights, score_implementation)
    elif selection == "cls_attention":
        scores = cls_attention(query, key, scaling) if exact_map is None else exact_map[:, :, 0].mean(dim=1)
    elif callable(selection):
        scores = selection(query, key, scaling, exact_map)
    return AttentionResult(output, weights, scores)


def means_of_columns(attention: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of every column of maps (batch, heads, tokens, tokens), each head's weighted: (batch, tokens)."""
    if weights is None:
        return attention.mean(dim=(1, 2))
    return (attention.mean(dim=2) * weights).mean(dim=1)


def attend_with_log_sum_exp(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    column_weights: Tensor | None,
    score_implementation: str | None,
) -> AttentionResult | None:
    """SDPA's output, and scores from the log-sum-exp that it computes on the way; None where another way is better.

    The choice of SDPA's kernel cannot be compiled, and where the fused kernel runs it needs no log-sum-exp.
    """
    if score_implementation is None and (torch.compiler.is_compiling() or column_kernel_serves(query, key)):
        return None
    attended = attention_with_log_sum_exp(query, key, value, scaling)
    if attended is None:
        return None
    output, log_sum_exp = attended
    scores = column_means(query, key, scaling, log_sum_exp, column_weights, fused=column_kernel_serves(query, key))
    return AttentionResult(output.transpose(1, 2), None, scores)


def column_means_without_map(
    query: Tensor, key: Tensor, scaling: float, weights: Tensor | None, implementation: str | None
) -> Tensor:
    """Column means by one of ``SCORE_IMPLEMENTATIONS``: the fused kernel where it serves, else blocks.

    An exported graph holds plain operators, so that it runs where this package is not.
    """
    if implementation is None:
        implementation = "triton" if column_kernel_serves(query, key) else "blocked"
        if torch.compiler.is_exporting():
            implementation = "naive"
    if implementation == "naive":
        return naive_column_means(query, key, scaling, weights)
    if implementation in ("triton", "blocked"):
        if implementation == "triton":
            check_kernels("score_implementation", query, head_dim=query.shape[3])
        return column_means(query, key, scaling, weights=weights, fused=implementation == "triton")
    if implementation in SCORE_IMPLEMENTATIONS:
        raise ValueError(
            f"score_implementation={implementation!r} needs attention that gives its map in float32 or better, without "
            "dropout: load the model with attn_implementation='eager'."
        )
    raise ValueError(f"score_implementation={implementation!r} must be one of {', '.join(SCORE_IMPLEMENTATIONS)}.")


@torch.no_grad()
def value_energies(value: Tensor, layout: TokenLayout) -> Tensor:
    """How far each token's value is from the mean over the patch tokens: what it adds to high frequencies.

    Args:
        value: (batch, heads, tokens, head_dim), before re-weighting.

    Returns:
        (batch, heads, tokens) in float32 or better.
    """
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    patches = value[:, :, layout.num_prefix : layout.num_prefix + layout.num_patches]
    return torch.linalg.vector_norm(value - patches.mean(dim=2, keepdim=True), dim=3)


@torch.no_grad()
def dc_dissimilarity(hidden_states: Tensor) -> Tensor:
    """Minus the cosine between each token and the DC signal, the mean over all tokens.

    Args:
        hidden_states: (batch, tokens, hidden).

    Returns:
        (batch, tokens) in float32 or better; high for tokens unlike the mean.
    """
    tokens = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    return -nn.functional.cosine_similarity(tokens, tokens.mean(dim=1, keepdim=True), dim=2)


def fixed_random_scores(num_patches: int, layer: int, device: torch.device) -> Tensor:
    """Scores that rank the grid's places at random, always alike for one layer: an image never sees its neighbours.

    An integer hash (xorshift and multiply, 32 bits), the same on every device and in every export.

    Returns:
        (num_patches,) int64.
    """
    mask = 2**32 - 1
    state = (torch.arange(num_patches, device=device) + 1) * 0x9E3779B1 + (layer + 1) * 0x85EBCA77 & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D)):
        state = (state ^ state >> shift) * factor & mask
    return state ^ state >> 16


def reweight_values(value: Tensor, omega1: Tensor | None, omega2: Tensor | None, num_dc: int) -> Tensor:
    """Values ``V''`` for which ``A V'' = (A + omega1 * A_HP + omega2 * A_DC) V``, for any map with rows that sum to 1.

    ``V''_k = V_k + omega1 * (V_k - mean(V)) + omega2 * [k is DC] * V_k``; ``A_DC`` is ``A`` with all but the columns of
    DC tokens zeroed. With both at zero the values come back unchanged, bit for bit.

    Args:
        value: (batch, heads, tokens, head_dim), the last ``num_dc`` tokens being DC tokens.
        omega1, omega2: (heads,), or None for none.
    """
    if omega1 is None:
        reweighted = value.clone()
    else:
        # Towards the mean by minus omega1: one pass, and a small omega1 keeps its digits in half precision.
        weight = -omega1.to(value.dtype)[:, None, None]
        reweighted = torch.lerp(value, value.mean(dim=2, keepdim=True), weight)
    if omega2 is not None and num_dc:
        amplified = omega2.to(value.dtype)[:, None, None] * value[:, :, -num_dc:]
        reweighted = change_last(reweighted, reweighted[:, :, -num_dc:] + amplified)
    return reweighted


def change_last(value: Tensor, last: Tensor) -> Tensor:
    """A value (batch, heads, tokens, head_dim) whose last tokens are others; in place where that is possible."""
    count = last.shape[2]
    if torch.compiler.is_exporting():
        # Writing into a part becomes a scatter, on which onnxruntime spends a fifth of its time.
        return torch.cat([value[:, :, :-count], last], dim=2)
    value[:, :, -count:] = last
    return value


def append_sizes(
    query: Tensor, key: Tensor, value: Tensor, counts: Tensor, exponent: float, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Raises the logits towards a token that stands for ``c`` patches by ``exponent * log(c)``, without a mask.

    The bias travels in further channels: queries hold a constant there, keys the bias. It is split into a rounded
    part and its remainder, so that half precision loses nothing of it. An empty window (``c = 0``) gets no attention.

    Args:
        query, key, value: (batch, heads, tokens, head_dim).
        counts: (batch, last tokens), the patches that each of the last tokens stands for; those before stand for one.
        scaling: factor that the attention applies to ``query @ key``.

    Returns:
        Query, key and value with ``SIZE_CHANNELS`` more channels; those of the value are zero.
    """
    # A power of two is exact in every dtype; what it leaves of one over the scaling goes into the bias.
    constant = 2.0 ** round(-math.log2(scaling))
    logs = counts.clamp(min=1).to(torch.promote_types(key.dtype, torch.float32)).log()
    bias = torch.where(counts > 0, exponent * logs, EXCLUDED_LOGIT) / (scaling * constant)
    coarse = bias.to(key.dtype)
    fine = (bias - coarse).to(key.dtype)
    channels = torch.stack([coarse, fine], dim=2)[:, None].expand(-1, key.shape[1], -1, -1)
    channels = nn.functional.pad(channels, (0, SIZE_CHANNELS - 2, key.shape[2] - counts.shape[1], 0))
    constants = query.new_full((1, 1, 1, SIZE_CHANNELS), constant).expand(*query.shape[:3], -1)
    return (
        torch.cat([query, constants], dim=3),
        torch.cat([key, channels], dim=3),
        nn.functional.pad(value, (0, SIZE_CHANNELS)),
    )


def selection_scores(
    selection: str | Callable[..., Any] | None,
    attention_scores: Tensor | None,
    hidden_states: Tensor,
    layout: TokenLayout,
    layer: int,
    likeness: Likeness | None = None,
) -> Tensor:
    """The scores that rank patch tokens; the highest are kept.

    ``high_frequency``: column means, the method (equation of the score in section 3). ``high_frequency_energy``: column
    means weighted by the energy of the values, times ``distinctness`` squared. ``low_frequency``: column means, lowest
    first.
    ``cls_attention``: attention of the CLS token. ``dc_similarity``: tokens like the DC signal go first. ``random``: a
    fixed random order of the grid's places.

    Args:
        attention_scores: (batch, tokens), the scores that ``attend`` gave for this selection.
        hidden_states: (batch, tokens, hidden), the sequence about to be reduced.
        likeness: of the patch tokens, where the selection needs it.

    Returns:
        (batch, patches), without gradient.
    """
    patches = slice(layout.num_prefix, layout.num_prefix + layout.num_patches)
    if selection == "dc_similarity":
        return dc_dissimilarity(hidden_states)[:, patches]
    if selection == "random":
        grid_scores = fixed_random_scores(math.prod(layout.grid), layer, hidden_states.device)
        return grid_scores[layout.positions]
    assert attention_scores is not None, f"selection {selection!r} is scored by the attention"
    if selection == "high_frequency_energy":
        assert likeness is not None, "the energy of a token counts as far as it is distinct"
        energies = attention_scores[:, patches]
        return energies * likeness.distinctness(energies).square()
    return attention_scores[:, patches] * (-1 if selection == "low_frequency" else 1)
