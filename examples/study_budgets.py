"""One model for many budgets: accuracy over multiply-accumulates, by fixed schedules and by input."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import torch
from study_data import TensorImages

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.input_budget import classify_by_mass
from fatr_hf.benchmark import count_macs

ELASTIC_RANGE = (0.3, 0.9)
"""Keep ratios from which elastic training draws."""

KEEP_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

BUCKETS = (0.3, 0.5, 0.7, 0.9)
"""Keep ratios between which the budget by input chooses."""

SELECTION_MASSES = (0.5, 0.6, 0.7, 0.8, 0.9)


def budget_rows(model: FATRViTForImageClassification, images: TensorImages) -> dict[str, list[dict[str, float]]]:
    """Accuracy and mean multiply-accumulates of an image, by keep ratio and by selection mass."""
    before = model.config.keep_ratio
    fixed = []
    for ratio in KEEP_RATIOS:
        model.set_reduction(keep_ratio=ratio)
        fixed.append({"keep_ratio": ratio, "macs": count_macs(model), "accuracy": accuracy_and_macs(model, images)[0]})
    model.set_reduction(keep_ratio=before)
    by_input = []
    for mass in SELECTION_MASSES:
        accuracy, macs = accuracy_and_macs(model, images, mass)
        by_input.append({"selection_mass": mass, "macs": macs, "accuracy": accuracy})
    return {"fixed": fixed, "by_input": by_input}


@torch.inference_mode()
def accuracy_and_macs(
    model: FATRViTForImageClassification, images: TensorImages, selection_mass: float | None = None
) -> tuple[float, float]:
    """Accuracy, and the mean multiply-accumulates where the budget is by input (else 0)."""
    hits, macs = 0, 0
    for index in torch.arange(len(images)).split(500):
        batch = images.batch(index.tolist())
        if selection_mass is None:
            logits = model(batch["pixel_values"]).logits
        else:
            output: Any = classify_by_mass(model, batch["pixel_values"], selection_mass, BUCKETS)
            logits, macs = output.logits, macs + int(output.macs.sum())
        hits += int((logits.argmax(1) == batch["labels"]).sum())
    return hits / len(images), macs / len(images)


def accuracy_at(fixed: Sequence[dict[str, float]], macs: float) -> float:
    """Accuracy of a fixed schedule at a cost, interpolated between the two that lie around it."""
    rows = sorted(fixed, key=lambda row: row["macs"])
    if macs <= rows[0]["macs"]:
        return rows[0]["accuracy"]
    for low, high in pairwise(rows):
        if macs <= high["macs"]:
            weight = (macs - low["macs"]) / (high["macs"] - low["macs"])
            return (1 - weight) * low["accuracy"] + weight * high["accuracy"]
    return rows[-1]["accuracy"]


def mean_rows(records: Sequence[dict[str, list[dict[str, float]]]], kind: str) -> list[dict[str, float]]:
    """The mean over seeds of every figure of every row."""
    groups = zip(*(record[kind] for record in records), strict=True)
    return [{name: mean(row[name] for row in group) for name in group[0]} for group in groups]
