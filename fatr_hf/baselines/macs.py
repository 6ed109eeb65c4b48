"""Multiply-accumulates of a vision model, counted while it runs on the meta device: no data, no weights."""

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..modeling.reduction_config import ReductionConfig, as_pair
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import LayerPlan
from .arguments import check_model
from .rival import Rival


def count_macs(model: PreTrainedModel, image_size: int | Iterable[int] | None = None) -> int:
    """Multiply-accumulates of one forward pass over one image: matrix products and convolutions.

    Counted on a twin with eager attention, whose map serves output and scores alike, so that the figure is that of
    the method, whatever attention the model itself uses.

    Args:
        model: any transformers vision model that takes ``pixel_values``.
        image_size: height and width in pixels (one number for both); ``config.image_size`` by default.

    Raises:
        ValueError: what is no such model, or an image size that it cannot take.
    """
    check_model(model)
    if isinstance(model, Rival):
        return plan_macs(model.model, model.config.plan(image_size), image_size)
    if getattr(model.config, "image_size", None) is None:
        raise ValueError(
            f"{type(model).__name__} takes no images: its configuration has no image_size (of a model with several "
            "towers, count the vision tower)."
        )
    return count_twin(meta_twin(model), image_size)


def plan_macs(model: ReductionModel, plan: Sequence[LayerPlan], image_size: int | Iterable[int] | None = None) -> int:
    """``count_macs`` of a FATR model by a plan, which it has the parameters for.

    Attention in proportion to sizes is a sum, whatever computes it here.
    """
    return count_twin(meta_twin(model), image_size, [step._replace(size_exponent=0.0) for step in plan])


def meta_twin(model: PreTrainedModel) -> Any:
    """A model of the same configuration without data, under eager attention."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return type(model)(config).eval().requires_grad_(False)


def count_twin(
    twin: Any, image_size: int | Iterable[int] | None = None, plan: Sequence[LayerPlan] | None = None
) -> int:
    """Multiply-accumulates of a model on the meta device, by a plan where one is given."""
    pixel_values = torch.empty(1, *input_shape(twin.config, image_size), device="meta")
    options: dict[str, Any] = {} if image_size is None else {"interpolate_pos_encoding": True}
    if plan is not None:
        options["plan"] = plan
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(pixel_values, **options)
    return counter.get_total_flops() // 2


def input_shape(config: Any, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
    """The shape of pixel values of one image, of a FATR model of videos of one video."""
    if isinstance(config, ReductionConfig):
        return config.input_shape(image_size)
    return config.num_channels, *as_pair("image_size", config.image_size if image_size is None else image_size)


def closest(candidates: Sequence[int], cost: Callable[[int], int], target: int) -> int:
    """The candidate whose cost is closest to a target, the first of two that are equally close.

    Args:
        candidates: in an order in which the cost never rises.
        cost: called for a few of them only.
        target: the cost aimed at.

    Raises:
        ValueError: no candidates.
    """
    if not candidates:
        raise ValueError("candidates is empty: give at least one.")
    cost = cache(cost)
    place = bisect_left(candidates, -target, key=lambda candidate: -cost(candidate))
    neighbours = candidates[max(place - 1, 0) : place + 1]
    return min(neighbours, key=lambda candidate: abs(cost(candidate) - target))
