"""What the Trainer's loaders do around a collator: the columns it sees, and labels that fit the model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .losses import check_label_shape, check_label_values
from .preprocessing import MixingCollator, collate

Collator = Callable[[list[Any]], dict[str, Any]]

_LABEL_COLUMNS = ("labels", "label", "label_ids")


class LabelCheck:
    """A collator, and a check of the labels that it gives, while they are on the CPU.

    Labels of type bool become class numbers.

    Args:
        collator: makes the batches.
        num_classes: the model's; None where it tells none.
        is_required: whether there must be labels, as in training.
        is_free: whether labels may be anything but text, since the model's or the caller's own loss takes them.

    Raises:
        ValueError: in a call: labels that are text, missing in training, outside the classes or no shares of them.
    """

    def __init__(self, collator: Collator, num_classes: int | None, *, is_required: bool, is_free: bool):
        self.collator = collator
        self.num_classes = num_classes
        self.is_required = is_required
        self.is_free = is_free

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        self.check_no_text(examples)
        batch = self.collator(examples)
        if not isinstance(batch, Mapping):
            return batch
        if not self.is_required:  # in training the loss tells
            check_finite_images(batch.get("pixel_values"))
        if self.is_free:
            return batch
        labels = batch.get("labels")
        if labels is None and self.is_required:
            raise ValueError(
                f"Training needs labels, but the batch has {', '.join(batch)} alone: the column must be called labels."
            )
        if not isinstance(labels, Tensor) or not self.num_classes:
            return batch
        if labels.dtype == torch.bool and labels.ndim == 1:
            batch = {**batch, "labels": labels.long()}
        check_label_shape(labels, (len(labels) if labels.ndim else 0, self.num_classes))
        check_label_values(labels, self.num_classes)
        return batch

    def check_no_text(self, examples: list[Any]) -> None:
        """Raises a ValueError for a label that is text."""
        for example in examples:
            for name in _LABEL_COLUMNS:
                value = example.get(name) if isinstance(example, Mapping) else None
                if isinstance(value, str):
                    raise ValueError(
                        f"{name}={value!r} is text, and must be the number of one of the {self.num_classes} classes: "
                        "config.label2id has the number of every name."
                    )


def check_finite_images(pixel_values: Any) -> None:
    """Raises a ValueError for images with NaN or infinite values, whose loss transformers leaves out of the mean."""
    if not isinstance(pixel_values, Tensor) or not pixel_values.is_floating_point():
        return
    broken = (~pixel_values.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"pixel_values hold values that are NaN or infinite in {len(broken)} of {len(pixel_values)} images of a "
            f"batch, such as number {broken[0]}: mend the images."
        )


def makes_its_columns(dataset: Any) -> bool:
    """Whether a data set's transform makes columns out of others when it is read (``set_transform``)."""
    style = getattr(dataset, "format", None)
    return isinstance(style, Mapping) and style.get("type") == "custom"


def takes_its_columns(collator: Collator) -> bool:
    """Whether a collator takes the columns that it needs, some of which no model takes, and leaves out the others."""
    inner = collator.collator if isinstance(collator, LabelCheck) else collator
    return inner is collate or isinstance(inner, MixingCollator)
