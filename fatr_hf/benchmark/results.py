"""What was measured: plain values that go to JSON and back, and the figures that follow from them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .settings import Setting
from .timing import Timing

FORMAT = 1
"""Version of the JSON file."""

FIGURES: dict[str, str] = {
    "speedup": "speed over stock",
    "share_of_bound": "share of the truncation bound",
    "reweighting": "time over no re-weighting",
    "macs_ratio": "multiply-accumulates over stock",
    "memory_ratio": "peak memory over stock",
}
"""What can be asked of a comparison's contestants, each the ratio of two of them."""


@dataclass(frozen=True)
class Measurement:
    """What one contestant took.

    Args:
        name, label: of the contestant.
        milliseconds: of a step, one for each round.
        macs: multiply-accumulates of a forward pass over one image.
        peak_memory: in bytes, or None where it cannot be told.
        note: what a reader has to know of it.
    """

    name: str
    label: str
    milliseconds: tuple[float, ...]
    macs: int
    peak_memory: int | None = None
    note: str = ""

    @property
    def timing(self) -> Timing:
        return Timing(self.milliseconds)


@dataclass(frozen=True)
class Comparison:
    """Contestants measured in turn under one setting.

    Args:
        tokens_per_layer: FATR's tokens out of each layer.
    """

    setting: Setting
    measurements: tuple[Measurement, ...]
    tokens_per_layer: tuple[int, ...]

    def find(self, name: str) -> Measurement | None:
        """A contestant's measurement, or None where it did not take part."""
        return next((each for each in self.measurements if each.name == name), None)

    def images_per_second(self, name: str) -> float | None:
        return self.ratio(name, name, lambda each, _: 1e3 * self.setting.batch_size / each.timing.median)

    def figure(self, figure: str, name: str) -> float | None:
        """One of ``FIGURES`` for a contestant; None where it or what it is compared with was not measured.

        Raises:
            ValueError: a figure that is not one of ``FIGURES``.
        """
        if figure not in FIGURES:
            raise ValueError(f"Unknown figure {figure!r}: choose from {', '.join(FIGURES)}.")
        if figure == "speedup":
            return self.ratio(name, "stock", speed_ratio)
        if figure == "share_of_bound":
            return self.ratio(name, "truncation-bound", speed_ratio)
        if figure == "reweighting":
            return self.ratio("fatr-no-omega", name, speed_ratio)
        if figure == "macs_ratio":
            return self.ratio(name, "stock", lambda one, other: one.macs / other.macs)
        return self.ratio(name, "stock", memory_ratio)

    def ratio(self, one: str, other: str, of: Callable[[Measurement, Measurement], float | None]) -> float | None:
        """A function of two measurements, or None where one is lacking."""
        first, second = self.find(one), self.find(other)
        return None if first is None or second is None else of(first, second)


def speed_ratio(one: Measurement, other: Measurement) -> float:
    """How many times as fast as the other: the median over rounds, within which a busy machine slows both alike."""
    return median(slow / fast for fast, slow in zip(one.milliseconds, other.milliseconds, strict=True))


def memory_ratio(one: Measurement, other: Measurement) -> float | None:
    """Peak memory of one over that of the other, where both are known."""
    if one.peak_memory is None or other.peak_memory is None:
        return None
    return one.peak_memory / other.peak_memory


@dataclass(frozen=True)
class Report:
    """Comparisons made on one machine, in one process.

    Args:
        machine: see ``describe_machine``.
        rounds, warmup: rounds that count, and those before them.
        comparisons: what was measured.
    """

    machine: dict[str, str | int | None]
    rounds: int
    warmup: int
    comparisons: tuple[Comparison, ...] = field(default=())

    def to_json(self) -> str:
        """Everything that was measured, and for convenience what follows from it (``summary``)."""
        values = {"format": FORMAT, **asdict(self)}
        for entry, comparison in zip(values["comparisons"], self.comparisons, strict=True):
            entry["summary"] = {each.name: summary(comparison, each) for each in comparison.measurements}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Reads what ``to_json`` wrote.

        Raises:
            ValueError: not such a file.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']} is not {FORMAT}")
            comparisons = tuple(comparison_of(entry) for entry in values["comparisons"])
            return cls(values["machine"], values["rounds"], values["warmup"], comparisons)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no result of fatr-hf bench, which --json writes: {error!r}.") from error


def summary(comparison: Comparison, measurement: Measurement) -> dict[str, float | None]:
    """The figures of one contestant."""
    return {
        "milliseconds": measurement.timing.median,
        "spread": measurement.timing.spread,
        "images_per_second": comparison.images_per_second(measurement.name),
        **{figure: comparison.figure(figure, measurement.name) for figure in FIGURES},
    }


def comparison_of(entry: dict[str, Any]) -> Comparison:
    """A comparison read from JSON."""
    measurements = tuple(
        Measurement(**{**each, "milliseconds": tuple(each["milliseconds"])}) for each in entry["measurements"]
    )
    return Comparison(Setting.from_dict(entry["setting"]), measurements, tuple(entry["tokens_per_layer"]))
