"""The points of an ablation as tables and pictures: heat maps, lines, and the front of quality against cost."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fatr_hf.analysis.curves import COLOURS, free_ticks, line_styles, new_figure
from fatr_hf.analysis.figure_files import save_figure
from fatr_hf.benchmark.report import format_macs, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "cividis"
"""Made to look nearly the same with any colour vision."""


class Point(NamedTuple):
    """One reduction, its place in the grid of its sweep, and what was measured of it."""

    sweep: str
    row: str
    column: str
    weights: str
    """Which parameters the model had beside the ViT's."""
    fields: dict[str, Any]
    """Of the configuration."""
    macs: int
    """Multiply-accumulates of an image."""
    qualities: dict[str, float]
    """Means over the images, by their names in ``QUALITIES``."""


class Quality(NamedTuple):
    """How a measured quality is shown."""

    label: str
    shown: Callable[[float], float]
    """From the measured value to the one that is shown."""
    lower_is_better: bool


QUALITIES = {
    "accuracy": Quality("top-1, %", lambda accuracy: 100 * accuracy, lower_is_better=False),
    # Nearly all cosines are close to 1, where the angle tells them apart.
    "cosine": Quality(
        "angle to the unreduced output, degrees",
        lambda cosine: math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
        lower_is_better=True,
    ),
}


def shown(point: Point, quality: str) -> float:
    """A point's quality in the unit in which it is shown."""
    return QUALITIES[quality].shown(point.qualities[quality])


def standard_error(accuracy: float, images: int) -> float:
    """The binomial standard error of an accuracy in [0, 1]."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def by_name(points: Iterable[Point], name: str) -> dict[str, list[Point]]:
    """The points by one of their fields: ``sweep``, ``row`` or ``column``."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(getattr(point, name), []).append(point)
    return groups


def pareto_front(points: Iterable[Point], quality: str) -> list[Point]:
    """The points that are better than every other one that costs no more, from the cheapest on."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.macs, -each.qualities[quality])):
        if not front or point.qualities[quality] > front[-1].qualities[quality]:
            front.append(point)
    return front


def sweep_tables(points: Sequence[Point], corner: str, unreduced_macs: int) -> str:
    """A sweep as Markdown tables: each quality, and the share of the unreduced multiply-accumulates."""
    tables = {QUALITIES[name].label: [f"{shown(each, name):.1f}" for each in points] for name in points[0].qualities}
    tables["share of the multiply-accumulates"] = [f"{point.macs / unreduced_macs:.2f}" for point in points]
    return "\n".join(f"{label}:\n\n{grid_table(points, corner, cells)}" for label, cells in tables.items())


def grid_table(points: Sequence[Point], corner: str, cells: Sequence[str]) -> str:
    """The points' cells in the grid of their sweep; a dash where there is no point."""
    columns = by_name(points, "column")
    known = {(point.row, point.column): cell for point, cell in zip(points, cells, strict=True)}
    rows = [[row, *(known.get((row, column), "–") for column in columns)] for row in by_name(points, "row")]
    return markdown_table([corner, *columns], rows)


def front_table(points: Sequence[Point], quality: str, unreduced_macs: int) -> str:
    """The front of one quality as a Markdown table."""
    header = ["multiply-accumulates", QUALITIES[quality].label, "sweep", "row / column"]
    rows = []
    for point in pareto_front(points, quality):
        cost = f"{format_macs(point.macs)} ({point.macs / unreduced_macs:.2f})"
        rows.append([cost, f"{shown(point, quality):.1f}", point.sweep, f"{point.row} / {point.column}"])
    return markdown_table(header, rows)


def plot_heat_map(points: Sequence[Point], corner: str, path: Path) -> None:
    """Draws a sweep's grid with the numbers in its cells, a panel for each quality; brighter is better.

    Args:
        points: of one sweep.
        corner: what rows and columns are, as "rows / columns".
        path: without a suffix; see ``write_figure``.
    """
    from matplotlib.figure import Figure

    rows, columns = list(by_name(points, "row")), list(by_name(points, "column"))
    qualities = list(points[0].qualities)
    width = 1 + 0.08 * max(map(len, rows)) + max(4.0, 0.7 * len(columns))
    figure = Figure(figsize=(width, (0.9 + 0.32 * len(rows)) * len(qualities)), layout="constrained")
    for number, quality in enumerate(qualities, start=1):
        panel = figure.add_subplot(len(qualities), 1, number)
        draw_cells(panel, points, quality, rows, columns)
        row_label, column_label = corner.split(" / ")
        panel.set(ylabel=row_label, xlabel=column_label)
        panel.set_title(QUALITIES[quality].label, fontsize="medium")
    write_figure(figure, path)


def draw_cells(panel: "Axes", points: Sequence[Point], quality: str, rows: list[str], columns: list[str]) -> None:
    """Cells coloured by a quality; those without a point are grey."""
    from matplotlib import colormaps

    values = [[math.nan] * len(columns) for _ in rows]
    sign = -1 if QUALITIES[quality].lower_is_better else 1
    for point in points:
        values[rows.index(point.row)][columns.index(point.column)] = sign * shown(point, quality)
    image = panel.imshow(values, cmap=colormaps[COLOUR_MAP].with_extremes(bad="#DDDDDD"), aspect="auto")
    brightness: Any = image.norm
    for point in points:
        value = shown(point, quality)
        colour = "black" if brightness(sign * value) > 0.5 else "white"
        place = columns.index(point.column), rows.index(point.row)
        panel.text(*place, f"{value:.1f}", ha="center", va="center", color=colour, fontsize="small")
    panel.set_xticks(range(len(columns)), columns)
    panel.set_yticks(range(len(rows)), rows)


def plot_lines(points: Sequence[Point], unreduced: Point, images: int, path: Path) -> None:
    """Draws quality against cost, a line for each row of a sweep; other arguments as for ``cost_panels``."""
    figure, panels = cost_panels(unreduced, images)
    lines = by_name(points, "row")
    for quality, panel in panels.items():
        for style, (row, line) in zip(line_styles(len(lines)), lines.items(), strict=True):
            ordered = sorted(line, key=lambda point: point.macs)
            panel.plot(*places(ordered, quality, unreduced), label=row, **style)
    write_with_legend(figure, panels, path)


def plot_front(points: Sequence[Point], unreduced: Point, images: int, path: Path) -> None:
    """Draws every point's quality against its cost, a marker for each sweep, and the front."""
    figure, panels = cost_panels(unreduced, images)
    sweeps = by_name(points, "sweep")
    for quality, panel in panels.items():
        for style, (sweep, members) in zip(line_styles(len(sweeps) + 1)[1:], sweeps.items(), strict=True):
            panel.plot(*places(members, quality, unreduced), label=sweep, linestyle="none", alpha=0.7, **style)
        front = places(pareto_front(points, quality), quality, unreduced)
        panel.step(*front, where="post", label="front", color=COLOURS[0], linewidth=1)
    write_with_legend(figure, panels, path)


def places(points: Iterable[Point], quality: str, unreduced: Point) -> tuple[list[float], list[float]]:
    """Shares of the unreduced multiply-accumulates, and a quality as it is shown."""
    return [point.macs / unreduced.macs for point in points], [shown(point, quality) for point in points]


def cost_panels(unreduced: Point, images: int) -> "tuple[Figure, Mapping[str, Axes]]":
    """A figure with a panel for each quality over the cost; better is higher.

    Args:
        unreduced: a band shows its accuracy, one standard error up and down.
        images: how many this was measured on.
    """
    figure, axes = new_figure(len(unreduced.qualities))
    panels = dict(zip(unreduced.qualities, axes, strict=True))
    for name, panel in panels.items():
        quality = QUALITIES[name]
        free_ticks(panel)
        panel.set_xlabel("share of the multiply-accumulates")
        panel.set_title(quality.label, fontsize="medium")
        if quality.lower_is_better:
            panel.invert_yaxis()
        if name == "accuracy":
            value, error = unreduced.qualities[name], standard_error(unreduced.qualities[name], images)
            band = quality.shown(value - error), quality.shown(value + error)
            panel.axhspan(*band, color="#DDDDDD", label="unreduced ± standard error")
    return figure, panels


def write_with_legend(figure: "Figure", panels: "Mapping[str, Axes]", path: Path) -> None:
    """Writes a figure with one legend below its panels, that of the first, which is complete."""
    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    write_figure(figure, path)


def write_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG and as SVG."""
    for suffix in (".png", ".svg"):
        save_figure(figure, path.with_suffix(suffix))
