"""Teachers for distillation: another model, or the average of the student's own weights."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedConfig, PreTrainedModel

from ..modeling.reduction_config import as_pair
from .ema import EMACallback

Teacher = PreTrainedModel | Literal["ema"]
"""A model with the student's classes and image size, or "ema": the average of the student's weights, reduced like it.

The latter is a mean teacher (Tarvainen and Valpola, arXiv 1703.01780) and needs an EMA.
"""

_SHOWN_LABELS = 3


def check_teacher(teacher: PreTrainedModel, student: nn.Module) -> None:
    """Raises a ValueError for a teacher with the student's weights, other classes or another image size.

    Classes are compared by name where both models name theirs.
    """
    weights = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in weights for parameter in teacher.parameters()):
        raise ValueError("teacher is the model itself, or shares weights with it: pass a copy, such as the checkpoint.")
    own, others = student.config, teacher.config
    assert isinstance(own, PreTrainedConfig), "the student is a PreTrainedModel"
    if others.num_labels != own.num_labels:
        raise ValueError(
            f"teacher has {others.num_labels} classes, the model has {own.num_labels}: "
            "distillation compares their logits, so the classes must be the same."
        )
    different = different_classes(others, own)
    if different:
        raise ValueError(
            f"teacher has other classes than the model, or another order of them: {different}. Distillation compares "
            "their logits class by class."
        )
    sizes = [as_pair("image_size", config.image_size) for config in (own, others) if hasattr(config, "image_size")]
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        own_size, other_size = (f"{height} x {width}" for height, width in sizes)
        raise ValueError(
            f"teacher takes images of {other_size} pixels, the model of {own_size}: both see the same images, so "
            "the sizes must be the same."
        )


def different_classes(others: PreTrainedConfig, own: PreTrainedConfig) -> str:
    """In words, which classes of two models have unlike names; empty where none, or where one model names none."""
    own_names, other_names = class_names(own), class_names(others)
    if not own_names or not other_names or own_names == other_names:
        return ""
    places = [place for place, pair in enumerate(zip(own_names, other_names, strict=True)) if pair[0] != pair[1]]
    examples = "; ".join(
        f"class {place} is {other_names[place]!r} and not {own_names[place]!r}" for place in places[:_SHOWN_LABELS]
    )
    return f"{examples}; {len(places)} of {len(own_names)} differ"


def class_names(config: PreTrainedConfig) -> list[str] | None:
    """The names of the classes in order; None where they are transformers' placeholders."""
    labels: dict[Any, str] = config.id2label or {}
    names = [str(labels.get(place)) for place in range(config.num_labels or 0)]
    return None if names == [f"LABEL_{place}" for place in range(len(names))] else names


@torch.no_grad()
def run_with_average(student: nn.Module, ema: EMACallback, inputs: dict[str, Any]) -> Any:
    """The student's output by the average of its weights, in evaluation mode; the student itself stays as it is.

    Args:
        student: the model without DDP and ``torch.compile``; its weights are not sharded.
        ema: the average of its weights.
        inputs: what the model is called with.
    """
    weights: dict[str, Tensor] = ema.local_averages(student)
    was_training = student.training
    student.eval()
    try:
        return functional_call(student, weights, args=(), kwargs=inputs)
    finally:
        student.train(was_training)
