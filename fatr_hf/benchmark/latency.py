"""The gentlest reduction that a budget of milliseconds allows, measured on the device at hand."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..modeling.budget import check_budget, choices, highest_within, with_keep_ratio
from ..modeling.reduction_config import is_integer
from ..modeling.token_plan import LayerPlan
from .timing import evaluation_mode, time_in_turn

Model = TypeVar("Model", bound=Any)

REPEATS = 7
"""Timed forward passes for one latency, which is their median."""


def fit_latency(
    model: Model,
    latency_ms: float,
    *,
    batch_size: int = 1,
    image_size: int | Iterable[int] | None = None,
    measure: Callable[[Any, Tensor, Sequence[LayerPlan]], float] | None = None,
) -> Model:
    """Sets the highest keep ratio, the same in all reduction layers, whose forward pass takes no longer than a budget.

    Meant, as ``for_budget``, for a model whose training drew many keep ratios. A search by halves times about seven
    plans. Fused, the model is faster than what is measured here.

    Args:
        model: a FATR model; it is returned.
        latency_ms: milliseconds of a forward pass of ``batch_size`` images on the model's device.
        batch_size: images of that pass.
        image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        measure: milliseconds of a forward pass over pixel values by a plan; ``forward_milliseconds`` by default.

    Raises:
        ValueError: a budget that is not positive or cannot be met, a batch that is no positive integer, a fused model,
            or one without reduction layers.
    """
    check_budget("latency_ms", latency_ms)
    if not is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be an integer of at least 1.")
    config = model.config
    sides = config.input_sides(image_size)
    # A generator of its own: choosing a budget leaves the global one as it is.
    pixel_values = torch.randn(
        batch_size, *config.input_shape(image_size), generator=torch.Generator().manual_seed(0)
    ).to(model.device, model.dtype)
    run = partial(measure or forward_milliseconds, model, pixel_values)
    known: dict[float, float] = {}

    def latency(ratio: float) -> float:
        if ratio not in known:
            known[ratio] = run(with_keep_ratio(config, ratio).plan(sides))
        return known[ratio]

    ratio = highest_within(choices(config, sides), "latency_ms", latency_ms, latency)
    model.set_reduction(keep_ratio=ratio)
    return model


def forward_milliseconds(model: Any, pixel_values: Tensor, plan: Sequence[LayerPlan]) -> float:
    """Milliseconds of a forward pass in evaluation mode: the median of ``REPEATS``, after two that do not count."""
    task = partial(model, pixel_values, interpolate_pos_encoding=True, plan=plan)
    with torch.inference_mode(), evaluation_mode([model]):
        return time_in_turn({"": task}, pixel_values.device, REPEATS)[""].median
