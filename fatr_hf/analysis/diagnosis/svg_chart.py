"""Line charts over layers as SVG for a page in HTML, which colours them: `.series-0` and so on, light or dark.

Lines also differ by marker, so that no colour is needed to tell them apart.
"""

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import NamedTuple

from ..compare import Figure

WIDTH, HEIGHT = 300, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 36
"""Margins of the plotted field."""

MARKERS = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
    '<path d="M{x:.1f} {y:.1f}m-3.2 -3.2h6.4v6.4h-6.4z"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -4l4 7h-8z"/>',
    '<path d="M{x:.1f} {y:.1f}m0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>',
)

STEPS = (1, 2, 2.5, 5, 10)
"""Distances of ticks, times a power of ten."""


class Series(NamedTuple):
    """A line of a chart."""

    label: str
    points: Mapping[int, Figure]
    """By layer; a band of one standard error is drawn around them."""
    joined: bool = True
    """Whether the points are joined by a line."""


class Chart(NamedTuple):
    """Lines over layers."""

    title: str
    series: tuple[Series, ...]
    """At most four."""
    marked_layers: tuple[int, ...] = ()
    """Layers with a dotted line."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of all series."""
        return tuple(sorted({layer for each in self.series for layer in each.points}))

    @property
    def summary(self) -> str:
        """What the chart shows, for those who do not see it."""
        return " ".join([f"{self.title}, by layer.", *(summarise(each) for each in self.series if each.points)])


def summarise(series: Series) -> str:
    """Ends and extremes of a series in words."""
    means = {layer: figure.mean for layer, figure in series.points.items()}
    first, last, low, high = (
        min(means),
        max(means),
        min(means, key=means.__getitem__),
        max(means, key=means.__getitem__),
    )
    return (
        f"{series.label}: {means[first]:.3g} in layer {first}, {means[last]:.3g} in layer {last}, lowest "
        f"{means[low]:.3g} in layer {low}, highest {means[high]:.3g} in layer {high}."
    )


def draw_chart(chart: Chart) -> str:
    """A chart as an ``svg`` element."""
    layers, ticks = chart.layers, value_ticks(chart)
    scale_x = scale(layers[0], layers[-1], LEFT, WIDTH - RIGHT)
    scale_y = scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.summary)}">',
        *(draw_value_tick(value, scale_y(value)) for value in ticks),
        *(draw_layer_tick(layer, scale_x(layer)) for layer in layer_ticks(layers)),
        *(f'<path class="mark" d="M{scale_x(layer):.1f} {TOP}V{HEIGHT - BOTTOM}"/>' for layer in chart.marked_layers),
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">layer</text>',
        *(draw_series(each, place, scale_x, scale_y) for place, each in enumerate(chart.series) if each.points),
        "</svg>",
    ]
    return "".join(parts)


def draw_series(
    series: Series, place: int, scale_x: Callable[[float], float], scale_y: Callable[[float], float]
) -> str:
    """Band, line and markers of a series; ``place`` is its number in the chart."""
    points = sorted(series.points.items())
    line = [(scale_x(layer), scale_y(figure.mean)) for layer, figure in points]
    parts = []
    if series.joined:
        errors = [(scale_x(layer), figure.mean, figure.standard_error or 0.0) for layer, figure in points]
        band = [(x, scale_y(mean + error)) for x, mean, error in errors]
        band += [(x, scale_y(mean - error)) for x, mean, error in reversed(errors)]
        parts = [f'<path class="band" d="{path(band)}z"/>', f'<path class="line" d="{path(line)}"/>']
    markers = [MARKERS[place].format(x=x, y=y) for x, y in line]
    return f'<g class="series-{place}">{"".join([*parts, *markers])}</g>'


def draw_key(series: Series, place: int) -> str:
    """The marker of a series on a bit of its line, for a legend."""
    line = '<path class="line" d="M0 6H24"/>' if series.joined else ""
    marker = MARKERS[place].format(x=12, y=6)
    return f'<svg viewBox="0 0 24 12" aria-hidden="true"><g class="series-{place}">{line}{marker}</g></svg>'


def draw_value_tick(value: float, y: float) -> str:
    """A value's line across the chart and its number."""
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="value" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>'
    )


def draw_layer_tick(layer: int, x: float) -> str:
    """A layer's number."""
    return f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}">{layer}</text>'


def path(points: list[tuple[float, float]]) -> str:
    """Points as the data of a path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear function that takes ``low`` to ``start`` and ``high`` to ``end``."""
    width = (high - low) or 1
    return lambda value: start + (value - low) / width * (end - start)


def layer_ticks(layers: tuple[int, ...]) -> range:
    """About seven layers at even distances."""
    return range(layers[0], layers[-1] + 1, -(-(layers[-1] - layers[0] + 1) // 7))


def value_ticks(chart: Chart) -> list[float]:
    """About five round values that enclose all points with their errors; a chart of one value has 0 in it too."""
    figures = [figure for series in chart.series for figure in series.points.values()]
    low = min(figure.mean - (figure.standard_error or 0) for figure in figures)
    high = max(figure.mean + (figure.standard_error or 0) for figure in figures)
    if high == low:
        low, high = sorted((low, 0.0)) if low else (0.0, 1.0)
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in STEPS if factor * power >= (high - low) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]
