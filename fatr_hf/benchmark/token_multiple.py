"""Which token counts a device likes: where a layer's time steps, and the ``token_multiple`` to set for it.

Attention kernels work in tiles of queries, and matrix products in tiles of rows: a few tokens fewer may save a whole
tile. All here is arithmetic on times that ``token_times`` measures.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..modeling import LayerPlan
from .report import markdown_table

NEARBY = 0.15
"""A lower count is near where at most this share of the tokens is given up for it."""
WORTHWHILE = 0.02
"""Times per token that differ by less are taken for equal."""


class LayerTimes(NamedTuple):
    """Milliseconds of a layer's halves at one token count."""

    attention: float
    mlp: float
    noise: float = 0.0
    """The share of these times that they vary by (interquartile range over median)."""

    @property
    def per_layer(self) -> float:
        """Milliseconds of a whole layer."""
        return self.attention + self.mlp


class Step(NamedTuple):
    """One token more, or a few, that cost more than their share."""

    below: int
    above: int
    rise: float
    """The time above over that below."""


class CheaperCount(NamedTuple):
    """A reduction layer's count and, where there is one, a lower one near it that costs less than its share."""

    layer: int
    scheduled: int
    cheaper: int | None
    saving: float
    """The share of a layer's time that it saves; 0 where there is none."""


class MultipleCost(NamedTuple):
    """What a whole schedule costs with one ``token_multiple``."""

    multiple: int
    reduced: tuple[int, ...]
    """Tokens that leave each reduction layer."""
    milliseconds: float
    tokens: int
    """Tokens that leave all layers together."""

    @property
    def per_token(self) -> float:
        """Milliseconds for each of them."""
        return self.milliseconds / self.tokens


class Suggestion(NamedTuple):
    """What the times of a device say about a schedule."""

    steps: list[Step]
    counts: list[CheaperCount]
    costs: list[MultipleCost]
    multiple: int
    """The ``token_multiple`` to set."""


def find_steps(times: Mapping[int, LayerTimes]) -> list[Step]:
    """Where a layer's time rises by more than tokens and noise explain.

    A rise between neighbouring counts is a step if it exceeds what growth explains, the square of the tokens' for
    attention, by ``WORTHWHILE`` and by twice the noise.
    """
    steps = []
    counts = sorted(times)
    for below, above in pairwise(counts):
        before, after, growth = times[below], times[above], above / below
        explained = before.attention * growth**2 + before.mlp * growth
        if after.per_layer > explained * (1 + tolerance(before, after)):
            steps.append(Step(below, above, after.per_layer / before.per_layer))
    return steps


def tolerance(one: LayerTimes, other: LayerTimes) -> float:
    """The share by which two times have to differ to count as different."""
    return max(WORTHWHILE, 2 * max(one.noise, other.noise))


def cheaper_count(layer: int, scheduled: int, times: Mapping[int, LayerTimes], steps: Sequence[Step]) -> CheaperCount:
    """The count below a step, at most ``NEARBY`` below a scheduled one, that takes the least time per token."""
    here = times[scheduled]
    near = [step.below for step in steps if scheduled * (1 - NEARBY) <= step.below < scheduled]
    savings = {count: 1 - times[count].per_layer / here.per_layer for count in near}
    worthwhile = [
        count for count in near if savings[count] > 1 - count / scheduled * (1 - tolerance(here, times[count]))
    ]
    if not worthwhile:
        return CheaperCount(layer, scheduled, None, 0.0)
    best = min(worthwhile, key=lambda count: times[count].per_layer / count)
    return CheaperCount(layer, scheduled, best, savings[best])


def schedule_cost(multiple: int, schedule: Sequence[LayerPlan], times: Mapping[int, LayerTimes]) -> MultipleCost:
    """The time of all layers: attention over what enters a layer, the MLP over what leaves it."""
    milliseconds = sum(times[layer.tokens_in].attention + times[layer.tokens_out].mlp for layer in schedule)
    reduced = tuple(layer.tokens_out for layer in schedule if layer.reduces)
    return MultipleCost(multiple, reduced, milliseconds, sum(layer.tokens_out for layer in schedule))


def choose_multiple(costs: Sequence[MultipleCost], steps: Sequence[Step]) -> int:
    """The multiple with the least time per token, the smallest of those about alike; 1 where there are no steps."""
    if not steps:
        return 1
    least = min(cost.per_token for cost in costs)
    return min(cost.multiple for cost in costs if cost.per_token <= least * (1 + WORTHWHILE / 2))


def suggest(schedules: Mapping[int, Sequence[LayerPlan]], times: Mapping[int, LayerTimes]) -> Suggestion:
    """Reads a device's times.

    Args:
        schedules: the token schedule with each ``token_multiple``, 1 among them.
        times: of every count in the schedules, and of others near them.
    """
    steps = find_steps(times)
    costs = [schedule_cost(multiple, schedule, times) for multiple, schedule in schedules.items()]
    counts = [cheaper_count(layer.layer, layer.tokens_out, times, steps) for layer in schedules[1] if layer.reduces]
    return Suggestion(steps, counts, costs, choose_multiple(costs, steps))


def suggestion_text(suggestion: Suggestion) -> str:
    """A suggestion in words and tables, Markdown."""
    if not suggestion.steps:
        words = (
            "The time of a layer has no steps here beyond its noise: it follows the tokens. Leave token_multiple at 1."
        )
        return f"{words}\n\n{costs_table(suggestion)}"
    steps = ", ".join(f"{step.below} to {step.above} (x {step.rise:.2f})" for step in suggestion.steps)
    counts = [
        [
            str(count.layer),
            str(count.scheduled),
            "-" if count.cheaper is None else str(count.cheaper),
            "-" if count.cheaper is None else f"{100 * count.saving:.0f}%",
        ]
        for count in suggestion.counts
    ]
    header = ["reduction layer", "tokens as scheduled", "cheaper count nearby", "saves of a layer's time"]
    if suggestion.multiple == 1:
        advice = "No multiple makes the whole schedule faster per token: leave token_multiple at 1."
    else:
        advice = f"Set token_multiple={suggestion.multiple}: the fastest schedule per token."
    return "\n".join(
        [f"Steps in the time of a layer: {steps}.", "", markdown_table(header, counts), costs_table(suggestion), advice]
    )


def costs_table(suggestion: Suggestion) -> str:
    """The whole schedule with each multiple."""
    plain = suggestion.costs[0]
    rows = [
        [
            str(cost.multiple),
            " ".join(map(str, cost.reduced)),
            f"{cost.milliseconds:.3f}",
            f"{cost.milliseconds / plain.milliseconds:.3f}",
            f"{cost.per_token / plain.per_token:.3f}",
        ]
        for cost in suggestion.costs
    ]
    header = ["token_multiple", "tokens after reductions", "ms, all layers", "over the first", "per token, likewise"]
    return markdown_table(header, rows)
