"""What a schedule is worth to a model without training: its quality image by image, and its latency.

All schedules share the weights of one model, whose configuration is changed in place and set back.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...modeling.modeling_fatr_vit import FATRViTPreTrainedModel
from ..images import Batch, batches
from ..outputs import is_classifier, judge, model_output
from ..schedule import Schedule

QUALITIES = ("accuracy", "cosine", "divergence", "agreement")
"""Accuracy needs labels; the others compare with the unreduced model's outputs (``outputs.faithfulness``)."""

LOWER_IS_BETTER = ("divergence",)

ROUNDS = 7
"""Timed rounds of a latency, after two that do not count."""


class Examples(NamedTuple):
    """Images, and what the unreduced model says of them."""

    parts: tuple[Batch, ...]
    references: tuple[Tensor, ...]
    """Its outputs (batch, features), for each part."""

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(part.pixel_values) for part in self.parts)


@contextmanager
def scheduled(model: FATRViTPreTrainedModel, schedule: Schedule) -> Iterator[None]:
    """Sets a model's schedule within a ``with`` block.

    Raises:
        ValueError: a schedule that needs parameters which the model does not have.
    """
    before = {name: getattr(model.config, name) for name in schedule.fields}
    model.set_reduction(**schedule.fields)
    try:
        yield
    finally:
        model.set_reduction(**before)


def load_examples(model: FATRViTPreTrainedModel, data: Any, batch_size: int) -> Examples:
    """Batches of data, held in memory, with the outputs of the unreduced model.

    Args:
        data: see ``images.batches``.
        batch_size: images at a time.

    Raises:
        ValueError: no images, or data of another kind.
    """
    parts = tuple(batches(data, batch_size))
    with model.reduction(False):
        return Examples(parts, tuple(model_output(model, part.pixel_values) for part in parts))


def choose_quality(model: PreTrainedModel, examples: Examples, quality: str | None) -> str:
    """The quality that was named; by default accuracy where all images have labels, else the cosine.

    Raises:
        ValueError: an unknown quality, or one that model or images do not allow.
    """
    labelled = is_classifier(model) and all(part.labels is not None for part in examples.parts)
    if quality is None:
        return "accuracy" if labelled else "cosine"
    if quality not in QUALITIES:
        raise ValueError(f"Unknown quality {quality!r}: choose from {', '.join(QUALITIES)}.")
    if quality == "accuracy" and not labelled:
        raise ValueError(
            "The quality 'accuracy' needs a classifier, and images whose labels are its classes: without them take "
            "'cosine'."
        )
    if quality != "cosine" and not is_classifier(model):
        raise ValueError(f"The quality {quality!r} needs the logits of a classifier: of an encoder take 'cosine'.")
    return quality


def part_qualities(model: PreTrainedModel, examples: Examples, quality: str) -> Iterator[Tensor]:
    """The quality of a model's outputs, image by image, for one part after the other: (batch,) on the CPU."""
    for part, reference in zip(examples.parts, examples.references, strict=True):
        yield judge(model, part, model_output(model, part.pixel_values), reference)[quality].cpu()


def image_qualities(model: PreTrainedModel, examples: Examples, quality: str) -> Tensor:
    """The same of all images: (images,) float64."""
    return torch.cat(list(part_qualities(model, examples, quality))).double()


def unreduced_quality(model: FATRViTPreTrainedModel, examples: Examples, quality: str) -> float:
    """The mean quality of the unreduced model's own outputs."""
    with model.reduction(False):
        return image_qualities(model, examples, quality).mean().item()


@torch.inference_mode()
def relative_latency(model: PreTrainedModel, unreduced: FATRViTPreTrainedModel, pixel_values: Tensor) -> float:
    """Time of a forward pass as a share of the unreduced model's: medians of passes that take turns.

    Args:
        model: what is timed.
        unreduced: a FATR model, timed with its reduction switched off; may be the same.
        pixel_values: (batch, channels, height, width).
    """
    pixel_values = pixel_values.to(model.device, model.dtype)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(ROUNDS + 2):
        for reduces in (False, True) if turn % 2 else (True, False):
            if reduces:
                seconds = forward_seconds(model, pixel_values)
            else:
                with unreduced.reduction(False):
                    seconds = forward_seconds(unreduced, pixel_values)
            if turn >= 2:
                times[reduces].append(seconds)
    return median(times[True]) / median(times[False])


def forward_seconds(model: Callable[[Tensor], object], pixel_values: Tensor) -> float:
    """Time of one forward pass on the device of its images."""
    synchronize(pixel_values.device)
    start = time.perf_counter()
    model(pixel_values)
    synchronize(pixel_values.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits for everything queued on an accelerator; the CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
