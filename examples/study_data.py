"""A data set as tensors on the device, augmented a whole batch at a time: small images train at the device's pace."""

from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from fatr_hf.training.data import ImageData
from fatr_hf.training.labels import spread_rows


@dataclass(frozen=True)
class TensorImages:
    """Images of one size with their labels.

    Attributes:
        pixels: (images, 3, side, side) uint8.
        labels: (images,) int64.
        mean, std: of the channels, for pixels in [0, 1]; what models take has the mean 0 and the deviation 1.
    """

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, number: int | None) -> "TensorImages":
        """So many of the first images of every class, in their order; None gives all."""
        if number is None or number >= len(self):
            return self
        rows = spread_rows(self.labels.tolist(), number)
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def batch(self, index: list[int]) -> dict[str, Tensor]:
        """Chosen images as a model takes them: ``pixel_values`` and ``labels``."""
        return {"pixel_values": self.as_pixel_values(self.pixels[index]), "labels": self.labels[index]}

    def augmented_batch(self, index: list[int]) -> dict[str, Tensor]:
        """Chosen images, each cropped, flipped and erased in its own way."""
        pixels = erase_at_random(self.as_pixel_values(crop_and_flip(self.pixels[index])))
        return {"pixel_values": pixels, "labels": self.labels[index]}

    def mirrored_batch(self, index: list[int]) -> dict[str, Tensor]:
        """Chosen images, each mirrored at random from side to side and upside down: for what has no right way up."""
        pixels = mirror_at_random(mirror_at_random(self.pixels[index], 2), 3)
        return {"pixel_values": self.as_pixel_values(pixels), "labels": self.labels[index]}

    def as_pixel_values(self, pixels: Tensor) -> Tensor:
        """Bytes (..., 3, height, width) as normalised float32."""
        mean, std = (pixels.new_tensor(each, dtype=torch.float32)[:, None, None] for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def scores(self, predicted: Tensor) -> dict[str, float]:
        """What share of predicted classes (images,) is right: ``accuracy``, over all images.

        Where one class has more than one and a half times the images of another also ``balanced``, the mean over the
        classes of their own shares.
        """
        is_right = predicted == self.labels
        counts = self.labels.bincount()
        classes = counts.nonzero().flatten().tolist()
        scores = {"accuracy": float(is_right.float().mean())}
        if counts.max() > 1.5 * counts[classes].min():
            scores["balanced"] = mean(float(is_right[self.labels == label].float().mean()) for label in classes)
        return scores


def load_tensors(
    data: ImageData, side: int, device: torch.device, seed: int, **normalisation: Any
) -> tuple[TensorImages, TensorImages]:
    """Training and test images on a device, each shuffled once, resized to ``side x side`` pixels."""
    train, test = (to_tensors(split.shuffle(seed=seed), side, device) for split in (data.train, data.test))
    return replace(train, **normalisation), replace(test, **normalisation)


def to_tensors(split: Dataset, side: int, device: torch.device) -> TensorImages:
    """Every image of a split in RGB, resized where it has another size."""
    images = (example["image"].convert("RGB") for example in split)
    arrays = [np.asarray(image if image.size == (side, side) else image.resize((side, side))) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return TensorImages(pixels.to(device), torch.tensor(split["labels"], device=device))


def mirror_at_random(pixels: Tensor, axis: int) -> Tensor:
    """Mirrors one in two images (batch, channels, height, width) along an axis."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(axis), pixels)


def crop_and_flip(pixels: Tensor) -> Tensor:
    """Shifts every image by up to an eighth of its side over a black border, and mirrors one in two.

    Args:
        pixels: (batch, channels, side, side).
    """
    batch, _, side, _ = pixels.shape
    margin = max(1, side // 8)
    padded = torch.nn.functional.pad(pixels, [margin] * 4)
    places = torch.arange(side, device=pixels.device)
    rows = torch.randint(2 * margin + 1, (batch, 1), device=pixels.device) + places
    columns = torch.randint(2 * margin + 1, (batch, 1), device=pixels.device) + places
    mirrored = torch.rand(batch, 1, device=pixels.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(batch, device=pixels.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def erase_at_random(pixel_values: Tensor, probability: float = 0.25) -> Tensor:
    """Puts a grey rectangle, of a quarter to a half of each side, on some of the images."""
    batch, _, height, width = pixel_values.shape
    device = pixel_values.device
    erased = torch.rand(batch, 1, 1, device=device) < probability
    inside = [
        random_interval(batch, height, device)[:, :, None],
        random_interval(batch, width, device)[:, None, :],
    ]
    return pixel_values.masked_fill((erased & inside[0] & inside[1])[:, None], 0.0)


def random_interval(batch: int, side: int, device: torch.device) -> Tensor:
    """(batch, side) bool: for every image an interval of a quarter to a half of the side."""
    length = side * (0.25 + 0.25 * torch.rand(batch, 1, device=device))
    start = torch.rand(batch, 1, device=device) * (side - length)
    places = torch.arange(side, device=device)
    return (places >= start) & (places < start + length)
