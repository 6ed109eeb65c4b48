"""Methods at several budgets: what is judged, what is timed, and what is refused."""

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf import FATRIJepaConfig, FATRIJepaModel, FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark.frontier import (
    LABELS,
    default_methods,
    frontier,
    frontier_table,
    outputs_of,
    plan_within,
    plot_frontier,
)
from fatr_hf.modeling import schedule_macs

IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


SIZE = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = FATRViTConfig(**SIZE, image_size=32, patch_size=4, num_labels=5)
    model = FATRViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def points(model):
    return frontier(model, IMAGES, budgets=(0.8, 0.6), batch_sizes=(1, 3), rounds=1)


def test_every_method_stands_at_every_budget(points):
    assert [(each.method, each.budget) for each in points] == [
        (name, budget) for name in LABELS for budget in (0.8, 0.6)
    ]
    for each in points:
        assert abs(each.macs - each.budget) < 0.1, each
        assert set(each.times) == {1, 3}
        assert min(each.times.values()) > 0
        assert set(each.answers) == {"agreement", "cosine", "patches"}
        assert all(-1 <= value <= 1 for value in each.answers.values())


def test_answers_are_those_of_the_models_themselves(model, points):
    model = unreduced_copy(model)
    faithful = next(each for each in points if each.method == "faithful" and each.budget == 0.6)
    with torch.no_grad():
        expected, states = model(IMAGES).logits, model.vit(IMAGES).last_hidden_state
        plan = plan_within(model, "faithful", 0.6 * schedule_macs(model.config))
        half = plan_within(model, "faithful", 0.5 * schedule_macs(model.config))
        found = outputs_of(model, IMAGES, plan)
        logits = model(IMAGES, plan=plan).logits
    assert [step.layer for step in plan if step.reduces] == [2, 3]
    assert [step.layer for step in half if step.reduces] == [1, 2, 3, 4]
    assert_rounded_alike(found.logits, logits)
    agreement = (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean()
    assert faithful.answers["agreement"] == pytest.approx(float(agreement))
    cosine = torch.cosine_similarity(found.pooled, states[:, 0], dim=1).mean()
    assert faithful.answers["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    patches = torch.cosine_similarity(found.patches, states[:, 1:], dim=2).mean()
    assert faithful.answers["patches"] == pytest.approx(float(patches), abs=1e-5)


def test_an_encoder_without_cls_has_the_methods_that_need_none():
    model = FATRIJepaModel(FATRIJepaConfig(**SIZE, image_size=32, patch_size=4)).eval()
    assert default_methods(model.config) == ("faithful", "paper", "tome", "pitome", "mctf", "zero_tprune", "random")
    [point] = frontier(model, IMAGES, ["tome"], budgets=[0.7], batch_sizes=[1], fused=False, rounds=1)
    assert set(point.answers) == {"cosine", "patches"}


def test_differences_are_to_the_first_method_at_the_same_budget(points):
    agreements = {(each.method, each.budget): each.answers["agreement"] for each in points}
    for each in points:
        mean, low, high = each.difference
        first = agreements[points[0].method, each.budget]
        assert mean == pytest.approx(each.answers["agreement"] - first, abs=1e-9)
        assert low <= mean <= high
    assert points[0].difference == (0, 0, 0)


def test_the_table_begins_with_the_most_faithful(points):
    rows = [line.split(" | ") for line in frontier_table(points).splitlines()[2:]]
    assert len(rows) == len(points)
    agreement = [float(row[5]) for row in rows]
    half = len(rows) // 2
    assert agreement[:half] == sorted(agreement[:half], reverse=True)
    assert {row[0] for row in rows[:half]} == {"| 0.8"}


@pytest.mark.parametrize("name", ["frontier.svg", "frontier.png"])
def test_the_picture_is_written(points, tmp_path, name):
    plot_frontier(points, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["tomme"]}, "'tomme' must be one of faithful, paper, tome"),
        ({"methods": ["tome", "tome"]}, "'tome' is there twice"),
        ({"budgets": [1.5]}, r"budgets=\[1.5\] must lie between 0 and 1; 1.5 does not"),
        ({"budgets": [0.05], "methods": ["paper"]}, "macs=.* cannot be met"),
        ({"methods": ["evit"], "budgets": [0.0]}, r"budgets=\[0.0\] must lie between 0 and 1"),
        ({"batch_sizes": [1, 0]}, "a batch size=0 must be an integer of at least 1"),
        ({"batch_sizes": []}, "batch_sizes"),
        ({"budgets": []}, "budgets"),
        ({"rounds": 0}, "rounds=0 must be an integer of at least 1"),
    ],
    ids=["method", "twice", "budget", "too-small", "zero", "batch", "no-batch", "no-budget", "rounds"],
)
def test_bad_arguments_are_refused_in_words(model, options, words):
    with pytest.raises(ValueError, match=words):
        frontier(model, IMAGES, **{"batch_sizes": [1], "rounds": 1, **options})
