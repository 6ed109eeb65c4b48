"""What a schedule is worth to a model without training: its quality image by image, and its latency.

All schedules run on one model, each by its own plan.
"""

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...modeling.reduction_model import ReductionModel
from ...modeling.token_plan import LayerPlan
from ..images import Batch
from ..model_inputs import check_finite, is_classifier, model_batches, without_class
from ..outputs import judge, model_output
from ..schedule import Schedule

QUALITIES = ("accuracy", "cosine", "divergence", "agreement")
"""Accuracy needs labels; the others compare with the unreduced model's outputs (``outputs.faithfulness``)."""

LOWER_IS_BETTER = ("divergence",)

ROUNDS = 7
"""Timed rounds of a latency, after two that do not count."""


class Examples(NamedTuple):
    """Images that a quality is judged by, and what the unreduced model says of them."""

    quality: str
    parts: tuple[Batch, ...]
    references: tuple[Tensor, ...]
    """Its outputs (batch, features), for each part."""
    judged: Tensor
    """(images,) bool: which of the data's images these are; for an accuracy those that have a class of the model."""
    labelled: int
    """How many of the data's images have a class of the model."""

    @property
    def count(self) -> int:
        """How many images are judged."""
        return int(self.judged.sum())


def load_examples(model: ReductionModel, data: Any, batch_size: int, quality: str | None = None) -> Examples:
    """Batches of data, held in memory, with the outputs of the unreduced model.

    Args:
        data: see ``images.batches``.
        batch_size: images at a time.
        quality: of ``QUALITIES``; by default accuracy where images have a class of the model, else the cosine.

    Raises:
        ValueError: no images, data of another kind, outputs that are not finite, an unknown quality, or one that model
            or images do not allow.
    """
    check_quality(model, quality)
    parts = tuple(model_batches(model, data, batch_size))
    has_class = torch.cat([known_classes(part) for part in parts])
    if quality == "accuracy" and not has_class.any():
        raise ValueError(
            "The quality 'accuracy' needs images whose labels are classes of the model: without them take 'cosine'."
        )
    quality = quality or ("accuracy" if has_class.any() else "cosine")
    judged = has_class if quality == "accuracy" else torch.ones_like(has_class)
    if not judged.all():
        parts = labelled_parts(parts, batch_size)
    unreduced = Schedule().plan(model.config)
    references = tuple(check_finite(model, model_output(model, part.pixel_values, unreduced)) for part in parts)
    return Examples(quality, parts, references, judged, int(has_class.sum()))


def check_quality(model: ReductionModel, quality: str | None) -> None:
    """Raises a ValueError for an unknown quality, or one that a model does not allow."""
    if quality is not None and quality not in QUALITIES:
        raise ValueError(f"Unknown quality {quality!r}: choose from {', '.join(QUALITIES)}.")
    if quality not in (None, "cosine") and not is_classifier(model):
        raise ValueError(f"The quality {quality!r} needs the logits of a classifier: of an encoder take 'cosine'.")


def known_classes(part: Batch) -> Tensor:
    """Which images of a batch have a class of the model: (batch,) bool on the CPU."""
    return torch.zeros(len(part.pixel_values), dtype=torch.bool) if part.labels is None else (part.labels >= 0).cpu()


def labelled_parts(parts: Sequence[Batch], batch_size: int) -> tuple[Batch, ...]:
    """The images that have a class of the model, in batches of ``batch_size``."""
    chosen = [(part, known_classes(part)) for part in parts if part.labels is not None]
    pixel_values = torch.cat([part.pixel_values[known] for part, known in chosen])
    labels = torch.cat([part.labels[known] for part, known in chosen if part.labels is not None])
    return tuple(map(Batch, pixel_values.split(batch_size), labels.split(batch_size)))


def part_qualities(model: ReductionModel, examples: Examples, plan: Sequence[LayerPlan]) -> Iterator[Tensor]:
    """The quality of a model's outputs by a plan, image by image, for one part after the other: (batch,) on the CPU."""
    for part, reference in zip(examples.parts, examples.references, strict=True):
        yield judge(model, part, model_output(model, part.pixel_values, plan), reference)[examples.quality].cpu()


def image_qualities(model: ReductionModel, examples: Examples, plan: Sequence[LayerPlan]) -> Tensor:
    """The same of all images that are judged: (images,) float64."""
    return torch.cat(list(part_qualities(model, examples, plan))).double()


def unreduced_quality(model: ReductionModel, examples: Examples) -> float:
    """The mean quality of the unreduced model's own outputs."""
    return image_qualities(model, examples, Schedule().plan(model.config)).mean().item()


def quality_words(quality: str, labelled: int, images: int) -> str:
    """What a quality is, over how many images, and why it is no accuracy where none has a class of the model."""
    if quality == "accuracy":
        return " ".join(filter(None, (f"Accuracy is over {labelled} images.", without_class(labelled, images))))
    if not labelled:
        return f"Quality is the {quality}: none of the {images} images has a label that is a class of the model."
    return f"Quality is the {quality}."


@torch.inference_mode()
def relative_latency(model: ReductionModel, plan: Sequence[LayerPlan], pixel_values: Tensor) -> float:
    """Time of a forward pass by a plan, as a share of the unreduced one's: medians of passes that take turns.

    Args:
        pixel_values: (batch, channels, height, width).
    """
    pixel_values = pixel_values.to(model.device, model.dtype)
    plans = {False: Schedule().plan(model.config), True: plan}
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(ROUNDS + 2):
        for reduces in (False, True) if turn % 2 else (True, False):
            seconds = forward_seconds(model, pixel_values, plans[reduces])
            if turn >= 2:
                times[reduces].append(seconds)
    return median(times[True]) / median(times[False])


def forward_seconds(model: ReductionModel, pixel_values: Tensor, plan: Sequence[LayerPlan]) -> float:
    """Time of one forward pass on the device of its images."""
    synchronize(pixel_values.device)
    start = time.perf_counter()
    model(pixel_values, plan=plan)
    synchronize(pixel_values.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits for everything queued on an accelerator; the CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
