# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Reductions by name, and the layers that reduce by default."""

from collections.abc import Sequence
from typing import Any

PRESETS = ("paper", "local", "faithful", "faithful_half")
"""Reductions by name, for ``from_pretrained(..., preset=...)`` (see ``preset_fields``)."""

FAITHFUL = {"faithful": (range(4, 8), 0.77), "faithful_half": (range(3, 10), 0.73)}
"""Of presets for models that are not trained: the layers that reduce, in twelfths of the depth, and the keep ratio."""


def default_layers(depth: int) -> list[int]:
    """The layers that reduce by default: at a quarter, half and three quarters of the depth."""
    return sorted({depth // 4, depth // 2, 3 * depth // 4})


def preset_fields(
    preset: str, grid: tuple[int, ...], depth: int, reduction_layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """The reduction's fields that a preset stands for, on a grid of patches and for so many layers.

    ``paper``: the paper's setting, which is a configuration's default; for a model that is fine-tuned.

    ``faithful``: the outputs stay closest to the unreduced model's, without training, at 0.65 of the cost. In four
    layers from a third of the depth on the tokens of most distinct energy are kept, and each other one joins the kept
    one most like it. ``faithful_half``: the same at half the cost, in seven layers from a quarter of the depth on.

    ``local``: half of the patches are kept, and windows of about 2 patches a side hold the others near where they were;
    these DC tokens draw attention by the square root of the patches they stand for. docs/results.md says where it is
    better than the paper's setting, and where not.

    Args:
        grid: patches along each axis: rows and columns, in a video frames before them.
        reduction_layers: those that are to reduce, where they are not the preset's.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} must be one of {', '.join(PRESETS)}.")
    defaults: dict[str, Any] = {"reduction_layers": None, "keep_ratio": 0.7, "dc_windows": None, "fold": "windows"}
    fields = {**defaults, "selection": "high_frequency", "token_multiple": 1, "size_exponent": None}
    if preset == "local":
        sides = [max(1, length // 2) for length in grid]
        count = len(default_layers(depth) if reduction_layers is None else reduction_layers)
        windows = min(sides) if len(grid) == 2 else [sides] * count
        fields |= {"keep_ratio": 0.5, "dc_windows": windows, "size_exponent": 0.5}
    if preset in FAITHFUL:
        twelfths, ratio = FAITHFUL[preset]
        layers = sorted({depth * each // 12 for each in twelfths})
        fields |= {"reduction_layers": layers, "keep_ratio": ratio, "fold": "similar"}
        fields |= {"selection": "high_frequency_energy"}
    return fields
