# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The plan of a forward pass: how many tokens enter and leave every layer, in integers known before anything runs.

Every count follows from the configuration and the image size, so all shapes are static: the model compiles and
exports whole, and its cost is known without building it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

FOLDS = ("windows", "similar")
"""What becomes of patches that are not kept: each joins its window's DC token, or the kept patch most like it."""

SIZE_CHANNELS = 8
"""Channels that carry the size of tokens; fused kernels want head dimensions that are multiples of 8."""


class EncoderSpec(NamedTuple):
    """What tells the layers of one family from those of another."""

    hidden_size: int
    num_heads: int
    inner_size: int
    """Width of the MLP; of a gated one, of each of its two branches."""
    layer_norm_eps: float
    activation: str
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False
    """Whether the MLP is gated: ``fc2(activation(gate(x)) * fc1(x))``."""
    scale: float | None = None
    """What the learned scale of each branch (LayerScale) starts from; None without one."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    """Share of the images for which a branch is left out in training."""
    drop_path_rises: bool = False
    """Whether that share rises from 0 in the first layer to ``drop_path`` in the last."""
    rotates_neighbours: bool = False
    """Whether rotary positions pair neighbouring channels; else channel ``c`` with ``c + head_dim / 2``."""


class LayerPlan(NamedTuple):
    """What one layer does to its sequence ``[prefix | patches | DC tokens]``."""

    layer: int
    prefix: int
    patches_in: int
    patches_out: int
    windows_in: tuple[int, ...]
    """DC windows along each axis of the grid; empty where the input holds no DC tokens."""
    windows_out: tuple[int, ...]
    follows_reduction: bool
    """Whether this layer or one before it reduces by the paper's method: heads then re-weight."""
    selection: str | Callable[..., Any] | None = "high_frequency"
    """How the layer ranks its patches, if it reduces; None where a rule needs no scores. A function goes with a rule:
    of query, key, scaling and the exact map, where there is one, it makes ``Evidence.scores``."""
    fold: str = "windows"
    """What becomes of the patches that are not kept: one of ``FOLDS``."""
    size_exponent: float = 0.0
    """Raises the attention logits towards a token of ``c`` patches by this times ``log(c)``."""
    prefix_only: bool = False
    """Whether only the prefix tokens of the layer's output are read: a fused layer then computes no more."""
    compares_keys: bool = False
    """Whether a layer that reduces goes by its keys, too."""
    rule: Callable[..., Any] | None = None
    """Reduces in place of ``FATRReduction``: takes a sequence, the ``Evidence``, the ``TokenLayout`` and this plan, and
    gives the next sequence and layout. None for the method of the paper."""

    @property
    def dc_in(self) -> int:
        return window_count(self.windows_in)

    @property
    def dc_out(self) -> int:
        return window_count(self.windows_out)

    @property
    def tokens_in(self) -> int:
        return self.prefix + self.patches_in + self.dc_in

    @property
    def tokens_out(self) -> int:
        return self.prefix + self.patches_out + self.dc_out

    @property
    def scores_energy(self) -> bool:
        """Whether the layer reduces by the energy of its values."""
        return self.reduces and self.selection == "high_frequency_energy"

    @property
    def reduces(self) -> bool:
        """Whether the layer shortens its sequence between attention and MLP."""
        return self.tokens_out < self.tokens_in


def window_count(windows: Sequence[int]) -> int:
    """How many windows there are in all, by their number along each axis; 0 where none is named."""
    return math.prod(windows) if windows else 0


def axis_windows(windows: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Windows along each of the axes, of one number for all of them; empty for 0."""
    if isinstance(windows, Sequence):
        return tuple(windows)
    return (windows,) * axes if windows else ()


def per_layer(name: str, value: Any, reduction_layers: Sequence[int]) -> list[Any]:
    """Spreads a single value over the reduction layers; a list must already hold one entry for each.

    Raises:
        ValueError: a list of another length.
    """
    if not isinstance(value, (list, tuple)):
        return [value] * len(reduction_layers)
    if len(value) != len(reduction_layers):
        raise ValueError(
            f"{name}={list(value)} has {len(value)} entries, but there are {len(reduction_layers)} reduction layers "
            f"({list(reduction_layers)}): give one value, or one for each of them."
        )
    return list(value)


def kept_patches(patches: int, keep_ratio: float, fixed: int, token_multiple: int) -> int:
    """Patch tokens that stay: ``floor(patches * keep_ratio)``, fewer where a multiple is asked for, at least one.

    Args:
        patches: patch tokens at hand.
        keep_ratio: share to keep, in (0, 1].
        fixed: tokens that stand beside them afterwards (prefix and DC tokens).
        token_multiple: the new sequence's length is to be a multiple of this.

    Raises:
        ValueError: no count from one token upwards makes the length such a multiple.
    """
    # A decimal ratio times an integer is at least 1e-6 away from the next integer unless it hits it (six decimals),
    # far more than the rounding error: 100 * 0.29 is 28.999999999999996 and means 29.
    kept = max(1, int(patches * keep_ratio + 1e-9))
    aligned = kept - (fixed + kept) % token_multiple
    if aligned < 1:
        raise ValueError(
            f"token_multiple={token_multiple} cannot be met: of {patches} patch tokens keep_ratio={keep_ratio} keeps "
            f"{kept}, and with {fixed} prefix and DC tokens beside them no smaller count of at least 1 gives a length "
            f"that is a multiple of {token_multiple}. Lower token_multiple or raise keep_ratio."
        )
    return aligned


def plan_layers(
    grid: Sequence[int],
    num_layers: int,
    num_prefix: int,
    reduction_layers: Sequence[int],
    keep_ratios: Sequence[float],
    dc_windows: Sequence[int | Sequence[int]],
    token_multiple: int = 1,
    selection: str = "high_frequency",
    size_exponent: float = 0.0,
    fold: str = "windows",
) -> list[LayerPlan]:
    """The plans of all layers: a reduction keeps ``floor(n * ratio)`` patches and adds a DC token for each window.

    Args:
        grid: patches along each axis: rows and columns, in a video frames before them.
        num_layers: depth of the model.
        num_prefix: tokens before the patches (CLS and its like), never reduced.
        reduction_layers: 0-based layers that reduce, increasing.
        keep_ratios: for each of them the share of patch tokens kept; 1.0 leaves that layer an ordinary one.
        dc_windows: for each of them the number of windows along every axis, or one number for each axis; 0 drops tokens
            for good.
        token_multiple: sequence lengths after a reduction are multiples of this.
        selection, size_exponent, fold: see ``LayerPlan``.

    Raises:
        ValueError: windows that exceed the grid or do not nest, a multiple that cannot be met, or a reduction that
            would not shorten the sequence.
    """
    steps = {
        layer: (ratio, axis_windows(windows, len(grid)))
        for layer, ratio, windows in zip(reduction_layers, keep_ratios, dc_windows, strict=True)
        if ratio != 1
    }
    plan = []
    patches, has_reduced = math.prod(grid), False
    windows_in: tuple[int, ...] = ()
    for layer in range(num_layers):
        tokens = LayerPlan(
            layer,
            num_prefix,
            patches,
            patches,
            windows_in,
            windows_in,
            follows_reduction=has_reduced,
            selection=selection,
            fold=fold,
            size_exponent=size_exponent,
            compares_keys=fold == "similar" or selection == "high_frequency_energy",
        )
        if layer in steps:
            ratio, windows = steps[layer]
            check_windows(f"dc_windows={shown(windows)} at layer {layer}", windows, windows_in, grid)
            kept = kept_patches(patches, ratio, num_prefix + window_count(windows), token_multiple)
            tokens = tokens._replace(patches_out=kept, windows_out=windows, follows_reduction=True)
            if tokens.tokens_out >= tokens.tokens_in:
                raise ValueError(
                    f"The reduction at layer {layer} would not shorten the sequence: {tokens.tokens_in} tokens enter "
                    f"and {tokens.tokens_out} would leave ({num_prefix} prefix, {kept} kept patches, {tokens.dc_out} "
                    "DC tokens). Lower keep_ratio or dc_windows there, or drop the layer from reduction_layers."
                )
        plan.append(tokens)
        patches, windows_in, has_reduced = tokens.patches_out, tokens.windows_out, tokens.follows_reduction
    return plan


def check_windows(name: str, windows: Sequence[int], windows_before: Sequence[int], grid: Sequence[int]) -> None:
    """Raises a ValueError for windows that exceed the grid, or do not nest in those before them."""
    if windows and (len(windows) != len(grid) or min(windows) < 1):
        raise ValueError(
            f"{name} must be one number, or one of at least 1 for each of the {len(grid)} axes of the grid."
        )
    if any(count > length for count, length in zip(windows, grid, strict=False)):
        most = min(grid) if len(set(windows)) == 1 else tuple(grid)
        raise ValueError(
            f"{name} exceeds the grid of {' x '.join(map(str, grid))} patches: at most {most} windows fit along "
            "its axes."
        )
    nests = len(windows) == len(windows_before) and all(
        old % new == 0 for old, new in zip(windows_before, windows, strict=True)
    )
    if windows_before and not nests:
        raise ValueError(
            f"{name} does not divide the {shown(windows_before)} windows before it: windows must nest, so that old DC "
            "tokens fall into one new window each."
        )


def shown(numbers: Sequence[int]) -> str:
    """A number for each axis in words; one number where all are the same."""
    different = sorted(set(numbers)) or [0]
    return str(different[0]) if len(different) == 1 else str(tuple(numbers))
