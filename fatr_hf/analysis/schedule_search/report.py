"""What a search found for people: a table of the front, a figure, and the call that loads a schedule."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...baselines.arguments import check_kind
from ..curves import COLOURS, MARKERS
from ..figure_files import check_matplotlib
from ..names import figure_text
from ..schedule import Schedule
from .quality import quality_words
from .result import SearchResult, Trial
from .rivals import RIVALS, RivalPoint, ScheduleCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COST_LABELS = {"macs": "multiply-accumulates", "latency": "latency"}

RIVAL_LABELS = {"tome": "ToMe", "evit": "EViT", "random": "random selection", "pooling": "average pooling"}

QUALITY_LABELS = {
    "accuracy": "accuracy",
    "cosine": "1 - cosine to the unreduced model's outputs",
    "divergence": "divergence from the unreduced model, nats",
    "agreement": "agreement with the unreduced model",
}
"""Of the figure, in which distances are drawn by their logarithm."""


def front_table(result: SearchResult) -> str:
    """A Markdown table of the Pareto front, by rising cost."""
    check_kind("result", result, SearchResult, "what search_schedules gave")
    heads = (
        "trial",
        COST_LABELS[result.objective],
        result.quality,
        "layers",
        "keep ratios",
        "windows",
        "multiple",
        "α",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for trial in result.front:
        schedule = trial.schedule
        cells = (
            str(trial.number) if trial.name is None else f"{trial.number} ({trial.name})",
            f"{trial.cost:.3f}",
            f"{trial.quality:.5f}",
            joined(schedule.reduction_layers),
            joined(schedule.keep_ratio),
            joined(schedule.dc_windows),
            str(schedule.token_multiple),
            f"{schedule.size_exponent:g}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def joined(values: Sequence[float]) -> str:
    """The values of a column, or the only one that there is."""
    return " ".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))


def summary(result: SearchResult) -> str:
    """How many schedules were tried, on what, what the unreduced model reaches, and what quality is."""
    judged = result.labelled if result.quality == "accuracy" else result.images
    return (
        f"{len(result.trials)} schedules tried to the end on {judged} images, {len(result.pruned)} given up, "
        f"{len(result.front)} on the front. Unreduced: {result.unreduced_macs / 1e9:.3g} G multiply-accumulates, "
        f"{result.quality} {result.unreduced_quality:.4f}. "
        f"{quality_words(result.quality, result.labelled, result.images)}"
    )


def loading_call(schedule: Schedule, name: str, class_name: str) -> str:
    """The Python call that loads a checkpoint with a schedule."""
    fields = "".join(f"    {field}={value},\n" for field, value in schedule.fields.items())
    return f'{class_name}.from_pretrained(\n    "{name}",\n{fields})'


def check_text(check: ScheduleCheck) -> str:
    """A schedule beside a rival, in a few sentences."""
    low, high = check.interval
    return (
        f"On {check.images} other images, {check.quality}: {check.schedule_quality:.5f} at {check.macs_share:.3f} of "
        f"the multiply-accumulates, {RIVAL_LABELS[check.rival]} {check.rival_quality:.5f} at "
        f"{check.rival_macs_share:.3f}; difference {check.difference:+.5f}, 95% interval {low:+.5f} to {high:+.5f} "
        f"over {check.groups} groups of images. It is better on {check.better_share:.0%} of the images and worse on "
        f"{check.worse_share:.0%}. {quality_words(check.quality, check.labelled, check.images)}"
    )


def search_figure(result: SearchResult, rivals: Sequence[RivalPoint] = ()) -> "Figure":
    """Quality over cost: all schedules tried, the front, known schedules by name where there is room, and rivals.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_kind("result", result, SearchResult, "what search_schedules gave")
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(RIVALS, 1):
        points = sorted(point for point in rivals if point.name == name)
        if points:
            axes.plot(
                *positions(result, points), "--", color=COLOURS[place], marker=MARKERS[place], label=RIVAL_LABELS[name]
            )
    names = draw_trials(axes, result)
    if result.quality in ("cosine", "divergence"):
        axes.set_yscale("log")
    else:
        axes.axhline(result.unreduced_quality, color=COLOURS[0], linewidth=0.8, linestyle=":", label="unreduced")
    axes.set_xlabel(f"{COST_LABELS[result.objective]}, share of the unreduced model's")
    over = f" over {result.labelled} images" if result.quality == "accuracy" else ""
    axes.set_ylabel(QUALITY_LABELS[result.quality] + over)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    hide_overlaps(figure, names)
    return figure


def draw_trials(axes: "Axes", result: SearchResult) -> "list[Text]":
    """All schedules tried, the front as a line, and known ones; gives the names of these, those on the front first."""
    axes.plot(*positions(result, result.trials), ".", color=COLOURS[-1], markersize=5, label="schedules tried")
    axes.plot(*positions(result, result.front), "o-", color=COLOURS[0], markersize=4, label="Pareto front")
    known = sorted((trial for trial in result.trials if trial.name is not None), key=lambda trial: trial.cost)
    costs, heights = positions(result, known)
    axes.plot(costs, heights, "D", color=COLOURS[-3], markersize=4, label="known schedules")
    names = {}
    for number, (trial, place) in enumerate(zip(known, zip(costs, heights, strict=True), strict=True)):
        # Neighbours have their names on different sides, so that few overlap.
        shift, side = ((5, -2), "left") if number % 2 else ((-5, -2), "right")
        names[trial.number] = axes.annotate(
            figure_text(str(trial.name)), place, shift, textcoords="offset points", ha=side, fontsize=6, zorder=4
        )
    on_front = {trial.number for trial in result.front}
    return [names[number] for number in sorted(names, key=lambda number: number not in on_front)]


def hide_overlaps(figure: "Figure", names: "Sequence[Text]") -> None:
    """Hides every name that would cover an earlier one."""
    figure.draw_without_rendering()
    shown: list[Any] = []
    for name in names:
        box = name.get_window_extent()
        if any(box.overlaps(other) for other in shown):
            name.set_visible(False)
        else:
            shown.append(box)


def positions(result: SearchResult, points: Sequence[Trial | RivalPoint]) -> tuple[list[float], list[float]]:
    """Where costs and qualities are drawn; a cosine by its distance from 1."""
    cosine = result.quality == "cosine"
    return [each.cost for each in points], [1 - each.quality if cosine else each.quality for each in points]
