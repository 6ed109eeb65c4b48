# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What a plan costs in multiply-accumulates, and the gentlest one that a budget allows."""

import copy
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from .reduction_config import ReductionConfig, is_number
from .token_plan import SIZE_CHANNELS


def schedule_macs(config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> int:
    """Multiply-accumulates of one classified image: matrix products, as the configuration's schedule implies them.

    Scores come from the attention map that is made anyway; normalisation, activations and sums are left out.

    Args:
        image_size: height and width in pixels (one number for both); ``config.image_size`` by default.

    Raises:
        ValueError: an image size that the schedule cannot take.
    """
    spec = config.encoder_spec
    hidden, inner = spec.hidden_size, spec.inner_size * (3 if spec.gated else 2)
    patches = math.prod(config.patch_grid(image_size))
    total = patches * config.num_channels * math.prod(config.patch_sides) * hidden
    plan = config.plan(image_size)
    for step in plan:
        sized = bool(step.size_exponent and (step.dc_in or (step.fold == "similar" and step.patches_in < patches)))
        attended = hidden + (SIZE_CHANNELS * spec.num_heads if sized else 0)
        total += 4 * step.tokens_in * hidden**2 + 2 * step.tokens_in**2 * attended
        if step.reduces:
            joined = step.patches_out if step.fold == "similar" else step.dc_out
            total += joined * (step.patches_in - step.patches_out + step.dc_in) * hidden
            if step.compares_keys:
                total += step.patches_in**2 * (hidden // spec.num_heads + hidden)
        total += step.tokens_out * hidden * inner
    return total + config.head_macs(plan[-1].tokens_out, any(step.reduces for step in plan))


def admissible_keep_ratios(config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[float]:
    """Keep ratios in hundredths, ascending, that all reduction layers can have; a reduction must shorten the sequence.

    1.0 is not among them: a layer that does not reduce leaves its parameters without gradient.
    """
    ratios = [percent / 100 for percent in range(1, 100)]
    return [ratio for ratio in ratios if is_admissible(config, ratio, image_size)]


def is_admissible(
    config: ReductionConfig, keep_ratio: float | Sequence[float], image_size: int | Iterable[int] | None = None
) -> bool:
    """Whether all reduction layers can have a keep ratio, or each its own."""
    try:
        with_keep_ratio(config, keep_ratio).plan(image_size)
    except (StrictDataclassError, ValueError):
        return False
    return True


def with_keep_ratio(config: ReductionConfig, keep_ratio: float | Sequence[float]) -> ReductionConfig:
    """The same configuration with another keep ratio, checked."""
    # A copy through the dictionary takes milliseconds where there are many classes, and searches make a hundred.
    changed = copy.copy(config)
    changed.keep_ratio = list(keep_ratio) if isinstance(keep_ratio, Sequence) else keep_ratio
    changed.validate_reduction()
    return changed


def highest_within(ratios: Sequence[float], name: str, limit: float, cost: Callable[[float], float]) -> float:
    """The highest keep ratio whose cost is within a limit.

    Args:
        ratios: ascending; the cost is taken to rise with them.
        name: what the cost is called in errors.
        cost: of a ratio; asked for a few only.

    Raises:
        ValueError: the lowest ratio costs more; names both costs.
    """
    allowed = bisect_right(ratios, limit, key=cost)
    if allowed == 0:
        raise ValueError(
            f"{name}={limit:g} cannot be met: keep_ratio={ratios[0]:g}, the lowest that this schedule allows, "
            f"has {name}={cost(ratios[0]):g}. Raise the budget, or reduce in earlier layers."
        )
    return ratios[allowed - 1]


def keep_ratio_for_macs(config: ReductionConfig, macs: float, image_size: int | Iterable[int] | None = None) -> float:
    """The highest keep ratio whose multiply-accumulates of an image are within a budget; arguments as there.

    Raises:
        ValueError: a budget that is not positive or cannot be met, or no reduction layers.
    """
    check_budget("macs", macs)
    return highest_within(
        choices(config, image_size),
        "macs",
        macs,
        lambda ratio: schedule_macs(with_keep_ratio(config, ratio), image_size),
    )


def check_budget(name: str, value: Any) -> None:
    """Raises a ValueError for a budget that is not above 0."""
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be above 0.")


def choices(config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[float]:
    """The keep ratios among which a budget chooses.

    Raises:
        ValueError: there is none.
    """
    ratios = admissible_keep_ratios(config, image_size)
    if not config.reduction_layers or not ratios:
        raise ValueError(
            f"reduction_layers={config.reduction_layers} and dc_windows={config.dc_windows} allow no "
            "keep ratio below 1, so a budget has nothing to choose."
        )
    return ratios
