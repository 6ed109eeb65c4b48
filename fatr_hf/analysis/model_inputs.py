"""What a model is given, checked before it runs: pixel values, and the classes of images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines.arguments import check_integer, check_kind, described
from ..baselines.rival import Rival
from .images import Batch, batches

NO_CLASS = (-1, -100)
"""Labels of images that have no class of the model; the second is what PyTorch's losses ignore."""


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether a model's output is logits of its classes."""
    reduced = model.model if isinstance(model, Rival) else model
    return hasattr(reduced, "classifier") and bool(model.config.num_labels)


def model_batches(model: PreTrainedModel, data: Any, batch_size: int) -> Iterator[Batch]:
    """``images.batches`` as a model takes them, with its ``class_numbers`` as labels.

    Raises:
        ValueError: no images, pixel values or labels that the model cannot take, or images of several sizes.
    """
    check_integer("batch_size", batch_size, least=1)
    first = None
    for batch in batches(data, batch_size):
        check_pixels(model, batch.pixel_values)
        shape = tuple(batch.pixel_values.shape[1:])
        first = first or shape
        if shape != first:
            raise ValueError(f"Images of the shapes {first} and {shape} cannot be taken together: give one size.")
        yield Batch(batch.pixel_values, class_numbers(model, batch))


def check_pixels(model: PreTrainedModel, pixel_values: Any) -> None:
    """Raises a ValueError for what is no tensor (images, channels, height, width) as a processor makes it."""
    wanted = "(images, channels, height, width)"
    check_kind("pixel_values", pixel_values, Tensor, f"a tensor {wanted}")
    shape, channels = tuple(pixel_values.shape), getattr(model.config, "num_channels", None)
    if len(shape) != 4 or not shape[0]:
        advice = ": of a single picture give pixel_values[None]" if len(shape) == 3 else ""
        raise ValueError(f"pixel_values of the shape {shape} must be {wanted}, at least one image{advice}.")
    if channels not in (None, shape[1]):
        advice = ": give pixel_values.movedim(-1, 1)" if shape[3] == channels else ""
        raise ValueError(f"pixel_values of the shape {shape} must be {wanted} with {channels} channels{advice}.")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values of {pixel_values.dtype} must be floating-point numbers, normalised by the model's image "
            "processor."
        )
    if not pixel_values.isfinite().all():
        raise ValueError("pixel_values hold numbers that are NaN or infinite.")


def class_numbers(model: PreTrainedModel, batch: Batch) -> Tensor | None:
    """The class of each image of a batch: (batch,) int64, -1 where it has none.

    None of an encoder, or where no labels are known.

    Raises:
        ValueError: labels that are no integers, one for each image, or no classes of the model.
    """
    labels, images = batch.labels, len(batch.pixel_values)
    if labels is None or not is_classifier(model):
        return None
    check_kind("labels", labels, Tensor, f"a tensor (images,) of class numbers, here of {images}")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (images,) or not whole:
        raise ValueError(
            f"labels of the shape {tuple(labels.shape)} and {labels.dtype} must be one integer for each of the "
            f"{images} images."
        )
    labels, most = labels.long(), (model.config.num_labels or 0) - 1
    without = torch.isin(labels, torch.tensor(NO_CLASS, device=labels.device))
    wrong = labels[((labels < 0) & ~without) | (labels > most)]
    if len(wrong):
        raise ValueError(
            f"labels hold {int(wrong[0])}, which is no class of the model: its classes are 0 to {most}, and -1 or -100 "
            "says that an image has none."
        )
    return labels.masked_fill(without, -1)


def check_finite(model: PreTrainedModel, output: Tensor) -> Tensor:
    """A model's output, if all of it is finite.

    Raises:
        ValueError: an output that is NaN or infinite.
    """
    if not output.isfinite().all():
        raise ValueError(
            f"The outputs of {described(model)} in {model.dtype} are NaN or infinite: load it with "
            "dtype=torch.float32, or look for damaged weights."
        )
    return output


def without_class(labelled: int, images: int) -> str:
    """A sentence on the images that an accuracy leaves out; empty where there are none."""
    left_out = images - labelled
    return f"{left_out} of {images} images have no class of the model." if left_out else ""
