"""Metrics of classification: functions of whole logits, and classes of ``evaluate`` around them.

Nothing is fetched at run time. The Trainer gathers logits before it calls ``classification_metrics``, so each of
several processes computes the same numbers. That one does without the classes, which turn logits into Python lists.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
from transformers import EvalPrediction

from .guards import is_count

TOP_K = 5
CALIBRATION_BINS = 15

_CLASSES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
_LOGITS = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}


def top_k_accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike, k: int = TOP_K) -> float:
    """Share of images whose label is among the ``k`` highest logits, in [0, 1].

    Of equal logits the one of the lower class comes first, as in argmax. An image with a NaN is wrong.

    Args:
        logits: (images, classes).
        labels: class numbers (images,).
        k: at least 1.

    Raises:
        ValueError: shapes, labels or ``k`` that do not fit.
    """
    scores, classes = _check(logits, labels)
    if not is_count(k):
        raise ValueError(f"k={k!r} must be a positive integer.")
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    comes_first = np.arange(scores.shape[1]) < classes[:, None]
    rank = np.sum((scores > own) | ((scores == own) & comes_first), axis=1)
    return float(np.mean((rank < k) & ~np.isnan(scores).any(axis=1)))


def expected_calibration_error(logits: npt.ArrayLike, labels: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """How far the probability of the predicted class is from the share of right predictions, in [0, 1].

    The mean, weighted by images, over bins of that probability, ``((m - 1) / bins, m / bins]``, of the absolute
    difference between accuracy and mean probability (Guo et al. 2017, arXiv 1706.04599, equation 3). NaN where the
    logits of an image give no probabilities: one is NaN or infinitely high.

    Args:
        logits: (images, classes).
        labels: class numbers (images,).
        bins: at least 1.

    Raises:
        ValueError: shapes, labels or ``bins`` that do not fit.
    """
    scores, classes = _check(logits, labels)
    if not is_count(bins):
        raise ValueError(f"bins={bins!r} must be a positive integer.")
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        return float("nan")
    # Of the softmax, the predicted class has the numerator 1.
    confidence = 1 / np.exp(scores - highest).sum(axis=1)
    gap = (np.argmax(scores, axis=1) == classes) - confidence
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(index, weights=gap, minlength=bins)).sum() / len(gap))


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """``compute_metrics`` for a Trainer.

    Args:
        prediction: logits (images, classes), alone or first in a tuple, and labels (images,).

    Returns:
        ``accuracy`` and ``calibration_error``, and ``top5_accuracy`` where there are more than 5 classes.

    Raises:
        ValueError: shapes or labels that do not fit, such as the labels of mixed images.
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = prediction.label_ids
    if isinstance(logits, list):
        raise ValueError("eval_do_concat_batches=False gives logits batch by batch: set it to True for these metrics.")
    result = {"accuracy": top_k_accuracy(logits, labels, k=1)}
    if np.shape(logits)[1] > TOP_K:
        result[f"top{TOP_K}_accuracy"] = top_k_accuracy(logits, labels)
    return result | {"calibration_error": expected_calibration_error(logits, labels)}


class Accuracy(evaluate.Metric):
    """Top-1 accuracy: the share of images whose predicted class is their label, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe("Top-1 accuracy", "predictions: class indices; references: labels", _CLASSES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class TopKAccuracy(evaluate.Metric):
    """``top_k_accuracy``; ``compute(..., k=3)`` gives ``top3_accuracy``, without ``k`` ``top5_accuracy``."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe("Top-k accuracy", "predictions: logits per image; references: labels; k: 5", _LOGITS)

    def _compute(self, predictions: list[list[float]], references: list[int], k: int = TOP_K) -> dict[str, float]:
        return {f"top{k}_accuracy": top_k_accuracy(predictions, references, k)}


class ExpectedCalibrationError(evaluate.Metric):
    """``expected_calibration_error`` as ``calibration_error``; ``compute(..., bins=10)`` changes its bins."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe("Expected calibration error", "predictions: logits; references: labels; bins: 15", _LOGITS)

    def _compute(
        self, predictions: list[list[float]], references: list[int], bins: int = CALIBRATION_BINS
    ) -> dict[str, float]:
        return {"calibration_error": expected_calibration_error(predictions, references, bins)}


def _describe(description: str, inputs: str, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description=inputs, features=datasets.Features(features)
    )


def _check(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits and labels as arrays that fit each other."""
    scores, classes = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(
            f"logits have the shape {scores.shape}; it must be (images, classes), with at least one of each."
        )
    if classes.shape != scores.shape[:1] or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"labels have the shape {classes.shape} and the type {classes.dtype}; they must be class numbers of "
            f"{len(scores)} images. Images that are evaluated must not be mixed."
        )
    if classes.min() < 0 or classes.max() >= scores.shape[1]:
        raise ValueError(
            f"labels reach from {classes.min()} to {classes.max()}, outside the {scores.shape[1]} classes."
        )
    return scores, classes
