"""What a search found: its front, the choice at a cost, and how it is written, tabled and drawn."""

import json
import random
from dataclasses import replace

import pytest

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search.report import check_text, front_table, loading_call, search_figure, summary
from fatr_hf.analysis.schedule_search.result import PrunedTrial, SearchResult, Trial, pareto_front
from fatr_hf.analysis.schedule_search.rivals import RivalPoint, ScheduleCheck

SCHEDULE = Schedule((1, 2), (0.5, 0.7), (2, 1), 1, 0.5)


def make_trials(count=40, seed=0):
    """Trials on a coarse grid, so that some are equal in cost, quality or both."""
    generator = random.Random(seed)
    return tuple(
        Trial(number, SCHEDULE, 100, generator.randint(3, 9) / 10, generator.randint(1, 9) / 10)
        for number in range(count)
    )


@pytest.fixture
def result():
    trials = (
        Trial(0, SCHEDULE, 600, 0.6, 0.98, "paper"),
        Trial(1, SCHEDULE._replace(keep_ratio=(0.5, 0.5)), 400, 0.4, 0.95),
        Trial(3, SCHEDULE._replace(dc_windows=(1, 1)), 700, 0.7, 0.97),
    )
    return SearchResult("macs", "cosine", 20, 0, 1000, 1.0, trials, (PrunedTrial(2, SCHEDULE, "Too slow."),))


@pytest.mark.parametrize("quality", ["cosine", "divergence"])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_holds_all_that_no_other_beats(quality, seed):
    trials = make_trials(seed=seed)
    sign = -1 if quality == "divergence" else 1

    def beats(one, other):
        no_worse = one.cost <= other.cost and sign * one.quality >= sign * other.quality
        return no_worse and (one.cost, one.quality) != (other.cost, other.quality)

    expected = {(each.cost, each.quality) for each in trials if not any(beats(other, each) for other in trials)}
    front = pareto_front(trials, quality)
    assert [(each.cost, each.quality) for each in front] == sorted(expected)


def test_the_best_at_a_cost_is_the_best_of_all_that_cost_no_more():
    result = SearchResult("macs", "cosine", 20, 0, 1000, 1.0, make_trials())
    for share in (0.3, 0.55, 0.9):
        affordable = [trial.quality for trial in result.trials if trial.cost <= share]
        assert result.best_at(share).quality == max(affordable)


def test_a_cost_at_which_nothing_was_found_is_refused(result):
    with pytest.raises(ValueError, match=r"at 0\.2 of the unreduced model's macs: the cheapest schedule costs 0\.400"):
        result.best_at(0.2)
    with pytest.raises(ValueError, match="no schedule was tried to the end"):
        replace(result, trials=()).best_at(0.2)


def test_a_result_as_json_and_back(result):
    assert SearchResult.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["front"] == [1, 0]


def test_the_table_lists_the_front(result):
    assert front_table(result).splitlines()[2:] == [
        "| 1 | 0.400 | 0.95000 | 1 2 | 0.5 | 2 1 | 1 | 0.5 |",
        "| 0 (paper) | 0.600 | 0.98000 | 1 2 | 0.5 0.7 | 2 1 | 1 | 0.5 |",
    ]
    assert "3 schedules tried to the end on 20 images, 1 given up, 2 on the front" in summary(result)


def test_the_call_loads_the_schedule(stock, tmp_path):
    stock.save_pretrained(tmp_path / "stock")
    call = loading_call(SCHEDULE, str(tmp_path / "stock"), "FATRViTForImageClassification")
    model = eval(call, {"FATRViTForImageClassification": FATRViTForImageClassification})
    assert Schedule.of(model.config) == SCHEDULE


def test_a_check_says_what_was_compared():
    check = ScheduleCheck("tome", "cosine", 20, 0, 5, 0.64, 0.63, 0.99, 0.98, 0.7, 0.2, 0.01, (0.005, 0.015))
    words = check_text(check)
    for part in (
        "20 other images",
        "0.99000 at 0.640",
        "ToMe 0.98000 at 0.630",
        "+0.00500 to +0.01500 over 5 groups",
        "better on 70%",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("quality", "height", "scale"), [("cosine", 0.02, "log"), ("accuracy", 0.98, "linear"), ("divergence", 0.98, "log")]
)
def test_the_figure_shows_front_known_schedules_and_rivals(result, quality, height, scale):
    rivals = [RivalPoint("tome", 0.7, 0.96), RivalPoint("tome", 0.5, 0.94), RivalPoint("evit", 0.5, 0.9)]
    figure = search_figure(replace(result, quality=quality), rivals)
    [axes] = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["ToMe"].get_xdata()) == [0.5, 0.7]
    assert len(lines["schedules tried"].get_xdata()) == 3
    assert (0.6, pytest.approx(height)) in list(zip(*lines["schedules tried"].get_data(), strict=True))
    assert [text.get_text() for text in axes.texts] == ["paper"]
    assert axes.get_yscale() == scale
    assert ("unreduced" in lines) == (quality == "accuracy")


def test_of_known_schedules_in_one_place_the_figure_names_one_and_the_fronts_first(result):
    cheap, *others = result.trials
    dominated = cheap._replace(number=9, quality=0.9799, name="dominated")
    far = cheap._replace(number=10, quality=0.5, name="far off")
    # Names stand right and left of their points in turn.
    figure = search_figure(replace(result, trials=(dominated, far, cheap, *others)))
    [axes] = figure.axes
    assert {text.get_text(): text.get_visible() for text in axes.texts} == {
        "paper": True,
        "dominated": False,
        "far off": True,
    }
