# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Fused kernels as PyTorch operators: torch.compile, CUDA graphs and autograd see each of them as one step.

The same files may be executed several times in one process, as the package and as code that came with a checkpoint.
Operators are global, so their namespace is a hash of the files that they run: equal files share their operators, and
different versions never call each other's.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .attention_scores import blocked_column_means
from .kernels_common import HAS_TRITON
from .kernels_similarity import distinctness as distinctness_kernel
from .kernels_similarity import feature_directions as feature_directions_kernel
from .kernels_similarity import fold_similar as fold_similar_kernel
from .kernels_similarity import fold_similar_backward as fold_similar_backward_kernel
from .kernels_triton import add_residual as add_residual_kernel
from .kernels_triton import column_means as column_means_kernel
from .kernels_triton import reduce_tokens as reduce_tokens_kernel
from .kernels_triton import reduce_tokens_backward as reduce_tokens_backward_kernel
from .kernels_triton import token_means as token_means_kernel
from .token_plan import axis_windows, window_count
from .token_reduction import TokenLayout, distinctness, feature_similarity, fold_similar, reduce_tokens, token_sources

SOURCES = (
    "attention_scores.py",
    "kernels_common.py",
    "kernels_similarity.py",
    "kernels_triton.py",
    "operators.py",
    "token_plan.py",
    "token_reduction.py",
)


def hash_of_sources() -> str:
    """16 hexadecimal digits that change with any of ``SOURCES``."""
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES)
    return hashlib.sha256(code).hexdigest()[:16]


NAMESPACE = f"fatr_{hash_of_sources()}"
OPERATORS: Any = getattr(torch.ops, NAMESPACE)

REDUCTION_IMPLEMENTATIONS = ("plain", "triton")

LARGE_TENSOR = 2**22
"""Elements from which on memory traffic takes longer than launching; below, PyTorch's own operators launch faster."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernels_serve(*tensors: Tensor) -> bool:
    """Whether the fused kernels take these tensors: all on a GPU, in float32 or a half precision."""
    return HAS_TRITON and all(tensor.device.type == "cuda" and tensor.dtype in KERNEL_DTYPES for tensor in tensors)


def column_kernel_serves(query: Tensor, key: Tensor) -> bool:
    """Whether the fused kernel of the column means takes these queries and keys (batch, heads, tokens, head_dim)."""
    head_dim = query.shape[3]
    return kernels_serve(query, key) and head_dim % 8 == 0 and head_dim <= 128


def check_kernels(argument: str, tensor: Tensor, head_dim: int = 8) -> None:
    """Raises a ValueError where the fused kernels were asked for by name and cannot run on such a tensor.

    Under Triton's interpreter they run on the CPU too.
    """
    if not HAS_TRITON:
        reason = "triton is not installed"
    elif tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        reason = f"the tensors are on {tensor.device.type}, not on a GPU"
    elif tensor.dtype not in KERNEL_DTYPES:
        reason = f"{tensor.dtype} is none of float32, bfloat16 and float16"
    elif head_dim % 8 or head_dim > 128:
        reason = f"the head dimension {head_dim} is no multiple of 8 up to 128"
    else:
        return
    raise ValueError(f"{argument}='triton' cannot serve here: {reason}. Leave it out to have the best chosen.")


def column_means(
    query: Tensor,
    key: Tensor,
    scaling: float,
    log_sum_exp: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    fused: bool,
) -> Tensor:
    """Column means of the attention map (see ``attention_scores.py``), by the fused kernel or by blocks.

    Args:
        query, key: (batch, heads, tokens, head_dim); the fused kernel takes ``KERNEL_DTYPES`` and head dimensions that
            are multiples of 8 up to 128.
        log_sum_exp: (batch, heads, tokens) of the scaled logits, where it is known.
        weights: (batch, heads, tokens) in float32 or better, by which a head's columns count; None for 1.

    Returns:
        (batch, tokens) in float32, or in float64 for float64 input; without gradient.
    """
    return OPERATORS.column_means(query.detach(), key.detach(), scaling, log_sum_exp, weights, fused)


def fused_reduce_tokens(
    hidden_states: Tensor,
    scores: Tensor,
    layout: TokenLayout,
    keep: int,
    windows: int | Sequence[int],
    dc_position_embeddings: Tensor | None = None,
) -> tuple[Tensor, TokenLayout]:
    """``token_reduction.reduce_tokens`` in one kernel, and one more backward; same arguments and results."""
    windows = axis_windows(windows, len(layout.grid))
    reduced, positions, dc_counts, _ = OPERATORS.reduce_tokens(
        hidden_states,
        scores,
        layout.positions,
        layout.dc_counts,
        layout.grid,
        layout.num_prefix,
        layout.windows,
        keep,
        windows,
        dc_position_embeddings,
    )
    return reduced, TokenLayout(layout.grid, layout.num_prefix, windows, positions, dc_counts)


def fused_fold_similar(
    hidden_states: Tensor, scores: Tensor, directions: Tensor, layout: TokenLayout, keep: int
) -> tuple[Tensor, TokenLayout]:
    """``token_reduction.fold_similar`` in two kernels, and one backward; it takes the features' directions."""
    reduced, positions, sizes, sources, _ = OPERATORS.fold_similar(
        hidden_states,
        scores,
        directions,
        layout.positions,
        layout.sizes,
        token_sources(layout) if layout.is_reduced else None,
        layout.num_prefix,
        keep,
    )
    return reduced, layout._replace(positions=positions, sources=sources, sizes=sizes)


class Likeness(NamedTuple):
    """How much alike patch tokens are: the plain functions read it from a matrix, the fused kernels never make one."""

    compared: Tensor
    """(batch, patches, patches), of ``feature_similarity``; fused: of ``feature_directions``."""
    fused: bool

    def distinctness(self, energies: Tensor) -> Tensor:
        """``token_reduction.distinctness`` for energies (batch, patches)."""
        return (OPERATORS.distinctness if self.fused else distinctness)(self.compared, energies)

    def fold(self, hidden_states: Tensor, scores: Tensor, layout: TokenLayout, keep: int) -> tuple[Tensor, TokenLayout]:
        """``token_reduction.fold_similar`` for these tokens."""
        fold = fused_fold_similar if self.fused else fold_similar
        return fold(hidden_states, scores, self.compared, layout, keep)


def compare_features(implementation: str | None, hidden_states: Tensor, features: Tensor) -> Likeness:
    """Compares patch tokens by one of ``REDUCTION_IMPLEMENTATIONS``, as named or by the fused kernels where they serve.

    Args:
        hidden_states: (batch, tokens, hidden), the tokens to be reduced.
        features: (batch, patches, channels), of ``token_features``.

    Raises:
        ValueError: an unknown name, or fused kernels that cannot run here.
    """
    fused = runs_fused(implementation, hidden_states, features)
    return Likeness(OPERATORS.feature_directions(features) if fused else feature_similarity(features), fused)


def runs_fused(implementation: str | None, *tensors: Tensor) -> bool:
    """Whether a reduction runs on fused kernels: as one of ``REDUCTION_IMPLEMENTATIONS`` says, or where they serve.

    Raises:
        ValueError: an unknown name, or fused kernels that cannot run here.
    """
    if implementation is None:
        return kernels_serve(*tensors) and not torch.compiler.is_exporting()
    if implementation not in REDUCTION_IMPLEMENTATIONS:
        raise ValueError(
            f"reduction_implementation={implementation!r} must be one of {', '.join(REDUCTION_IMPLEMENTATIONS)}."
        )
    if implementation == "triton":
        check_kernels("reduction_implementation", tensors[0])
    return implementation == "triton"


def reduction_function(
    implementation: str | None, hidden_states: Tensor, windows: tuple[int, ...], dc_position_embeddings: Tensor | None
) -> Callable[..., tuple[Tensor, TokenLayout]]:
    """One of ``REDUCTION_IMPLEMENTATIONS``: as named, or the fused kernel where it serves; it makes DC tokens.

    Raises:
        ValueError: an unknown name, or a fused kernel that cannot run here.
    """
    tensors = (hidden_states,) if dc_position_embeddings is None else (hidden_states, dc_position_embeddings)
    same_dtype = all(tensor.dtype == hidden_states.dtype for tensor in tensors)
    if implementation is None and not (windows and same_dtype):
        return reduce_tokens
    fused = runs_fused(implementation, *tensors)
    if fused and not windows:
        raise ValueError(
            "reduction_implementation='triton' makes DC tokens, of which dc_windows=0 wants none: leave it out."
        )
    return fused_reduce_tokens if fused else reduce_tokens


def fuses_elementwise(*tensors: Tensor) -> bool:
    """Whether a kernel of ours is to do what torch.compile does by itself: eager inference, large tensors on a GPU."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or tensors[0].numel() < LARGE_TENSOR:
        return False
    return kernels_serve(*tensors)


def token_means(hidden_states: Tensor) -> Tensor:
    """Mean over the tokens of (batch, tokens, hidden): (batch, hidden)."""
    return OPERATORS.token_means(hidden_states) if fuses_elementwise(hidden_states) else hidden_states.mean(dim=1)


def add_residual(residual: Tensor, update: Tensor, vector: Tensor | None = None, in_place: bool = False) -> Tensor:
    """``residual + update``, and ``vector`` (batch, hidden) for every token where there is one.

    Args:
        residual, update: (batch, tokens, hidden).
        in_place: the update's memory may be overwritten, which on a CPU is much faster than taking new.
    """
    if vector is not None and fuses_elementwise(residual, update, vector):
        return OPERATORS.add_residual(residual, update, vector)
    total = update.add_(residual) if in_place and update.dtype == residual.dtype else residual + update
    return total if vector is None else total.add_(vector[:, None])


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> str:
    """Defines one operator for all devices and says its qualified name."""
    name = f"{NAMESPACE}::{schema.split('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "default", implementation)
    torch.library.register_fake(name, fake)
    return name


def define_column_means() -> None:
    """Defines the scores' operator; its multiply-accumulates are those of ``Q K^T``."""

    def run(
        query: Tensor, key: Tensor, scaling: float, log_sum_exp: Tensor | None, weights: Tensor | None, fused: bool
    ) -> Tensor:
        return (column_means_kernel if fused else blocked_column_means)(query, key, scaling, log_sum_exp, weights)

    def fake(query: Tensor, key: Tensor, *arguments: Any) -> Tensor:
        dtype = torch.promote_types(query.dtype, torch.float32)
        return query.new_empty(query.shape[0], key.shape[2], dtype=dtype)

    define(
        "column_means(Tensor query, Tensor key, float scaling, Tensor? log_sum_exp, Tensor? weights, bool fused)"
        " -> Tensor",
        run,
        fake,
    )

    @register_flop_formula(OPERATORS.column_means)
    def flops(query: Any, key: Any, *arguments: Any, **options: Any) -> int:
        batch, heads, queries, head_dim = query
        return 2 * batch * heads * queries * key[2] * head_dim


def define_reduce_tokens() -> None:
    """Defines the reduction's operators, forward and backward."""

    def fake(
        hidden_states: Tensor,
        scores: Tensor,
        positions: Tensor,
        dc_counts: Tensor,
        grid: list[int],
        num_prefix: int,
        old_windows: list[int],
        keep: int,
        windows: list[int],
        dc_position_embeddings: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, tokens, hidden = hidden_states.shape
        return (
            hidden_states.new_empty(batch, num_prefix + keep + window_count(windows), hidden),
            positions.new_empty(batch, keep),
            dc_counts.new_empty(batch, window_count(windows)),
            positions.new_empty(batch, tokens, dtype=torch.int32),
        )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, _, dc_counts, _, ctx.num_prefix, _, ctx.keep, _, embeddings = inputs
        ctx.has_embeddings = embeddings is not None
        ctx.save_for_backward(output[3], dc_counts, output[2])

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        destinations, dc_counts, new_dc_counts = ctx.saved_tensors
        grad_hidden = OPERATORS.reduce_tokens_backward(
            grad, destinations, dc_counts, new_dc_counts, ctx.num_prefix + ctx.keep
        )
        grad_embeddings = grad[:, ctx.num_prefix + ctx.keep :].sum(dim=0) if ctx.has_embeddings else None
        return grad_hidden, *[None] * 8, grad_embeddings

    def backward_fake(grad: Tensor, destinations: Tensor, *_: Any) -> Tensor:
        return grad.new_empty(*destinations.shape, grad.shape[2])

    define(
        "reduce_tokens_backward(Tensor grad, Tensor destinations, Tensor dc_counts, Tensor new_dc_counts, "
        "int first_dc) -> Tensor",
        reduce_tokens_backward_kernel,
        backward_fake,
    )
    name = define(
        "reduce_tokens(Tensor hidden_states, Tensor scores, Tensor positions, Tensor dc_counts, int[] grid, "
        "int num_prefix, int[] old_windows, int keep, int[] windows, "
        "Tensor? dc_position_embeddings) -> (Tensor, Tensor, Tensor, Tensor)",
        reduce_tokens_kernel,
        fake,
    )
    torch.library.register_autograd(name, backward, setup_context=save)


def define_comparison() -> None:
    """Defines what the comparison of tokens needs: their features' directions, and how distinct they are."""

    def directions_fake(features: Tensor) -> Tensor:
        return features.new_empty(features.shape, dtype=torch.float32)

    def distinctness_fake(directions: Tensor, energies: Tensor) -> Tensor:
        return directions.new_empty(directions.shape[:2])

    define("feature_directions(Tensor features) -> Tensor", feature_directions_kernel, directions_fake)
    define("distinctness(Tensor directions, Tensor energies) -> Tensor", distinctness_kernel, distinctness_fake)


def define_fold_similar() -> None:
    """Defines the operators of the fold by similarity, forward and backward."""

    def fake(
        hidden_states: Tensor,
        scores: Tensor,
        directions: Tensor,
        positions: Tensor,
        sizes: Tensor | None,
        sources: Tensor | None,
        num_prefix: int,
        keep: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        batch, tokens, hidden = hidden_states.shape
        return (
            hidden_states.new_empty(batch, num_prefix + keep, hidden),
            positions.new_empty(batch, keep),
            positions.new_empty(batch, keep),
            positions.new_empty((positions if sources is None else sources).shape),
            positions.new_empty(batch, tokens, dtype=torch.int32),
        )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.num_prefix = inputs[6]
        ctx.save_for_backward(output[4], inputs[4], output[2])

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return OPERATORS.fold_similar_backward(grad, *ctx.saved_tensors, ctx.num_prefix), *[None] * 7

    def backward_fake(grad: Tensor, destinations: Tensor, *_: Any) -> Tensor:
        return grad.new_empty(*destinations.shape, grad.shape[2])

    define(
        "fold_similar_backward(Tensor grad, Tensor destinations, Tensor? sizes, Tensor new_sizes, int num_prefix)"
        " -> Tensor",
        fold_similar_backward_kernel,
        backward_fake,
    )
    name = define(
        "fold_similar(Tensor hidden_states, Tensor scores, Tensor directions, Tensor positions, Tensor? sizes, "
        "Tensor? sources, int num_prefix, int keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        fold_similar_kernel,
        fake,
    )
    torch.library.register_autograd(name, backward, setup_context=save)


def define_reweighting() -> None:
    """Defines what re-weighting needs in a fused model: a mean, and a sum of three."""

    def means_fake(hidden_states: Tensor) -> Tensor:
        return hidden_states.new_empty(hidden_states.shape[0], hidden_states.shape[2])

    def add_fake(residual: Tensor, update: Tensor, vector: Tensor) -> Tensor:
        return torch.empty_like(residual)

    define("token_means(Tensor hidden_states) -> Tensor", token_means_kernel, means_fake)
    define("add_residual(Tensor residual, Tensor update, Tensor vector) -> Tensor", add_residual_kernel, add_fake)


if not hasattr(OPERATORS, "column_means"):
    define_column_means()
    define_reduce_tokens()
    define_comparison()
    define_fold_similar()
    define_reweighting()
