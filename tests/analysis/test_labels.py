"""Accuracy is over the images that have a class of the model, and says how many these are."""

import json
import math

import pytest
import torch
from search_cases import make_encoder, make_images, make_searchable

from fatr_hf.analysis import compare, comparison_table, noise_figure, noise_sensitivity
from fatr_hf.analysis.diagnosis import Diagnosis, diagnose, find, html_page, text_page
from fatr_hf.analysis.images import Batch
from fatr_hf.analysis.outputs import judge
from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search import check_schedule, rival_points, rivals, search_figure, search_schedules
from fatr_hf.analysis.schedule_search.quality import load_examples
from fatr_hf.analysis.schedule_search.report import check_text, summary

LEFT_OUT = "3 of 9 images have no class of the model."
UNKNOWN = torch.tensor([-1, 0, 4, -100, 2, 1, -1, 3, 3])
"""Classes of nine images, three of which have none."""

SCHEDULE = Schedule((1, 3), (0.5, 0.7), (2, 1))


@pytest.fixture
def pixels():
    return make_images(9).pixel_values


@pytest.fixture
def model(make_sharp_fatr):
    return make_sharp_fatr(reduction_layers=[0, 2], keep_ratio=[0.6, 0.5], dc_windows=[2, 1])


@pytest.fixture
def right(model, pixels):
    """Whether the model names the class of each of the six images that have one."""
    known = UNKNOWN >= 0
    with torch.no_grad():
        return (model(pixels[known]).logits.argmax(dim=1) == UNKNOWN[known]).double()


def is_mean_of(figure, values):
    assert figure.images == len(values)
    assert figure.mean == pytest.approx(values.mean().item())
    assert figure.standard_error == pytest.approx(values.std().item() / math.sqrt(len(values)))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_comparisons_count_images_with_a_class(model, pixels, right, batch_size):
    comparison = compare({"FATR": model, "again": model}, Batch(pixels, UNKNOWN), ["stable_rank"], batch_size)
    for contender in comparison.contenders:
        is_mean_of(contender.answers["accuracy"], right)
        assert contender.answers["cosine"].images == contender.analysis.images == 9
        assert {row.images for row in contender.analysis.rows} == {9}
    assert comparison_table(comparison).endswith(f"|\n\n{LEFT_OUT}\n")
    [first, _] = json.loads(comparison.to_json())["contenders"]
    assert (first["answers"]["accuracy"]["images"], first["analysis"]["images"]) == (6, 9)


def test_nothing_is_said_where_all_images_have_a_class_or_none_has(model, pixels):
    for labels in (UNKNOWN.clamp(min=0), torch.full((9,), -1), None):
        comparison = compare({"FATR": model}, Batch(pixels, labels), [])
        assert ("accuracy" in comparison.contenders[0].answers) == (labels is not None and bool((labels >= 0).all()))
        assert "no class" not in comparison_table(comparison)


def test_batches_without_labels_are_images_without_a_class(model, pixels, right):
    known = UNKNOWN >= 0
    parts = [Batch(pixels[known], UNKNOWN[known]), Batch(pixels[~known])]
    [contender] = compare({"FATR": model}, parts, []).contenders
    is_mean_of(contender.answers["accuracy"], right)


def test_an_answer_that_is_not_finite_is_neither_right_nor_wrong(model, pixels):
    output = torch.zeros(9, 5)
    output[5] = torch.nan
    answers = judge(model, Batch(pixels, UNKNOWN), output, torch.zeros(9, 5))
    assert answers["accuracy"].isnan().nonzero().flatten().tolist() == [0, 3, 5, 6]
    assert answers["agreement"].isnan().nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_diagnoses_count_images_with_a_class(model, pixels, right, batch_size):
    diagnosis = diagnose(model, Batch(pixels, UNKNOWN), batch_size)
    is_mean_of(diagnosis.answers["accuracy"], right)
    assert diagnosis.answers["accuracy_lost"].images == diagnosis.answers["unreduced_accuracy"].images == 6
    assert diagnosis.images == diagnosis.answers["cosine"].images == 9
    verdict = find(diagnosis)[0]
    assert f"6 images). {LEFT_OUT}" in verdict.evidence
    assert text_page(diagnosis, "m", "pictures").count(LEFT_OUT) == 2
    assert html_page(diagnosis, "m", "pictures").count(LEFT_OUT) == 3
    assert json.loads(diagnosis.to_json())["answers"]["accuracy"]["images"] == 6
    assert Diagnosis.from_json(diagnosis.to_json()) == diagnosis


def test_a_diagnosis_of_images_without_a_class_says_so(model, pixels):
    diagnosis = diagnose(model, Batch(pixels, torch.full((9,), -100)))
    assert "accuracy" not in diagnosis.answers
    [finding] = [each for each in find(diagnosis) if each.title == "Accuracy is not known"]
    assert finding.evidence == "The images have no labels that are classes of the model."


@pytest.mark.parametrize("batch_size", [2, 9])
def test_noise_counts_images_with_a_class(model, pixels, right, batch_size):
    rows = noise_sensitivity(model, Batch(pixels, UNKNOWN), [1], [0.0], batch_size=batch_size)
    found = {row.measure: row for row in rows}
    for kind in ("high", "low"):
        is_mean_of(found[f"accuracy_{kind}"], right)
        assert found[f"cosine_{kind}"].images == 9
    assert noise_figure(rows, "accuracy").get_supxlabel() == LEFT_OUT
    assert noise_figure(rows, "cosine").get_supxlabel() == ""


@pytest.mark.parametrize("batch_size", [2, 4, 32])
def test_a_search_optimises_accuracy_over_images_with_a_class(tiny, pixels, batch_size):
    model, known = make_searchable(tiny), UNKNOWN >= 0
    result = search_schedules(model, Batch(pixels, UNKNOWN), trials=4, batch_size=batch_size)
    alone = search_schedules(model, Batch(pixels[known], UNKNOWN[known]), trials=4, batch_size=batch_size)
    assert (result.quality, result.images, result.labelled) == ("accuracy", 9, 6)
    assert (result.trials, result.unreduced_quality) == (alone.trials, alone.unreduced_quality)
    assert (alone.images, alone.labelled) == (6, 6)
    assert "tried to the end on 6 images" in summary(result)
    assert summary(result).endswith(f" Accuracy is over 6 images. {LEFT_OUT}")
    assert summary(alone).endswith(" Accuracy is over 6 images.")
    assert search_figure(result).axes[0].get_ylabel() == "accuracy over 6 images"
    assert type(result).from_json(result.to_json()) == result


def test_images_are_put_together_again_where_some_are_left_out(tiny, pixels):
    examples = load_examples(make_searchable(tiny), Batch(pixels, UNKNOWN), 2)
    assert [len(part.pixel_values) for part in examples.parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.pixel_values for part in examples.parts]), pixels[UNKNOWN >= 0])
    assert examples.judged.tolist() == (UNKNOWN >= 0).tolist()
    assert (examples.count, examples.labelled) == (6, 6)
    of_all = load_examples(make_searchable(tiny), Batch(pixels, UNKNOWN), 2, "cosine")
    assert (of_all.count, of_all.labelled) == (9, 6)


@pytest.mark.parametrize("labels", [None, torch.full((9,), -1)], ids=["no-labels", "no-classes"])
@pytest.mark.parametrize("make", [make_searchable, make_encoder], ids=["classifier", "encoder"])
def test_a_search_without_a_class_says_why_it_takes_the_cosine(tiny, pixels, labels, make):
    result = search_schedules(make(tiny), Batch(pixels, labels), trials=1)
    assert (result.quality, result.images, result.labelled) == ("cosine", 9, 0)
    words = "Quality is the cosine: none of the 9 images has a label that is a class of the model."
    assert summary(result).endswith(words)


def test_accuracy_without_a_class_is_refused(tiny, pixels):
    with pytest.raises(ValueError, match="'accuracy' needs images whose labels are classes of the model"):
        search_schedules(make_searchable(tiny), Batch(pixels, torch.full((9,), -1)), trials=1, quality="accuracy")


def test_checks_and_rivals_count_images_with_a_class(tiny, pixels, monkeypatch):
    model, known = make_searchable(tiny), UNKNOWN >= 0
    groups = list("aabbccdde")
    check = check_schedule(model, SCHEDULE, Batch(pixels, UNKNOWN), groups)
    alone = check_schedule(
        model,
        SCHEDULE,
        Batch(pixels[known], UNKNOWN[known]),
        [each for each, has in zip(groups, known, strict=True) if has],
    )
    assert (check.quality, check.images, check.labelled, check.groups) == ("accuracy", 9, 6, 5)
    assert check.to_dict() | {"images": 6} == alone.to_dict()
    assert check_text(check).endswith(f"Accuracy is over 6 images. {LEFT_OUT}")
    monkeypatch.setattr(rivals, "RIVAL_RATIOS", (0.5,))
    points = [
        rival_points(model, Batch(*each), names=["evit"])
        for each in ((pixels, UNKNOWN), (pixels[known], UNKNOWN[known]))
    ]
    assert points[0] == points[1]
