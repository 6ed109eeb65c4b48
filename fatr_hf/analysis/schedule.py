"""A reduction schedule as one small value: where a model reduces, how much, and into how many windows."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from ..modeling.budget import schedule_macs
from ..modeling.reduction_config import ReductionConfig
from ..modeling.token_plan import LayerPlan, per_layer


class Schedule(NamedTuple):
    """Where and how a model reduces: the configuration's fields of the same names, one entry for each reduction."""

    reduction_layers: tuple[int, ...] = ()
    keep_ratio: tuple[float, ...] = ()
    dc_windows: tuple[int, ...] = ()
    token_multiple: int = 1
    size_exponent: float = 0.0

    @classmethod
    def of(cls, config: ReductionConfig) -> Self:
        """The schedule of a configuration, layers that keep everything left out."""
        places = list(config.reduction_layers or ())
        ratios = per_layer("keep_ratio", config.keep_ratio, places)
        windows = per_layer("dc_windows", config.dc_windows, places)
        steps = [step for step in zip(places, ratios, windows, strict=True) if step[1] != 1]
        layers, keep_ratios, dc_windows = (tuple(step[column] for step in steps) for column in range(3))
        return cls(layers, keep_ratios, dc_windows, config.token_multiple, config.size_exponent or 0.0)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """What ``fields`` gave."""
        values = (fields[name] for name in cls._fields)
        return cls._make(tuple(value) if isinstance(value, list) else value for value in values)

    @property
    def fields(self) -> dict[str, Any]:
        """As ``from_pretrained(..., **fields)`` and ``set_reduction(**fields)`` take them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

    def applied_to(self, config: ReductionConfig) -> ReductionConfig:
        """A configuration with this schedule, not checked."""
        changed = copy.copy(config)
        for name, value in self.fields.items():
            setattr(changed, name, value)
        return changed

    def plan(self, config: ReductionConfig) -> list[LayerPlan]:
        """The plan of a model with this schedule, for one call of it.

        Raises:
            ValueError: a schedule that the model cannot carry out.
        """
        return self.applied_to(config).plan()

    def is_possible(self, config: ReductionConfig) -> bool:
        """Whether a model can carry it out."""
        try:
            self.plan(config)
        except ValueError:
            return False
        return True

    def macs(self, config: ReductionConfig) -> int:
        """Multiply-accumulates of one image."""
        return schedule_macs(self.applied_to(config))

    def macs_share(self, config: ReductionConfig) -> float:
        """Multiply-accumulates as a share of the unreduced model's."""
        return self.macs(config) / Schedule().macs(config)
