"""From PIL images to pixel values, by the image processor that is saved with the model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from transformers import BaseImageProcessor

AUGMENTATIONS = ("none", "light")
"""``light``: random resized crop and horizontal flip, for photographs."""


Batch = dict[str, Any]


def image_transform(processor: BaseImageProcessor, augmentation: str = "none") -> Callable[[Batch], Batch]:
    """A transform for ``datasets.Dataset.set_transform``: columns image and labels to pixel_values and labels.

    Args:
        processor: resizes and normalises, as it does in a pipeline later.
        augmentation: one of ``AUGMENTATIONS``, for training images.

    Raises:
        ValueError: an unknown augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation={augmentation!r} must be one of {', '.join(AUGMENTATIONS)}.")
    augment = light_augmentation(processor) if augmentation == "light" else None

    def transform(batch: Batch) -> Batch:
        images = [image.convert("RGB") for image in batch["image"]]
        if augment is not None:
            images = [augment(image) for image in images]
        pixel_values = processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values, "labels": batch["labels"]}

    return transform


def light_augmentation(processor: BaseImageProcessor) -> v2.Transform:
    """Random resized crop to the processor's size and horizontal flip."""
    size: dict[str, int] = processor.to_dict()["size"]
    height = size["height"] if "height" in size else size["shortest_edge"]
    width = size["width"] if "width" in size else size["shortest_edge"]
    return v2.Compose([v2.RandomResizedCrop((height, width), scale=(0.35, 1.0)), v2.RandomHorizontalFlip()])


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stacks examples to pixel_values (batch, channels, height, width) and labels (batch,) int64."""
    return {
        "pixel_values": torch.stack([torch.as_tensor(example["pixel_values"]) for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }
