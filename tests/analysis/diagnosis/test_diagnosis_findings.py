"""Every rule of a diagnosis: when it speaks, when it is silent, and what it says."""

import pytest
from diagnosis_cases import CLASSIFIER, ENCODER, LABELLED, figure, make_diagnosis, make_rows

from fatr_hf.analysis.diagnosis.findings import RULES, SEVERITIES, find
from fatr_hf.analysis.diagnosis.result import FixedSink

SUITS, TUNE, TOO_FEW = "The reduction suits this model", "Fine-tune before use", "Too few images for a verdict"
LATER, WINDOWS = "Reduce later", "Local windows lose less"
CHANCE = "The selection does no better than chance on these images"
SINKS, NORMS = "A few patches draw attention whatever the query", "Some patches have a norm far above the others"
DETAIL = "The kept patches carry less detail than a random choice"


def titles(diagnosis):
    return [finding.title for finding in find(diagnosis)]


def finding(diagnosis, title):
    [found] = [each for each in find(diagnosis) if each.title == title]
    return found


def test_a_reduction_that_suits_has_nothing_against_it():
    found = find(make_diagnosis())
    assert [each.title for each in found] == [SUITS, "The selection does better than chance"]
    assert {each.severity for each in found} == {"good"}


@pytest.mark.parametrize(
    ("lost", "error", "images", "title"),
    [
        (0.0, 0.001, 1000, SUITS),
        (-0.05, 0.01, 1000, SUITS),
        (0.005, 0.0024, 1000, SUITS),
        (0.005, 0.0026, 1000, TOO_FEW),
        (0.02, 0.0051, 1000, TOO_FEW),
        (0.02, 0.0049, 1000, TUNE),
        (0.0, 0.0, 299, TOO_FEW),
        (0.0, 0.0, 300, SUITS),
        (0.5, 0.0001, 29, TOO_FEW),
        (0.5, None, 1, TOO_FEW),
    ],
    ids=[
        "none-lost",
        "gained",
        "surely-within",
        "perhaps-more",
        "perhaps-less",
        "surely-more",
        "none-of-299",
        "none-of-300",
        "too-few",
        "one-image",
    ],
)
def test_verdict_by_accuracy(lost, error, images, title):
    answers = LABELLED | {"accuracy_lost": figure(lost, error)}
    assert titles(make_diagnosis(answers=answers, images=images))[0] == title


@pytest.mark.parametrize(
    ("agreement", "error", "title"),
    [(0.97, 0.005, SUITS), (0.96, 0.01, TOO_FEW), (0.8, 0.01, TUNE)],
    ids=["most-classes", "perhaps", "many-changes"],
)
def test_verdict_by_changed_classes_where_there_are_no_labels(agreement, error, title):
    answers = CLASSIFIER | {"agreement": figure(agreement, error)}
    found = find(make_diagnosis(answers=answers))
    assert found[0].title == title
    assert "0.05" in found[0].threshold


@pytest.mark.parametrize(
    ("cosine", "error", "title"),
    [(0.985, 0.002, SUITS), (0.981, 0.002, TOO_FEW), (0.95, 0.002, TUNE)],
    ids=["alike", "perhaps", "other"],
)
def test_verdict_of_an_encoder_by_its_cosine(cosine, error, title):
    found = find(make_diagnosis(answers=ENCODER | {"cosine": figure(cosine, error)}))
    assert found[0].title == title
    assert "0.02" in found[0].threshold


def test_too_few_images_are_counted_and_have_their_standard_error():
    answers = LABELLED | {"accuracy_lost": figure(0.01, 0.0123)}
    verdict = find(make_diagnosis(answers=answers, images=20))[0]
    assert verdict.severity == "unsure"
    assert "1.0 points lost (standard error 1.2, 20 images)" in verdict.evidence
    assert "at least 30" in verdict.advice


def test_a_gain_of_accuracy_is_called_one():
    verdict = find(make_diagnosis(answers=LABELLED | {"accuracy_lost": figure(-0.009, 0.001)}))[0]
    assert ": 0.9 points gained (standard error 0.1, 1000 images)" in verdict.evidence


def test_a_single_image_is_said_to_have_no_standard_error():
    answers = {name: each._replace(standard_error=None) for name, each in ENCODER.items()}
    verdict = find(make_diagnosis(answers=answers, images=1))[0]
    assert "no standard error" in verdict.evidence


@pytest.mark.parametrize(
    ("answers", "evidence"),
    [(CLASSIFIER, "have no labels"), (ENCODER, "is an encoder")],
    ids=["unlabelled", "encoder"],
)
def test_missing_labels_are_said(answers, evidence):
    assert evidence in finding(make_diagnosis(answers=answers), "Accuracy is not known").evidence


def test_a_harmful_layer_is_named_and_so_is_the_first_that_is_not():
    rows = make_rows(cosine_alone={0: 0.9}, cosine_moved={0: 0.9, 1: 0.97, 2: 0.985, 3: 1.0})
    found = finding(make_diagnosis(rows=rows), LATER)
    assert "0.100 in layer 0" in found.evidence
    assert "Moved to layer 2, the first reduction lowers it by 0.015" in found.evidence
    assert "Reduce from layer 2 on" in found.advice


def test_where_no_later_layer_is_harmless_more_patches_are_advised():
    rows = make_rows(cosine_alone={0: 0.9, 2: 0.9}, cosine_moved={0: 0.9, 1: 0.9, 2: 0.9, 3: 1.0})
    found = finding(make_diagnosis(rows=rows), LATER)
    assert "0.100 in layer 0, 0.100 in layer 2" in found.evidence
    assert found.advice.startswith("Keep more patches")


@pytest.mark.parametrize("lost", [0.02, 0.0219], ids=["at-the-threshold", "within-two-errors"])
def test_a_layer_that_may_be_harmless_is_not_called_harmful(lost):
    assert LATER not in titles(make_diagnosis(rows=make_rows(cosine_alone={0: 1 - lost})))


@pytest.mark.parametrize(
    ("gain", "error", "severity", "title"),
    [
        (-0.01, 0.004, "good", "The selection does better than chance"),
        (-0.01, 0.006, "note", CHANCE),
        (0.0, 0.0, "note", CHANCE),
        (0.01, 0.006, "note", CHANCE),
        (0.01, 0.004, "warning", "A random selection does better on these images"),
    ],
    ids=["better", "perhaps-better", "equal", "perhaps-worse", "worse"],
)
def test_selection_beside_chance(gain, error, severity, title):
    found = finding(make_diagnosis(answers=LABELLED | {"gain_random": figure(gain, error)}), title)
    assert found.severity == severity
    assert "own selection 0.9900, a random one 0.9500, low frequencies 0.9300" in found.evidence


def test_a_random_selection_is_not_compared_with_chance():
    answers = {name: figure for name, figure in LABELLED.items() if not name.endswith("_random")}
    assert titles(make_diagnosis(answers=answers)) == [SUITS]


@pytest.mark.parametrize(
    ("gain", "error", "speaks"),
    [(0.0026, 0.0001, True), (0.0024, 0.0001, False), (0.0026, 0.0014, False)],
    ids=["a-quarter", "less", "unclear"],
)
def test_local_windows_are_advised_where_they_win_back_a_quarter(gain, error, speaks):
    diagnosis = make_diagnosis(answers=LABELLED | {"gain_local": figure(gain, error)})
    assert (WINDOWS in titles(diagnosis)) == speaks


def test_local_windows_come_with_their_fields_and_cost():
    found = finding(make_diagnosis(answers=LABELLED | {"gain_local": figure(0.005, 0.001)}), WINDOWS)
    assert "At 0.64 of the unreduced cost" in found.evidence
    assert "cosine of 0.9950 to the" in found.evidence
    assert "The present reduction reaches 0.9900, which is 0.0050 less" in found.evidence
    assert "dc_windows=4, size_exponent=0.5 and keep_ratio=0.5" in found.advice


@pytest.mark.parametrize(("over", "speaks"), [(-0.0021, True), (-0.0019, False)], ids=["clear", "unclear"])
def test_less_energy_than_chance_is_said(over, speaks):
    rows = make_rows(energy_over_chance={2: over}, energy_of_patches={2: 0.68})
    diagnosis = make_diagnosis(rows=rows)
    assert (DETAIL in titles(diagnosis)) == speaks
    if speaks:
        assert "68.0% in layer 2 (by chance 70.0%)" in finding(diagnosis, DETAIL).evidence


def test_sinks_are_reported_with_their_layer_and_whether_they_are_kept():
    rows = make_rows(mass_of_sinks={1: 0.08, 3: 0.06}, sinks={1: 1.5}, sinks_kept={0: 0.9, 2: 0.25})
    found = finding(make_diagnosis(rows=rows), SINKS)
    assert "In layer 1, sinks receive 8.0% of all attention: 1.5 patches per image" in found.evidence
    assert "90.0% after layer 0, 25.0% after layer 2" in found.evidence


def test_sinks_of_little_mass_are_reported_at_a_fixed_place_only():
    rows = make_rows(mass_of_sinks={1: 0.04}, sinks={1: 0.1}, sinks_kept={0: 1.0, 2: 1.0})
    assert SINKS not in titles(make_diagnosis(rows=rows))
    fixed = (FixedSink(1, 0, 7, 0.8), FixedSink(2, 0, 7, 0.6))
    assert finding(make_diagnosis(rows=rows, fixed_sinks=fixed), SINKS).evidence.endswith(
        "At least half of the images have a sink at row 0 column 7."
    )


@pytest.mark.parametrize(("count", "speaks"), [(0.5, True), (0.4, False)], ids=["many", "few"])
def test_high_norms_are_reported_from_one_in_two_images_on(count, speaks):
    rows = make_rows(high_norms={2: count, 3: count / 2}, mass_of_high_norms={2: 0.2}, high_norms_kept={0: 0.5, 2: 0.5})
    diagnosis = make_diagnosis(rows=rows)
    assert (NORMS in titles(diagnosis)) == speaks
    if speaks:
        evidence = finding(diagnosis, NORMS).evidence
        assert "Layer 2 has 0.5 per image, which receive 20.0% of its attention. 1 of 4 layers" in evidence


def test_with_few_images_no_rule_that_compares_speaks():
    rows = make_rows(cosine_alone={0: 0.5}, energy_over_chance={0: -0.5})
    answers = LABELLED | {"gain_random": figure(0.5, 0.001), "gain_local": figure(0.5, 0.001)}
    assert titles(make_diagnosis(rows=rows, answers=answers, images=29)) == [TOO_FEW]


def test_every_finding_is_complete():
    rows = make_rows(
        cosine_alone={0: 0.5},
        energy_over_chance={0: -0.5},
        mass_of_sinks={1: 0.5},
        high_norms={1: 5.0},
    )
    found = find(make_diagnosis(rows=rows, answers=CLASSIFIER | {"gain_local": figure(0.01, 0.001)}))
    assert len(found) == len(RULES)
    assert all(all(finding) for finding in found)
    assert {finding.severity for finding in found} <= set(SEVERITIES)
