# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The plan of a forward pass: how many tokens enter and leave every layer, in integers known before anything runs.

Every count follows from the configuration and the image size, so all shapes are static: the model compiles and
exports whole, and its cost is known without building it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SIZE_CHANNELS = 8
"""Channels that carry the size of DC tokens; fused kernels want head dimensions that are multiples of 8."""


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


class LayerPlan(NamedTuple):
    """What one layer does to its sequence ``[prefix | patches | DC tokens]``."""

    layer: int
    prefix: int
    patches_in: int
    patches_out: int
    windows_in: int
    """DC windows along each side of the input's grid; 0 where the input holds no DC tokens."""
    windows_out: int
    follows_reduction: bool
    """Whether this layer or one before it reduces by the paper's method: heads then re-weight."""
    selection: str | None = "high_frequency"
    """How the layer ranks its patches, if it reduces; None where a rule needs no scores."""
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
        return self.windows_in**2

    @property
    def dc_out(self) -> int:
        return self.windows_out**2

    @property
    def tokens_in(self) -> int:
        return self.prefix + self.patches_in + self.dc_in

    @property
    def tokens_out(self) -> int:
        return self.prefix + self.patches_out + self.dc_out

    @property
    def reduces(self) -> bool:
        """Whether the layer shortens its sequence between attention and MLP."""
        return self.tokens_out < self.tokens_in


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
    grid: tuple[int, int],
    num_layers: int,
    num_prefix: int,
    reduction_layers: Sequence[int],
    keep_ratios: Sequence[float],
    dc_windows: Sequence[int],
    token_multiple: int = 1,
    selection: str = "high_frequency",
    size_exponent: float = 0.0,
) -> list[LayerPlan]:
    """The plans of all layers: a reduction keeps ``floor(n * ratio)`` patches and adds ``windows**2`` DC tokens.

    Args:
        grid: rows and columns of patches.
        num_layers: depth of the model.
        num_prefix: tokens before the patches (CLS and its like), never reduced.
        reduction_layers: 0-based layers that reduce, increasing.
        keep_ratios: for each of them the share of patch tokens kept; 1.0 leaves that layer an ordinary one.
        dc_windows: for each of them the number of windows along each side of the grid; 0 drops tokens for good.
        token_multiple: sequence lengths after a reduction are multiples of this.
        selection, size_exponent: see ``LayerPlan``.

    Raises:
        ValueError: windows that exceed the grid or do not nest, a multiple that cannot be met, or a reduction that
            would not shorten the sequence.
    """
    rows, columns = grid
    steps = {
        layer: (ratio, windows)
        for layer, ratio, windows in zip(reduction_layers, keep_ratios, dc_windows, strict=True)
        if ratio != 1
    }
    plan = []
    patches, windows_in, has_reduced = rows * columns, 0, False
    for layer in range(num_layers):
        tokens = LayerPlan(
            layer, num_prefix, patches, patches, windows_in, windows_in, has_reduced, selection, size_exponent
        )
        if layer in steps:
            ratio, windows = steps[layer]
            if windows > min(rows, columns):
                raise ValueError(
                    f"dc_windows={windows} at layer {layer} exceeds the grid of {rows} x {columns} patches: at most "
                    f"{min(rows, columns)} windows fit along each side."
                )
            if windows_in and (not windows or windows_in % windows):
                raise ValueError(
                    f"dc_windows={windows} at layer {layer} does not divide the {windows_in} windows before it: "
                    "windows must nest, so that old DC tokens fall into one new window each."
                )
            kept = kept_patches(patches, ratio, num_prefix + windows**2, token_multiple)
            tokens = tokens._replace(patches_out=kept, windows_out=windows, follows_reduction=True)
            if tokens.tokens_out >= tokens.tokens_in:
                raise ValueError(
                    f"The reduction at layer {layer} would not shorten the sequence: {tokens.tokens_in} tokens enter "
                    f"and {tokens.tokens_out} would leave ({num_prefix} prefix, {kept} kept patches, {windows**2} DC "
                    "tokens). Lower keep_ratio or dc_windows there, or drop the layer from reduction_layers."
                )
        plan.append(tokens)
        patches, windows_in, has_reduced = tokens.patches_out, tokens.windows_out, tokens.follows_reduction
    return plan
