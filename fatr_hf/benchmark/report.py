"""What models cost and reach, as tables in Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..baselines.arguments import check_kind, check_positive, described, is_number
from ..modeling import LayerPlan
from .results import Comparison, Measurement, Report


class ModelCost(NamedTuple):
    """What one model reaches, and at what cost."""

    name: str
    accuracy: float
    """Top-1, in [0, 1]."""
    macs: int
    """Multiply-accumulates per image."""
    images_per_second: float


def results_table(costs: Sequence[ModelCost], schedule: Sequence[LayerPlan]) -> str:
    """A Markdown table of models, the first being what the others are compared with, and the tokens of each layer.

    Raises:
        ValueError: no costs or no schedule, an accuracy that is no share, or a speed that is not above 0.
    """
    for name, values, kind in (("costs", costs, ModelCost), ("schedule", schedule, LayerPlan)):
        if not isinstance(values, Sequence) or not values or not all(isinstance(each, kind) for each in values):
            raise ValueError(f"{name} must be a list of at least one {kind.__name__}.")
    for cost in costs:
        if not is_number(cost.accuracy) or not 0 <= cost.accuracy <= 1:
            raise ValueError(f"accuracy={described(cost.accuracy)} of {cost.name} must be a share in [0, 1].")
        check_positive(f"images_per_second of {cost.name}", cost.images_per_second)
        check_positive(f"macs of {cost.name}", cost.macs)
    first = costs[0]
    lines = ["| model | top-1 | multiply-accumulates | images/s | speed |", "|---|---|---|---|---|"]
    lines += [
        f"| {cost.name} | {100 * cost.accuracy:.2f}% | {format_macs(cost.macs)} ({cost.macs / first.macs:.2f}) "
        f"| {cost.images_per_second:.0f} | {cost.images_per_second / first.images_per_second:.2f}x |"
        for cost in costs
    ]
    tokens = " ".join(str(layer.tokens_out) for layer in schedule)
    return "\n".join([*lines, "", f"Tokens after each layer: {tokens} (of {schedule[0].tokens_in}).", ""])


def comparison_table(comparison: Comparison) -> str:
    """A Markdown section: the setting, a row for each contestant, the tokens of FATR's layers and any notes."""
    check_kind("comparison", comparison, Comparison, "what fatr_hf.benchmark.compare gave")
    header = ["contestant", "ms", "spread", "images/s", "speed", "of bound", "MACs", "peak memory"]
    rows = [contestant_row(comparison, each) for each in comparison.measurements]
    lines = [f"## {comparison.setting.label}", "", markdown_table(header, rows)]
    reweighting = comparison.figure("reweighting", "fatr")
    if reweighting is not None:
        lines.append(f"Re-weighting: FATR takes {reweighting:.3f} times as long as without it.")
    lines.append(f"FATR's tokens after each layer: {' '.join(map(str, comparison.tokens_per_layer))}.")
    lines += [f"{each.label}: {each.note}." for each in comparison.measurements if each.note]
    return "\n".join([*lines, ""])


def contestant_row(comparison: Comparison, measurement: Measurement) -> list[str]:
    """One contestant's cells. Without stock, or the truncation bound, ratios to it are dashes."""
    name, timing = measurement.name, measurement.timing
    return [
        measurement.label,
        f"{timing.median:.3f}",
        f"{timing.spread:.3f}",
        format_speed(1e3 * comparison.setting.batch_size / timing.median),
        format_ratio(comparison.figure("speedup", name), "{:.3f}x"),
        format_ratio(comparison.figure("share_of_bound", name), "{:.3f}"),
        format_macs(measurement.macs) + format_ratio(comparison.figure("macs_ratio", name), " ({:.2f})", ""),
        format_memory(measurement.peak_memory) + format_ratio(comparison.figure("memory_ratio", name), " ({:.2f})", ""),
    ]


READING = (
    "ms: median time of a batch; spread: its interquartile range. speed: over the stock model's. of bound: share of "
    "the truncation bound's speed; both are medians of the rounds' own ratios. MACs: multiply-accumulates of "
    "the method for one image; memory: the peak of a step, weights included. In brackets: over the stock model's."
)
"""Explains the columns of ``comparison_table``."""


def report_text(report: Report, targets: str = "") -> str:
    """All of a report in Markdown, with a table of targets where there is one."""
    return "\n".join([*map(comparison_table, report.comparisons), closing_text(report, targets)])


def closing_text(report: Report, targets: str = "") -> str:
    """What follows a report's comparisons: how to read them, targets if any, and the machine."""
    rounds = f"Median of {report.rounds} interleaved rounds after {report.warmup} of warm-up."
    parts = [f"{READING} {rounds}", *(["## Targets", targets] if targets else [])]
    return "\n\n".join([*(part.rstrip() for part in parts), "## Machine", machine_table(report.machine)])


def machine_table(machine: Mapping[str, str | int | None]) -> str:
    """What was measured on, as a Markdown table; what is not known is left out."""
    rows = [[name.replace("_", " "), str(value)] for name, value in machine.items() if value is not None]
    return markdown_table(["machine", ""], rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are as wide as their cells, so that it reads well in a terminal too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width for width in widths]
    lines = []
    for number, row in enumerate(cells):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
        if number == 0:
            lines.append(f"| {' | '.join(rule)} |")
    return "\n".join([*lines, ""])


def format_ratio(ratio: float | None, form: str, lacking: str = "-") -> str:
    """A ratio in a form, or what stands for one that is not known."""
    return lacking if ratio is None else form.format(ratio)


def format_speed(images_per_second: float) -> str:
    """Images per second, below a hundred with a decimal."""
    return f"{images_per_second:.0f}" if images_per_second >= 100 else f"{images_per_second:.1f}"


def format_macs(macs: int) -> str:
    """Multiply-accumulates in millions or, from a thousand million on, in G."""
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def format_memory(memory: int | None) -> str:
    """Bytes in MiB; a dash where they are not known."""
    return "-" if memory is None else f"{memory / 2**20:.0f} MiB"
