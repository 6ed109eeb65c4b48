"""Charts in SVG: points where they belong, round ticks around them, and a summary in words."""

import re

import pytest

from fatr_hf.analysis.compare import Figure
from fatr_hf.analysis.diagnosis.svg_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Series,
    draw_chart,
    draw_key,
    layer_ticks,
    value_ticks,
)


def chart_of(*means, error=None, joined=True):
    points = {layer: Figure(mean, error, 10) for layer, mean in enumerate(means)}
    return Chart("Rank", (Series("a & b", points, joined),), marked_layers=(1,))


def circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_are_to_scale():
    svg = draw_chart(chart_of(0.0, 10.0, 5.0))
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    assert circles(svg) == [(LEFT, HEIGHT - BOTTOM), (middle[0], TOP), (WIDTH - RIGHT, middle[1])]


def test_marked_layers_have_a_line_where_their_points_are():
    svg = draw_chart(chart_of(0.0, 10.0, 5.0))
    [x] = re.findall(r'class="mark" d="M([\d.]+)', svg)
    assert float(x) == circles(svg)[1][0]


@pytest.mark.parametrize(
    ("means", "ticks"),
    [
        ((0.0, 1.0), [0, 0.25, 0.5, 0.75, 1]),
        ((0.62, 0.97), [0.6, 0.7, 0.8, 0.9, 1.0]),
        ((-3.0, 41.0), [-20, 0, 20, 40, 60]),
        ((0.0001, 0.0004), [0.0001, 0.0002, 0.0003, 0.0004]),
        ((0.0, 0.0), [0, 0.25, 0.5, 0.75, 1]),
        ((7.0, 7.0), [0, 2, 4, 6, 8]),
        ((-2.0, -2.0), [-2, -1.5, -1, -0.5, 0]),
    ],
    ids=["unit", "part", "both-signs", "tiny", "zeros", "one-value", "one-below-zero"],
)
def test_ticks_are_round_and_enclose_the_points(means, ticks):
    assert value_ticks(chart_of(*means)) == pytest.approx(ticks)


def test_ticks_enclose_the_errors():
    ticks = value_ticks(chart_of(0.0, 1.0, error=0.3))
    assert ticks[0] <= -0.3
    assert ticks[-1] >= 1.3


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, [0]), (4, [0, 1, 2, 3, 4]), (12, [0, 2, 4, 6, 8, 10, 12]), (24, [0, 4, 8, 12, 16, 20, 24])],
)
def test_at_most_seven_layers_are_numbered(last, expected):
    assert list(layer_ticks(tuple(range(last + 1)))) == expected


def test_bands_are_one_standard_error_to_both_sides():
    svg = draw_chart(chart_of(5.0, 5.0, error=5.0))
    [band] = re.findall(r'class="band" d="([^"]+)"', svg)
    heights = [float(y) for y in re.findall(r" ([\d.]+)", band)]
    assert heights == [TOP, TOP, HEIGHT - BOTTOM, HEIGHT - BOTTOM]


def test_unjoined_points_have_neither_line_nor_band():
    chart = chart_of(1.0, 2.0, error=0.5, joined=False)
    assert 'class="line"' not in draw_chart(chart)
    assert 'class="band"' not in draw_chart(chart)
    assert 'class="line"' not in draw_key(chart.series[0], 0)
    assert len(circles(draw_chart(chart))) == 2


def test_a_series_without_points_is_not_drawn():
    chart = chart_of(1.0, 2.0)
    svg = draw_chart(chart._replace(series=(*chart.series, Series("empty", {}))))
    assert svg.count("<g ") == 1
    assert "empty" not in svg


def test_a_chart_of_one_layer_can_be_drawn():
    assert len(circles(draw_chart(chart_of(3.0)))) == 1


def test_the_summary_says_ends_and_extremes():
    summary = chart_of(1.0, 0.123, 40.0, 2.0).summary
    assert summary == (
        "Rank, by layer. a & b: 1 in layer 0, 2 in layer 3, lowest 0.123 in layer 1, highest 40 in layer 2."
    )
    assert "a &amp; b" in draw_chart(chart_of(1.0, 2.0))
