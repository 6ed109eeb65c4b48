import math

import pytest

from fatr_hf import FATRViTConfig
from fatr_hf.benchmark import Protocol, suggest_multiple
from fatr_hf.benchmark.token_multiple import (
    LayerTimes,
    MultipleCost,
    Step,
    choose_multiple,
    find_steps,
    schedule_cost,
    suggest,
    suggestion_text,
)
from fatr_hf.benchmark.token_times import counts_to_time, feasible_schedules

COUNTS = range(20, 200)


def smooth(count, noise=0.0):
    """Attention with its quadratic share, and an MLP in proportion to the tokens."""
    return LayerTimes(0.003 * count + 0.000004 * count**2, 0.006 * count, noise)


def tiled(count, tile=64):
    """Attention pays for whole tiles."""
    return smooth(count)._replace(attention=0.01 * tile * math.ceil(count / tile))


@pytest.fixture
def schedules():
    return {multiple: FATRViTConfig(token_multiple=multiple).plan() for multiple in (1, 2, 8, 32)}


def test_smooth_times_have_no_steps(schedules):
    times = {count: smooth(count) for count in COUNTS}
    suggestion = suggest(schedules, times)
    assert suggestion.steps == []
    assert suggestion.multiple == 1
    assert [count.cheaper for count in suggestion.counts] == [None, None, None]
    assert "has no steps" in suggestion_text(suggestion)


def test_steps_are_found_where_tiles_end(schedules):
    times = {count: tiled(count) for count in COUNTS}
    suggestion = suggest(schedules, times)
    assert [(step.below, step.above) for step in suggestion.steps] == [(64, 65), (128, 129), (192, 193)]
    # 142 tokens pay for three tiles, 128 for two; 97 is far from the next tile; 68 are just above one.
    assert [(count.scheduled, count.cheaper) for count in suggestion.counts] == [(142, 128), (97, None), (68, 64)]
    assert suggestion.counts[0].saving == pytest.approx(1 - times[128].per_layer / times[142].per_layer)
    assert suggestion.multiple == 32
    text = suggestion_text(suggestion)
    assert "Set token_multiple=32" in text
    assert "64 to 65" in text


def test_noise_hides_steps():
    times = {count: tiled(count)._replace(noise=0.5) for count in COUNTS}
    assert find_steps(times) == []


def test_a_step_within_the_noise_of_neither_side_shows():
    times = {128: LayerTimes(1.0, 1.0, 0.01), 129: LayerTimes(1.4, 1.0, 0.02)}
    assert find_steps(times) == [Step(128, 129, pytest.approx(1.2))]


def test_cost_of_a_schedule(schedules):
    times = {count: smooth(count) for count in COUNTS}
    cost = schedule_cost(1, schedules[1], times)
    tokens_in, tokens_out = [197] * 4 + [142] * 3 + [97] * 3 + [68] * 2, [197] * 3 + [142] * 3 + [97] * 3 + [68] * 3
    expected = sum(times[count].attention for count in tokens_in) + sum(times[count].mlp for count in tokens_out)
    assert cost.milliseconds == pytest.approx(expected)
    assert (cost.reduced, cost.tokens) == ((142, 97, 68), sum(tokens_out))


def test_the_smallest_of_multiples_about_alike_is_chosen():
    costs = [MultipleCost(1, (), 10.0, 100), MultipleCost(8, (), 9.01, 100), MultipleCost(64, (), 9.0, 100)]
    assert choose_multiple(costs, [Step(8, 9, 1.5)]) == 8
    assert choose_multiple(costs, []) == 1


def test_schedules_that_cannot_be_met_or_repeat_others_are_left_out(setting):
    schedules = feasible_schedules(setting)
    assert list(schedules) == [1, 2, 4, 8]
    assert all(layer.tokens_out % 8 == 0 for layer in schedules[8] if layer.reduces)


def test_counts_hold_the_schedules_and_the_edges_of_tiles(schedules):
    counts = counts_to_time(schedules)
    assert {197, 142, 97, 68, 128, 64, 65, 129, 193} <= set(counts)
    assert counts == sorted(set(counts))
    assert max(counts) == 197


def test_a_device_is_measured(setting, cpu):
    suggestion = suggest_multiple(setting, cpu, Protocol(2, 0, 0.0))
    assert [count.scheduled for count in suggestion.counts] == [49, 32, 23]
    assert [cost.multiple for cost in suggestion.costs] == [1, 2, 4, 8]
    assert "token_multiple" in suggestion_text(suggestion)
