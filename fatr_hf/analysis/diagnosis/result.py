"""What a diagnosis measured: plain numbers, which go to JSON and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from ...baselines.arguments import reading
from ..analyze import Analysis, Row
from ..compare import Figure

LEAST_IMAGES = 30
"""Fewer images give no verdict, and do not tell what is the same in most images."""


class FixedSink(NamedTuple):
    """A place of the patch grid that is a sink in one layer in most images."""

    layer: int
    row: int
    column: int
    share: float
    """Of the images."""


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` measured of a model."""

    images: int
    grid: tuple[int, int]
    """Rows and columns of patches."""
    depth: int
    """Layers of the model."""
    reduction: dict[str, Any]
    """The configuration's fields of the reduction."""
    local_reduction: dict[str, Any] | None
    """Those of the schedule with local windows, where it was tried (see ``trials.local_schedule``)."""
    macs: dict[str, int]
    """Multiply-accumulates of one image: ``unreduced``, ``reduced`` and, where it was tried, ``local``."""
    answers: dict[str, Figure]
    """Of whole models; see ``diagnose``. Each says over how many images it is."""
    rows: tuple[Row, ...]
    """By layer; see ``diagnose``."""
    analyses: dict[str, Analysis]
    """The tokens' state by layer: ``unreduced``, ``reduced`` and ``random``."""
    fixed_sinks: tuple[FixedSink, ...]
    """None of fewer than ``LEAST_IMAGES`` images."""

    def by_layer(self, measure: str) -> dict[int, Figure]:
        """A measure by layer, where it was taken."""
        return {
            row.layer: Figure(row.mean, row.standard_error, row.images) for row in self.rows if row.measure == measure
        }

    @property
    def reduction_layers(self) -> tuple[int, ...]:
        """The layers that reduce."""
        return tuple(self.by_layer("patches_kept"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {
            "answers": {name: figure._asdict() for name, figure in self.answers.items()},
            "rows": [row._asdict() for row in self.rows],
            "analyses": {name: analysis.to_dict() for name, analysis in self.analyses.items()},
            "fixed_sinks": [sink._asdict() for sink in self.fixed_sinks],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        rows, columns = values["grid"]
        parts: dict[str, Any] = {
            "grid": (rows, columns),
            "answers": {name: Figure(**figure) for name, figure in values["answers"].items()},
            "rows": tuple(Row(**row) for row in values["rows"]),
            "analyses": {name: Analysis.from_dict(analysis) for name, analysis in values["analyses"].items()},
            "fixed_sinks": tuple(FixedSink(**sink) for sink in values["fixed_sinks"]),
        }
        return cls(**{**values, **parts})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError: any other text.
        """
        with reading("diagnosis"):
            return cls.from_dict(json.loads(text))
