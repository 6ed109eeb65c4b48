"""Metrics as classes of the package: nothing is fetched at run time."""

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction


class Accuracy(evaluate.Metric):
    """Top-1 accuracy: the share of images whose predicted class is their label, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1 accuracy",
            citation="",
            inputs_description="predictions: class indices; references: labels",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def accuracy_of_logits(prediction: EvalPrediction) -> dict[str, float]:
    """``compute_metrics`` for a Trainer: top-1 accuracy of logits (images, classes) against labels (images,)."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    result = Accuracy(keep_in_memory=True).compute(
        predictions=np.argmax(logits, axis=1), references=prediction.label_ids
    )
    assert result is not None, "the metric runs in one process"
    return result
