"""Measures of a model over many images, layer by layer.

Images stream through in batches. What is kept of them are means and squared deviations, so that memory does not grow
with their number.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines.arguments import check_kind, reading, several
from .model_inputs import model_batches
from .model_measures import LAYER_MEASURES, MEASURES, STATE_MEASURES
from .trace import LayerTrace, check_traceable, trace

Key = tuple[str, int]
"""A measure's name and a layer; for a state measure the layer that the tokens enter, one more for the output."""


class Moments(NamedTuple):
    """Mean and spread of numbers so far; one entry for each point of a measure."""

    number: Tensor
    mean: Tensor
    squares: Tensor
    """Sum of squared deviations from the mean."""

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Of (images,) or (images, points); what is not finite is left out."""
        values = values.double().cpu().reshape(len(values), -1)
        finite = values.isfinite()
        number, values = finite.sum(dim=0, dtype=torch.float64), values.where(finite, 0)
        mean = values.sum(dim=0) / number.clamp(min=1)
        return cls(number, mean, ((values - mean).square() * finite).sum(dim=0))

    def merge(self, other: Self) -> Self:
        """Of both sets of numbers (Chan, Golub and LeVeque, 1979)."""
        number = self.number + other.number
        difference, share = other.mean - self.mean, other.number / number.clamp(min=1)
        squares = self.squares + other.squares + difference.square() * self.number * share
        return type(self)(number, self.mean + difference * share, squares)

    @property
    def standard_error(self) -> Tensor:
        """Of the mean; not-a-number for fewer than two numbers."""
        variance = self.squares / (self.number - 1)
        return (variance / self.number).sqrt().where(self.number > 1, torch.nan)


class Row(NamedTuple):
    """One number of an analysis."""

    measure: str
    layer: int
    """Counted from 0. Of tokens: the layer that they enter; the number of layers for those that leave the last."""
    point: float | None
    """The frequency in units of pi, or the share of tokens, for measures that are curves."""
    mean: float
    """Over images."""
    standard_error: float | None
    """Of the mean; None for a single image."""
    images: int
    """How many the mean is over: those for which the measure is defined."""


@dataclass(frozen=True)
class Analysis:
    """What ``analyze`` found."""

    images: int
    """How many were looked at."""
    tokens: tuple[int, ...]
    """Tokens that enter each layer, and that leave the last."""
    rows: tuple[Row, ...]

    def select(self, measure: str, layer: int | None = None, point: float | None = None) -> tuple[Row, ...]:
        """The rows of a measure, of all layers and points or of one."""
        return tuple(
            row
            for row in self.rows
            if row.measure == measure and layer in (None, row.layer) and point in (None, row.point)
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what was measured."""
        return tuple(dict.fromkeys(row.measure for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"rows": [row._asdict() for row in self.rows]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(values["images"], tuple(values["tokens"]), tuple(Row(**row) for row in values["rows"]))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError: any other text.
        """
        with reading("analysis"):
            return cls.from_dict(json.loads(text))


def analyze(
    model: PreTrainedModel,
    data: Any,
    measures: Sequence[str] | None = None,
    batch_size: int = 32,
) -> Analysis:
    """Measures a vision transformer layer by layer, averaged over images.

    Args:
        model: any vision transformer of transformers whose tokens are a grid of patches, or a FATR model or rival, in
            evaluation mode. Measures of attention need ``attn_implementation="eager"``.
        data: see ``images.batches``.
        measures: names of ``model_measures.MEASURES``; by default all that the model allows.
        batch_size: images at a time.

    Raises:
        ValueError: an unknown measure, one that needs an attention map where there is none, a model that cannot be
            traced, or no images.
    """
    running = RunningAnalysis(choose_measures(model, measures))
    for batch in model_batches(model, data, batch_size):
        running.add(model, batch.pixel_values)
    return running.finish()


class RunningAnalysis:
    """An analysis that takes batch after batch.

    Args:
        measures: names of ``model_measures.MEASURES``.
    """

    def __init__(self, measures: Sequence[str]):
        self.measures = tuple(measures)
        self.moments: dict[Key, Moments] = {}
        self.images = 0
        self.tokens: tuple[int, ...] = ()
        self.grid = (0, 0)

    def add(self, model: PreTrainedModel, pixel_values: Tensor) -> None:
        """Takes the images (batch, channels, height, width) that a model is run on."""
        traces = list(trace(model, pixel_values))
        for key, value in evaluate_measures(traces, self.measures).items():
            new = Moments.of(value)
            self.moments[key] = self.moments[key].merge(new) if key in self.moments else new
        self.images += len(pixel_values)
        self.tokens, self.grid = token_counts(traces), traces[0].entering.grid

    def finish(self) -> Analysis:
        """The analysis of all images so far."""
        return Analysis(self.images, self.tokens, tuple(to_rows(self.moments, self.grid)))


def choose_measures(model: PreTrainedModel, measures: Sequence[str] | None) -> tuple[str, ...]:
    """The measures that were named, or all that the model allows.

    Raises:
        ValueError: an unknown measure, one that needs an attention map where there is none, or a model that cannot be
            traced.
    """
    check_traceable(model)
    eager = model.config._attn_implementation == "eager"
    impossible = [name for name, each in LAYER_MEASURES.items() if each.needs_attention and not eager]
    if measures is None:
        return tuple(name for name in MEASURES if name not in impossible)
    names = several("measures", measures)
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"Unknown measure {name!r}: choose from {', '.join(MEASURES)}.")
        if name in impossible:
            raise ValueError(
                f"The measure {name!r} needs attention maps: load the model with attn_implementation='eager', "
                f"not {model.config._attn_implementation!r}."
            )
    return names


def evaluate_measures(traces: Sequence[LayerTrace], names: Iterable[str]) -> dict[Key, Tensor]:
    """Every measure where it is defined, for one batch: (batch,) or (batch, points)."""
    states = [*(each.entering for each in traces), traces[-1].leaving]
    values: dict[Key, Tensor | None] = {}
    for name in names:
        if name in STATE_MEASURES:
            evaluate = STATE_MEASURES[name].evaluate
            values |= {(name, layer): evaluate(state, states[-1]) for layer, state in enumerate(states)}
        else:
            values |= {(name, each.layer): LAYER_MEASURES[name].evaluate(each) for each in traces}
    return {key: value for key, value in values.items() if value is not None}


def token_counts(traces: Sequence[LayerTrace]) -> tuple[int, ...]:
    """Tokens that enter each layer, and that leave the last."""
    return (*(each.entering.tokens.shape[1] for each in traces), traces[-1].leaving.tokens.shape[1])


def to_rows(moments: Mapping[Key, Moments], grid: tuple[int, int]) -> Iterable[Row]:
    """Means and standard errors, in the order of the measures, layers and points; undefined means are left out."""
    for (name, layer), each in moments.items():
        points = MEASURES[name].points
        at: Sequence[float | None] = [None] if points is None else points(grid)
        for place, point in enumerate(at):
            part = Moments(*(part[place : place + 1] for part in each))
            if part.number:
                yield to_row(name, layer, point, part)


def to_row(name: str, layer: int, point: float | None, moments: Moments) -> Row:
    """The row of a measure at one point, whose moments have one entry."""
    error = float(moments.standard_error)
    return Row(name, layer, point, float(moments.mean), None if math.isnan(error) else error, int(moments.number))


def label_of(measure: str) -> str:
    """A measure's label for tables and figures."""
    return MEASURES[measure].label


def analysis_table(analysis: Analysis) -> str:
    """A Markdown table of all measures of one number, a row for each layer; curves are left to figures."""
    check_kind("analysis", analysis, Analysis, "what analyze gave")
    names = [name for name in analysis.measures if MEASURES[name].points is None]
    lines = ["| " + " | ".join(["layer", "tokens", *(name.replace("_", " ") for name in names)]) + " |"]
    lines.append("|" + "---|" * (len(names) + 2))
    for layer, tokens in enumerate(analysis.tokens):
        found = [analysis.select(name, layer) for name in names]
        cells = [f"{rows[0].mean:.4g}" if rows else "" for rows in found]
        head = str(layer) if layer < len(analysis.tokens) - 1 else "output"
        lines.append("| " + " | ".join([head, str(tokens), *cells]) + " |")
    return "\n".join(lines) + "\n"
