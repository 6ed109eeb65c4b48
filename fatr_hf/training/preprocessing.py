"""From PIL images to batches: the image processor that is saved with the model, and augmentation around it.

What is defined here can be pickled, as data loaders with worker processes may require.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from transformers import BaseImageProcessor

from ..images import open_picture, picture_mode
from .augmentation import Augmentation, find_augmentation, normalised_transforms, picture_transforms

Batch = dict[str, Any]
Example = dict[str, Any]


def image_transform(
    processor: BaseImageProcessor, augmentation: str | Augmentation = "none"
) -> Callable[[Batch], Batch]:
    """A transform for ``datasets.Dataset.set_transform``: the column image to pixel_values; other columns stay.

    Images are opened as ``fatr_hf.images.open_picture`` does, in RGB, or grey where the processor normalises a single
    channel.

    Args:
        processor: resizes and normalises, as it does in a pipeline later.
        augmentation: one of ``AUGMENTATIONS`` by name, or one's own, for training images.

    Raises:
        ValueError: an unknown augmentation, or one that resizes for a processor without a size.
    """
    return _ImageTransform(processor, find_augmentation(augmentation))


class _ImageTransform:
    def __init__(self, processor: BaseImageProcessor, augmentation: Augmentation):
        self.mode = picture_mode(processor)
        self.processor = processor
        settings = processor.to_dict()
        resample = settings.get("resample")
        mean = settings.get("image_mean")
        mean = tuple(mean) if isinstance(mean, (tuple, list)) else (0.0,) * 3
        self.before = picture_transforms(
            augmentation,
            size=_image_size(settings.get("size") or {}),
            resample=InterpolationMode.BILINEAR if resample is None else int(resample),
            # The mean colour, of which normalisation makes zeros.
            fill=tuple(255.0 * channel for channel in mean),
        )
        self.after = normalised_transforms(augmentation)

    def __call__(self, batch: Batch) -> Batch:
        images = [open_picture(image, self.mode) for image in batch["image"]]
        for augment in self.before:
            images = [augment(image) for image in images]
        pixel_values = self.processor(images, return_tensors="pt")["pixel_values"]
        for augment in self.after:
            pixel_values = torch.stack([augment(picture) for picture in pixel_values])
        others = {name: column for name, column in batch.items() if name != "image"}
        return {"pixel_values": pixel_values, **others}


def _image_size(size: dict[str, int]) -> tuple[int, int] | None:
    """Height and width of what a processor with this field gives, None where that depends on the image."""
    height, width = (size.get(side, size.get("shortest_edge")) for side in ("height", "width"))
    return None if height is None or width is None else (height, width)


class ReproducibleImages(Dataset[Example]):
    """Images whose random transform is decided by a seed and by the batch that they are taken in, and nothing else.

    A run that is resumed amid an epoch then augments as the unbroken one did, whatever its loader had fetched ahead,
    and processes augment unlike each other, with or without workers. Every example also gets the batch's ``draw``.

    Args:
        dataset: gives examples with a transform that draws from torch's global generator.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Example]:
        draw = zlib.crc32(repr((self.seed, [int(index) for index in indices])).encode())
        with own_generator(draw):
            if hasattr(self.dataset, "__getitems__"):
                examples = self.dataset.__getitems__(indices)
            else:
                examples = [self.dataset[index] for index in indices]
        return [{**example, "draw": draw} for example in examples]


@contextmanager
def own_generator(seed: int) -> Iterator[None]:
    """Within a ``with`` block torch's global CPU generator starts at a seed; then it goes on where it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def collate(examples: list[Example]) -> dict[str, Tensor]:
    """Stacks examples to pixel_values (batch, channels, height, width), and to labels where they have them.

    Labels are class numbers, (batch,) int64, or the shares of the classes, (batch, classes) float32. Other columns are
    left out.

    Raises:
        ValueError: no examples, pixel values that are absent or of unlike shapes, and labels that are text or that some
            examples have and others do not.
    """
    if not isinstance(examples, list) or not examples:
        raise ValueError(f"collate takes a list of examples, at least one, and not {type(examples).__name__}.")
    if "pixel_values" not in examples[0]:
        raise ValueError(
            f"Examples have {', '.join(examples[0])} and no pixel_values: give the data set image_transform."
        )
    pixel_values = [torch.as_tensor(example["pixel_values"]) for example in examples]
    shapes = sorted({tuple(each.shape) for each in pixel_values})
    if len(shapes) > 1:
        raise ValueError(f"pixel_values have the shapes {shapes}: a batch needs one, which the image processor makes.")
    batch = {"pixel_values": torch.stack(pixel_values)}
    given = [example.get("labels") for example in examples]
    if all(label is None for label in given):
        return batch
    if any(label is None or isinstance(label, str) for label in given):
        raise ValueError(f"labels={given} must be class numbers of all examples or be left out of all.")
    labels = torch.stack([torch.as_tensor(label) for label in given])
    return {**batch, "labels": labels if labels.is_floating_point() else labels.long()}


class MixingCollator:
    """``collate`` for training batches, followed by MixUp or CutMix, one of the two for the whole batch.

    A mixed picture is made of two pictures of the batch, and its label says how much of each class is in it: labels
    are float32 (batch, classes), rows sum to 1, also in a batch that chance leaves unmixed and in one of a single
    picture, which has no other to be mixed with. Where the augmentation mixes nothing, this is ``collate``. Examples
    of ``ReproducibleImages`` are mixed as their draw decides. Not for evaluation: metrics need class numbers.

    Args:
        num_classes: classes of the labels.
        augmentation: one of ``AUGMENTATIONS`` by name, or one's own.

    Raises:
        ValueError: an unknown augmentation or fewer than one class; in a call, a label that is none of the classes.
    """

    def __init__(self, num_classes: int, augmentation: str | Augmentation = "deit"):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r} must be a positive integer.")
        self.num_classes = num_classes
        self.augmentation = find_augmentation(augmentation)
        alphas = self.augmentation.mixup_alpha, self.augmentation.cutmix_alpha
        self.mixup, self.cutmix = (
            kind(alpha=alpha, num_classes=num_classes) if alpha else None
            for kind, alpha in zip((v2.MixUp, v2.CutMix), alphas, strict=True)
        )

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        if not self.augmentation.mixes:
            return collate(examples)
        if "draw" not in examples[0]:
            return self._mix(examples)
        with own_generator(examples[0]["draw"] + 1):
            return self._mix(examples)

    def _mix(self, examples: list[Example]) -> dict[str, Tensor]:
        # torchvision mixes neighbours, and repeated augmentation makes neighbours of copies of one picture.
        batch = collate([examples[index] for index in torch.randperm(len(examples)).tolist()])
        if "labels" not in batch:
            raise ValueError(
                "Images without labels cannot be mixed: give every example labels, or augmentation 'light'."
            )
        pixel_values, labels = batch["pixel_values"], batch["labels"]
        if labels.is_floating_point() or labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"labels={labels.tolist()} must be class numbers from 0 to {self.num_classes - 1}.")
        if torch.rand(()) < self.augmentation.mix_probability and len(examples) > 1:
            pixel_values, labels = self._draw_mix()(pixel_values, labels)
        else:
            labels = functional.one_hot(labels, self.num_classes).float()
        return {"pixel_values": pixel_values, "labels": labels}

    def _draw_mix(self) -> v2.Transform:
        if self.mixup is None or self.cutmix is None:
            return self.mixup or self.cutmix
        return self.cutmix if torch.rand(()) < self.augmentation.mix_switch_probability else self.mixup
