"""Rivals beside searched schedules, and the check of a schedule on other images."""

import copy

import pytest
from search_cases import make_encoder, make_images, make_searchable

from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search import rivals
from fatr_hf.analysis.schedule_search.quality import image_qualities, load_examples
from fatr_hf.analysis.schedule_search.rivals import (
    RIVALS,
    check_schedule,
    rival_points,
)
from fatr_hf.baselines.matched import matched_plan, matched_rivals

SCHEDULE = Schedule((1, 3), (0.5, 0.7), (2, 1))


@pytest.fixture
def model(tiny):
    return make_searchable(tiny)


@pytest.fixture
def two_costs(monkeypatch):
    """Fewer than there are by default."""
    monkeypatch.setattr(rivals, "RIVAL_RATIOS", (0.9, 0.5))


@pytest.fixture(scope="module")
def images():
    return make_images(12)


@pytest.mark.usefixtures("two_costs")
@pytest.mark.parametrize("make", [make_searchable, make_encoder], ids=["classifier", "encoder"])
def test_rivals_have_the_costs_of_several_keep_ratios(tiny, images, make):
    points = rival_points(make(tiny), images, quality="cosine")
    assert {point.name for point in points} == set(RIVALS)
    for name in RIVALS:
        costs = [point.cost for point in points if point.name == name]
        assert costs == sorted(costs, reverse=True)
        assert 0.4 < costs[-1] < 0.7 < costs[0] < 1
    assert all(0.5 < point.quality < 1 for point in points)


@pytest.mark.usefixtures("two_costs")
def test_a_rivals_latency_is_measured_beside_the_unreduced_model(model, images):
    [first, *_] = rival_points(model, images, objective="latency", quality="cosine", names=["tome"])
    assert 0 < first.cost < 20


def test_a_model_with_parameters_of_its_own_has_rivals(make_fatr, images):
    assert rival_points(make_fatr(reduction_layers=[0, 2], dc_windows=[2, 1]), images, names=["evit"])


def test_a_check_compares_with_tome_at_the_same_cost(model, images):
    check = check_schedule(model, SCHEDULE, images, quality="cosine", batch_size=5)
    examples = load_examples(model, images, 12, "cosine")
    values = image_qualities(model, examples, SCHEDULE.plan(model.config))
    scheduled = copy.deepcopy(model)
    scheduled.set_reduction(**SCHEDULE.fields)
    tome = matched_rivals(scheduled, ["tome"])["tome"]
    others = image_qualities(tome.model, examples, tome.config.plan())
    assert check.schedule_quality == pytest.approx(values.mean().item(), rel=1e-10)
    assert check.rival_quality == pytest.approx(others.mean().item(), rel=1e-10)
    assert check.difference == pytest.approx((values - others).mean().item(), abs=1e-10)
    assert check.macs_share == SCHEDULE.macs_share(model.config)
    assert check.rival_macs_share == pytest.approx(check.macs_share, abs=0.05)
    assert check.interval[0] < check.difference < check.interval[1]
    assert (check.images, check.groups) == (12, 12)
    assert check.better_share == (values > others).double().mean().item()
    divergence = check_schedule(model, SCHEDULE, images, quality="divergence")
    assert (divergence.difference < 0) == (divergence.schedule_quality < divergence.rival_quality)
    assert divergence.better_share + divergence.worse_share == 1


def test_images_and_groups_must_be_as_many(model, images):
    with pytest.raises(ValueError, match="groups holds 2 names for 12 images"):
        check_schedule(model, SCHEDULE, images, groups=["cat", "moon"])


def test_the_random_rival_costs_what_the_schedule_does(model):
    plan, own = matched_plan(model, "random", SCHEDULE.applied_to(model.config)), SCHEDULE.plan(model.config)
    assert [step._replace(selection="high_frequency") for step in plan] == own
    assert {step.selection for step in plan} == {"random"}
