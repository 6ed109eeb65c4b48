"""What all rivals share: a method has a few settings, and makes the plan of a forward pass from a configuration.

A plan's ``rule`` reduces in place of FATR's own reduction, on the same encoder and ``TokenLayout``, so every method
runs on every family.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan, per_layer
from .arguments import is_integer, is_number


@dataclass(frozen=True)
class Method:
    """A way to reduce tokens; its fields are what can be chosen. Lists become tuples."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        self.check()

    def check(self) -> None:
        """Raises a ValueError for fields that fit no model."""

    def plan(self, config: ReductionConfig, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """What every layer does.

        Args:
            config: of the model, whose own reduction is not looked at.
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.

        Raises:
            ValueError: a model or an image size that the method cannot take.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LayerwiseMethod(Method):
    """A method that reduces in a few layers, each to a share of its tokens.

    Args:
        reduction_layers: 0-based, strictly increasing; by default ``usual_layers``.
        keep_ratio: in (0, 1]; one value, or one for each of these layers. 1 leaves a layer an ordinary one.
    """

    reduction_layers: Sequence[int] | None = None
    keep_ratio: float | Sequence[float] = 0.7

    def check(self) -> None:
        """Raises a ValueError for layers that do not increase, or ratios outside of (0, 1]."""
        layers = self.reduction_layers
        if layers is not None and (
            not isinstance(layers, Sequence)
            or not all(is_integer(layer) and layer >= 0 for layer in layers)
            or list(layers) != sorted(set(layers))
        ):
            raise ValueError(f"reduction_layers={layers!r} must be strictly increasing integers of at least 0.")
        ratios = self.keep_ratio if isinstance(self.keep_ratio, Sequence) else [self.keep_ratio]
        for ratio in ratios:
            if not is_number(ratio) or not 0 < ratio <= 1:
                raise ValueError(f"keep_ratio={self.keep_ratio!r} must lie in (0, 1]; {ratio!r} does not.")

    def usual_layers(self, depth: int) -> Sequence[int]:
        """Layers at a quarter, half and three quarters of the depth."""
        return sorted({depth // 4, depth // 2, 3 * depth // 4})

    def ratios(self, depth: int) -> dict[int, float]:
        """The keep ratio of each reduction layer of a model with ``depth`` layers.

        Raises:
            ValueError: a layer that the model does not have, or another number of ratios.
        """
        layers = self.usual_layers(depth) if self.reduction_layers is None else self.reduction_layers
        if any(layer >= depth for layer in layers):
            raise ValueError(f"reduction_layers={list(layers)} must lie below {depth}, the number of layers.")
        return dict(zip(layers, per_layer("keep_ratio", self.keep_ratio, layers), strict=True))


def plan_of_counts(
    config: ReductionConfig,
    image_size: int | Iterable[int] | None,
    counts: Sequence[int],
    rules: Sequence[Callable[..., Any]],
    **others: Any,
) -> list[LayerPlan]:
    """The plan in which so many patch tokens leave each layer, and in which FATR's re-weighting does not act.

    Args:
        counts: one for each layer, never more than before.
        rules: what reduces in each layer (see ``LayerPlan.rule``).
        others: further fields of every ``LayerPlan``.
    """
    plan, patches = [], math.prod(config.patch_grid(image_size))
    for layer, (count, rule) in enumerate(zip(counts, rules, strict=True)):
        step = LayerPlan(layer, config.num_prefix_tokens, patches, count, (), (), follows_reduction=False)
        plan.append(step._replace(**{"selection": None, "rule": rule, **others}))
        patches = count
    return plan
