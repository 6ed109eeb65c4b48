"""Schedules that are known beforehand: the paper's, what its search found, local windows, gentle steps."""

from collections.abc import Mapping
from itertools import pairwise, product

from ...modeling.presets import preset_fields
from ...modeling.reduction_config import ReductionConfig
from ..schedule import Schedule

PAPER_DEPTH = 12
PAPER_RANGES = ((1, 3), (4, 6), (7, 10))
"""First and last layer of the ranges of the paper's search, in each of which one layer reduces, of 12 layers."""

PAPER_SCHEDULES = {
    "DeiT-T, 72.7%": ((3, 5, 8), (0.5, 0.6, 0.8), (2, 2, 2)),
    "DeiT-T, 70.2%": ((3, 6, 8), (0.5, 0.6, 0.6), (2, 2, 2)),
    "DeiT-S, 79.6%": ((3, 5, 9), (0.6, 0.5, 0.1), (2, 1, 1)),
    "DeiT-S, 73.5%": ((1, 7, 9), (0.3, 0.4, 0.4), (4, 2, 1)),
    "DeiT-B, 80.2%": ((3, 6, 10), (0.4, 0.5, 0.5), (2, 2, 1)),
}
"""What the paper's search found (table 3): layers of 12 counted from 0, keep ratios, windows."""

LOCAL_RATIOS = (0.3, 0.5, 0.7)
ONCE_RATIOS = (0.1, 0.3)
GENTLE_RATIOS = (0.97, 0.95, 0.9, 0.85, 0.8)
FIRST_GENTLE_LAYER = 2


def scaled_ranges(config: ReductionConfig) -> list[tuple[int, int]]:
    """``PAPER_RANGES`` for a model's depth: the first and the last layer of each that has any."""
    depth = config.num_hidden_layers
    starts = [scaled_layer(first, depth) for first, _ in PAPER_RANGES] + [depth - 1]
    return [(start, end - 1) for start, end in pairwise(starts) if start < end]


def scaled_layer(layer: int, depth: int) -> int:
    """The layer at the same place in a model of another depth than the paper's, never the last one."""
    return min(round(layer * depth / PAPER_DEPTH), max(0, depth - 2))


def known_schedules(config: ReductionConfig) -> Mapping[str, Schedule]:
    """Schedules to start from that a model can carry out, by name.

    The paper's default and what its search found, scaled to the depth; the preset ``local`` at several keep ratios; one
    strong reduction with local windows in a layer of the middle half; and gentle ones that remove a little in each
    layer from the third to the last but one.
    """
    depth, default = config.num_hidden_layers, default_layers(config)
    gentle = tuple(range(FIRST_GENTLE_LAYER, depth - 1))
    local = preset_fields("local", config.patch_grid(), config.num_hidden_layers)
    schedules = {"paper": spread(default, 0.7, (2, 1))}
    for name, (layers, ratios, windows) in PAPER_SCHEDULES.items():
        places = tuple(scaled_layer(layer, depth) for layer in layers)
        if len(set(places)) == len(places):
            schedules[name] = Schedule(places, ratios, windows)
    for ratio in LOCAL_RATIOS:
        name = "local" if ratio == local["keep_ratio"] else f"local, {ratio:g}"
        schedules[name] = spread(default, ratio, (local["dc_windows"],), local["size_exponent"])
    for layer, ratio in product(range(depth // 4, 3 * depth // 4 + 1), ONCE_RATIOS):
        schedules[f"layer {layer}, {ratio:g}"] = spread((layer,), ratio, (local["dc_windows"],), 1.0)
    for ratio in GENTLE_RATIOS:
        schedules[f"gentle, {ratio:g}"] = spread(gentle, ratio, (2, 1))
    return {name: each for name, each in schedules.items() if each.reduction_layers and each.is_possible(config)}


def default_layers(config: ReductionConfig) -> tuple[int, ...]:
    """The paper's reduction layers, after a quarter, half and three quarters of the depth."""
    depth = config.num_hidden_layers
    return tuple(sorted({depth // 4, depth // 2, 3 * depth // 4}))


def spread(
    layers: tuple[int, ...], keep_ratio: float, windows: tuple[int, ...], size_exponent: float = 0.0
) -> Schedule:
    """A schedule with one keep ratio, and with windows of which the last serves all further layers."""
    columns = (*windows, *windows[-1:] * len(layers))[: len(layers)]
    return Schedule(layers, (keep_ratio,) * len(layers), columns, size_exponent=size_exponent)
