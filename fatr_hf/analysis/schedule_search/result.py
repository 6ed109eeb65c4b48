"""What a search found: the schedules tried, and those that no other one beats."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from ...baselines.arguments import described, is_number, reading
from ..schedule import Schedule
from .quality import LOWER_IS_BETTER


class Trial(NamedTuple):
    """A schedule tried on all images."""

    number: int
    """Of the trial in its study."""
    schedule: Schedule
    macs: int
    """Multiply-accumulates of an image."""
    cost: float
    """Multiply-accumulates or latency, as a share of the unreduced model's."""
    quality: float
    """The mean over images."""
    name: str | None = None
    """Of a known schedule."""


class PrunedTrial(NamedTuple):
    """A schedule given up."""

    number: int
    schedule: Schedule
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search."""

    objective: str
    """What costs are: one of ``search.OBJECTIVES``."""
    quality: str
    """What qualities are: one of ``quality.QUALITIES``."""
    images: int
    """How many the data hold."""
    labelled: int
    """How many of them have a class of the model; an accuracy is over these."""
    unreduced_macs: int
    """Multiply-accumulates of an image without reduction."""
    unreduced_quality: float
    trials: tuple[Trial, ...]
    pruned: tuple[PrunedTrial, ...] = ()

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front: by rising cost the trials that are better than all that cost no more."""
        return pareto_front(self.trials, self.quality)

    def best_at(self, share: float) -> Trial:
        """The trial of the best quality that costs no more than a share of the unreduced model.

        Raises:
            ValueError: all cost more, or a share that is not in (0, 1].
        """
        if not is_number(share) or not 0 < share <= 1:
            raise ValueError(f"share={described(share)} must lie in (0, 1]: a share of the unreduced model's cost.")
        affordable = [trial for trial in self.front if trial.cost <= share]
        if not affordable:
            least = min((trial.cost for trial in self.trials), default=None)
            found = "no schedule was tried to the end" if least is None else f"the cheapest schedule costs {least:.3f}"
            raise ValueError(f"Nothing was found at {share:g} of the unreduced model's {self.objective}: {found}.")
        return affordable[-1]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``front`` holds numbers of trials."""
        return asdict(self) | {
            "trials": [trial._asdict() | {"schedule": trial.schedule.fields} for trial in self.trials],
            "pruned": [trial._asdict() | {"schedule": trial.schedule.fields} for trial in self.pruned],
            "front": [trial.number for trial in self.front],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        kept = {name: value for name, value in values.items() if name != "front"}
        for name, kind in (("trials", Trial), ("pruned", PrunedTrial)):
            kept[name] = tuple(
                kind(**trial | {"schedule": Schedule.from_fields(trial["schedule"])}) for trial in values[name]
            )
        return cls(**kept)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError: any other text.
        """
        with reading("result of a search"):
            return cls.from_dict(json.loads(text))


def pareto_front(trials: Iterable[Trial], quality: str) -> tuple[Trial, ...]:
    """By rising cost the trials that are better than all that cost no more; of equal ones the first."""
    sign = -1 if quality in LOWER_IS_BETTER else 1
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.cost, -sign * trial.quality, trial.number)):
        if not front or sign * trial.quality > sign * front[-1].quality:
            front.append(trial)
    return tuple(front)
