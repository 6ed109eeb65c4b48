# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What a schedule costs, and the gentlest one that a budget of multiply-accumulates or milliseconds allows.

Multiply-accumulates follow from the configuration alone. Milliseconds are measured on the device at hand, a few times
in a search by halves, and remembered in the configuration for that device.
"""

import copy
import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from .reduction_config import ReductionConfig, as_pair, is_integer, is_number
from .token_plan import SIZE_CHANNELS, LayerPlan

REPEATS = 7
"""Timed forward passes for one latency, which is their median."""

REMEMBERED = 100
"""Circumstances whose latencies a configuration holds; beyond, the oldest are forgotten (see ``latency_key``)."""


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
    rows, columns = config.patch_grid(image_size)
    patch_height, patch_width = as_pair("patch_size", config.patch_size)
    total = rows * columns * config.num_channels * patch_height * patch_width * hidden
    for step in config.plan(image_size):
        sized = bool(step.size_exponent and step.dc_in)
        attended = hidden + (SIZE_CHANNELS * spec.num_heads if sized else 0)
        total += 4 * step.tokens_in * hidden**2 + 2 * step.tokens_in**2 * attended
        if step.reduces:
            total += step.dc_out * (step.patches_in - step.patches_out + step.dc_in) * hidden
        total += step.tokens_out * hidden * inner
    return total + config.classifier_width * (config.num_labels or 0)


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


def highest_within(ratios: Sequence[float], budgets: Sequence[tuple[str, float, Callable[[float], float]]]) -> float:
    """The highest keep ratio whose costs are all within their budgets.

    Args:
        ratios: ascending; costs are taken to rise with them.
        budgets: what is limited (in words), the limit, and the cost of a ratio; costs are asked for a few only.

    Raises:
        ValueError: the lowest ratio costs more than a budget; names both.
    """
    allowed = len(ratios)
    for words, limit, cost in budgets:
        allowed = bisect_right(ratios, limit, hi=allowed, key=cost)
        if allowed == 0:
            raise ValueError(
                f"{words}={limit:g} cannot be met: keep_ratio={ratios[0]:g}, the lowest that this schedule allows, "
                f"has {words}={cost(ratios[0]):g}. Raise the budget, or reduce in earlier layers."
            )
    return ratios[allowed - 1]


def choose_keep_ratio(
    model: Any,
    macs: float | None,
    latency_ms: float | None,
    batch_size: int,
    image_size: int | Iterable[int] | None,
    measure: Callable[[Any, torch.Tensor, Sequence[LayerPlan]], float] | None = None,
) -> float:
    """The highest keep ratio of a model within a budget; remembers what it measures in ``model.config``.

    Args:
        model: a FATR model.
        macs, latency_ms, batch_size, image_size: see ``ReductionModel.for_budget``.
        measure: milliseconds of a forward pass over pixel values by a plan; ``forward_milliseconds`` by default.

    Raises:
        ValueError: no budget, one that is not positive or cannot be met, a batch that is no positive integer, or a
            model without reduction layers.
    """
    for name, value in (("macs", macs), ("latency_ms", latency_ms)):
        if value is not None and not (is_number(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be above 0.")
    if macs is None and latency_ms is None:
        raise ValueError("for_budget needs a budget: macs, latency_ms or both.")
    if not is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be an integer of at least 1.")
    config: ReductionConfig = model.config
    ratios = admissible_keep_ratios(config, image_size)
    if not config.reduction_layers or not ratios:
        raise ValueError(
            f"for_budget: reduction_layers={config.reduction_layers} and dc_windows={config.dc_windows} allow no "
            "keep ratio below 1, so there is nothing to choose."
        )
    budgets: list[tuple[str, float, Callable[[float], float]]] = []
    if macs is not None:
        budgets.append(("macs", macs, lambda ratio: schedule_macs(with_keep_ratio(config, ratio), image_size)))
    if latency_ms is not None:
        latency = remembered_latency(model, batch_size, image_size, measure or forward_milliseconds)
        budgets.append(("latency_ms", latency_ms, latency))
    return highest_within(ratios, budgets)


def remembered_latency(
    model: Any,
    batch_size: int,
    image_size: int | Iterable[int] | None,
    measure: Callable[[Any, torch.Tensor, Sequence[LayerPlan]], float],
) -> Callable[[float], float]:
    """A function from keep ratio to milliseconds that measures what ``config.measured_latencies`` does not hold."""
    config = model.config
    height, width = as_pair("image_size", config.image_size if image_size is None else image_size)
    # A generator of its own: choosing a budget leaves the global one as it is.
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(batch_size, config.num_channels, height, width, generator=generator)
    pixel_values = pixel_values.to(model.device, model.dtype)
    key = latency_key(model, pixel_values)

    def latency(ratio: float) -> float:
        known = config.measured_latencies or {}
        name = f"{ratio:.2f}"
        if name not in known.get(key, {}):
            milliseconds = measure(model, pixel_values, with_keep_ratio(config, ratio).plan((height, width)))
            known = known | {key: known.get(key, {}) | {name: milliseconds}}
            config.measured_latencies = dict(list(known.items())[-REMEMBERED:])
        return float(config.measured_latencies[key][name])

    return latency


def latency_key(model: Any, pixel_values: torch.Tensor) -> str:
    """What a latency depends on beside the keep ratio: device, number format, batch, attention, schedule, torch."""
    config, device = model.config, pixel_values.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    batch, _, height, width = pixel_values.shape
    parts = (
        name,
        str(pixel_values.dtype).removeprefix("torch."),
        f"{batch} x {height} x {width}",
        str(config._attn_implementation),
        f"layers {config.reduction_layers} windows {config.dc_windows} multiple {config.token_multiple} "
        f"size exponent {config.size_exponent:g} {config.selection}",
        f"torch {torch.__version__}",
    )
    return " | ".join(parts)


def cpu_name() -> str:
    """What tells one kind of processor from another without looking into files; a configuration travels to others."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@torch.inference_mode()
def forward_milliseconds(model: Any, pixel_values: torch.Tensor, plan: Sequence[LayerPlan] | None = None) -> float:
    """Milliseconds of a forward pass in evaluation mode: the median of ``REPEATS``, after two that do not count."""
    was_training = model.training
    model.eval()
    samples = []
    try:
        for _ in range(REPEATS + 2):
            start = time.perf_counter()
            model(pixel_values, interpolate_pos_encoding=True, plan=plan)
            if pixel_values.device.type != "cpu":
                torch.accelerator.synchronize(pixel_values.device)
            samples.append(1e3 * (time.perf_counter() - start))
    finally:
        model.train(was_training)
    return median(samples[2:])
