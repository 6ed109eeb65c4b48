# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of tokens by the attention they get, exact and without an attention map of the whole sequence.

The score of the method is the mean of every column of the attention map, over all heads and queries. The paper states
it for ``A_HP = A - 1/N`` (section 3, arXiv 2511.21477); the constant does not change the ranking. All functions compute
in float32 or better whatever their inputs, and carry no gradient. Fused kernels for GPUs are in ``kernels_triton.py``.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from .token_reduction import without_autocast

BLOCK_ELEMENTS = {"cpu": 2**19}
"""Attention weights held at a time, by device type: what a CPU core's cache takes, elsewhere ``LARGE_BLOCK``."""

LARGE_BLOCK = 2**26


@torch.no_grad()
def naive_column_means(query: Tensor, key: Tensor, scaling: float, weights: Tensor | None = None) -> Tensor:
    """Column means of ``A = softmax(scaling * Q K^T)``, one head's map at a time.

    Args:
        query, key: (batch, heads, tokens, head_dim).
        weights: (batch, heads, tokens) in float32 or better, by which a head's columns count; None for 1.

    Returns:
        (batch, tokens) in float32, or in float64 for float64 input.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    heads, queries = query.shape[1], query.shape[2]
    total = torch.zeros((), dtype=dtype, device=query.device)
    with without_autocast(query.device):
        for head in range(heads):
            logits = query[:, head].to(dtype) @ key[:, head].to(dtype).transpose(1, 2) * scaling
            sums = logits.softmax(dim=2).sum(dim=1)
            total = total + (sums if weights is None else sums * weights[:, head])
    return total / (heads * queries)


@torch.no_grad()
def blocked_column_means(
    query: Tensor, key: Tensor, scaling: float, log_sum_exp: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """As ``naive_column_means``, by blocks of queries: no map of all queries exists where it would be large.

    Args:
        query, key: (batch, heads, tokens, head_dim).
        log_sum_exp: (batch, heads, tokens), of every query's logits; saves finding it again.
        weights: as for ``naive_column_means``.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    dtype = torch.promote_types(query.dtype, torch.float32)
    block = max(1, BLOCK_ELEMENTS.get(query.device.type, LARGE_BLOCK) // (batch * keys))
    total = query.new_zeros(batch, keys, dtype=dtype)
    with without_autocast(query.device):
        for head in range(heads):
            head_query, head_key = query[:, head].to(dtype), key[:, head].to(dtype).transpose(1, 2)
            sums = total if weights is None else torch.zeros_like(total)
            for first in range(0, queries, block):
                rows = slice(first, first + block)
                if log_sum_exp is None:
                    # With beta = 0 the first argument is not read.
                    logits = torch.baddbmm(total[:, :1, None], head_query[:, rows], head_key, beta=0, alpha=scaling)
                    sums += logits.softmax(dim=2).sum(dim=1)
                else:
                    offset = -log_sum_exp[:, head, rows, None].to(dtype)
                    exponentials = torch.baddbmm(offset, head_query[:, rows], head_key, alpha=scaling).exp_()
                    # Rows sum to 1 but for the rounding of the log-sum-exp, which is coarse where logits are large.
                    row_weights = exponentials.sum(dim=2, keepdim=True).reciprocal_()
                    sums += (row_weights.transpose(1, 2) @ exponentials).squeeze(1)
            if weights is not None:
                total += sums * weights[:, head]
    return total / (heads * queries)


def attention_with_log_sum_exp(
    query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> tuple[Tensor, Tensor] | None:
    """What ``scaled_dot_product_attention`` computes here, by the same kernel, and the log-sum-exp it throws away.

    Args:
        query, key, value: (batch, heads, tokens, head_dim).

    Returns:
        Output (batch, heads, tokens, head_dim), with gradients, and the log-sum-exp of the scaled logits (batch,
        heads, tokens) in float32 or better; None where no kernel that knows it would run.
    """
    aten = torch.ops.aten
    backend = torch._fused_sdp_choice(query, key, value, scale=scaling)
    if query.device.type == "cpu" and backend == SDPBackend.FLASH_ATTENTION.value:
        output, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
    elif query.device.type == "cuda" and backend == SDPBackend.FLASH_ATTENTION.value and query.shape[3] % 8 == 0:
        output, sums, *_ = aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)
    elif query.device.type == "cuda" and backend == SDPBackend.EFFICIENT_ATTENTION.value:
        output, sums, *_ = aten._scaled_dot_product_efficient_attention(query, key, value, None, True, scale=scaling)
    elif query.device.type == "cuda" and backend == SDPBackend.CUDNN_ATTENTION.value:
        output, sums, *_ = aten._scaled_dot_product_cudnn_attention(query, key, value, None, True, scale=scaling)
    else:
        return None
    # Some kernels pad the queries, some keep a last dimension of 1.
    batch, heads, queries, _ = query.shape
    return output, sums.detach().reshape(batch, heads, -1)[:, :, :queries]


@torch.no_grad()
def cls_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention of the first token, averaged over heads: EViT's score.

    Args:
        query, key: (batch, heads, tokens, head_dim).

    Returns:
        (batch, tokens) in float32, or in float64 for float64 input.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        logits = query[:, :, :1].to(dtype) @ key.to(dtype).transpose(2, 3) * scaling
    return logits.softmax(dim=3).mean(dim=1).squeeze(1)
