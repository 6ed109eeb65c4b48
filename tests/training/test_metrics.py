import math

import evaluate
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from transformers import EvalPrediction

from fatr_hf.training.metrics import (
    Accuracy,
    ExpectedCalibrationError,
    TopKAccuracy,
    classification_metrics,
    expected_calibration_error,
    top_k_accuracy,
)


@pytest.fixture
def random_logits():
    generator = np.random.default_rng(0)
    return generator.normal(size=(200, 12)).astype(np.float32), generator.integers(12, size=200)


def test_accuracy_counts_hits():
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([1, 0, 0, 0])
    for predictions in (logits, (logits, None)):
        assert classification_metrics(EvalPrediction(predictions, label_ids=labels))["accuracy"] == 0.75
    assert Accuracy().compute(predictions=[1, 2], references=[1, 2]) == {"accuracy": 1.0}


def test_top_k_counts_labels_among_the_highest():
    logits = np.array([[4.0, 3.0, 2.0, 1.0]] * 4)
    labels = np.arange(4)
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4, 9)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("k", [1, 2, 5, 11])
def test_top_k_is_that_of_sklearn(random_logits, k):
    logits, labels = random_logits
    assert top_k_accuracy(logits, labels, k) == pytest.approx(
        top_k_accuracy_score(labels, logits, k=k, labels=range(12))
    )


def test_of_equal_logits_the_lower_class_comes_first():
    logits = np.zeros((3, 3))
    assert [top_k_accuracy(logits, np.arange(3), k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("label", [0, 1], ids=["label-is-nan", "label-is-a-number"])
def test_nan_is_wrong(label):
    logits = np.array([[np.nan, 1.0, 0.0, 0.0, 0.0, 0.0]] + [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]] * 3)
    result = classification_metrics(EvalPrediction(predictions=logits, label_ids=np.array([label, 0, 0, 0])))
    assert result["accuracy"] == 0.75
    assert result["top5_accuracy"] == 0.75
    assert math.isnan(result["calibration_error"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_certain_and_right_is_calibrated_certain_and_wrong_is_not(dtype):
    logits = np.eye(4, dtype=dtype) * 1000
    assert expected_calibration_error(logits, np.arange(4)) == 0.0
    assert expected_calibration_error(logits, (np.arange(4) + 1) % 4) == 1.0


def test_perfectly_calibrated_predictions_have_no_error():
    # Confidence 0.8 and right in 8 of 10; 0.6 and right in 6 of 10.
    logits = np.log(np.array([[0.8, 0.2]] * 10 + [[0.4, 0.6]] * 10))
    labels = np.array([0] * 8 + [1] * 2 + [1] * 6 + [0] * 4)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-12)


def test_calibration_error_weighs_bins_by_images():
    logits = np.log(np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]]))
    labels = np.array([0, 0, 1, 1])
    # 3 of 4 images with a gap of 0.9 - 2/3, 1 of 4 with a gap of 0.6 - 0.
    assert expected_calibration_error(logits, labels) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.6)
    # In one bin, gaps are averaged before they are taken absolutely.
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(abs(0.5 - (3 * 0.9 + 0.6) / 4))


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_is_that_of_a_loop_over_the_bins(random_logits, bins):
    logits, labels = random_logits
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(logits, labels, bins) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge():
    # A confidence of exactly one half belongs with the lower one, so the gaps of the two bins do not cancel.
    logits = np.log(np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert expected_calibration_error(logits, np.array([0, 1]), bins=2) == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize("classes", [5, 6])
def test_classification_metrics_have_top_5_from_6_classes(classes):
    logits = np.eye(classes) * 50
    result = classification_metrics(EvalPrediction(predictions=(logits, None), label_ids=np.arange(classes)))
    names = {"accuracy", "calibration_error"} | ({"top5_accuracy"} if classes > 5 else set())
    assert set(result) == names
    assert all(type(value) is float for value in result.values())
    assert result["accuracy"] == 1.0
    assert result["calibration_error"] == pytest.approx(0.0)


def test_metric_classes_give_what_the_functions_give(random_logits):
    logits, labels = random_logits
    pair = {"predictions": logits, "references": labels}
    assert TopKAccuracy().compute(**pair) == {"top5_accuracy": top_k_accuracy(logits, labels)}
    assert TopKAccuracy().compute(**pair, k=2) == {"top2_accuracy": top_k_accuracy(logits, labels, 2)}
    error = expected_calibration_error(logits, labels, 10)
    assert ExpectedCalibrationError().compute(**pair, bins=10) == {"calibration_error": pytest.approx(error)}


def test_metric_classes_work_in_batches_and_combined(random_logits):
    logits, labels = random_logits
    metrics = evaluate.combine([TopKAccuracy(), ExpectedCalibrationError()])
    for start in range(0, 200, 50):
        metrics.add_batch(predictions=logits[start : start + 50], references=labels[start : start + 50])
    result = metrics.compute()
    assert result["top5_accuracy"] == top_k_accuracy(logits, labels)
    assert result["calibration_error"] == pytest.approx(expected_calibration_error(logits, labels))


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros(3), np.zeros(3, int), r"logits have the shape \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one of each"),
        (np.zeros((3, 2)), np.zeros(2, int), "class numbers of 3 images"),
        (np.zeros((3, 2)), np.full((3, 2), 0.5), "must not be mixed"),
        (np.zeros((3, 2)), np.zeros(3), "the type float64"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "reach from 0 to 2, outside the 2 classes"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "reach from -1 to 1, outside the 2 classes"),
    ],
    ids=["one-dimension", "no-image", "lengths", "mixed-labels", "float-labels", "label-too-high", "label-negative"],
)
def test_unfit_input_is_refused(logits, labels, words):
    with pytest.raises(ValueError, match=words):
        classification_metrics(EvalPrediction(predictions=logits, label_ids=labels))


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="k=0 must be a positive integer"):
        top_k_accuracy(np.zeros((1, 2)), np.zeros(1, int), 0)
    with pytest.raises(ValueError, match="bins=0 must be a positive integer"):
        expected_calibration_error(np.zeros((1, 2)), np.zeros(1, int), 0)
