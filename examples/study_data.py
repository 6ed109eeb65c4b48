"""A data set as tensors on the device, augmented a whole batch at a time: small images train at the device's pace."""

from dataclasses import dataclass

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
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, number: int | None) -> "TensorImages":
        """So many of the first images of every class, in their order; None gives all."""
        if number is None or number >= len(self):
            return self
        rows = spread_rows(self.labels.tolist(), number)
        return TensorImages(self.pixels[rows], self.labels[rows])

    def batch(self, index: list[int]) -> dict[str, Tensor]:
        """Chosen images as a model takes them: ``pixel_values`` in [-1, 1] and ``labels``."""
        return {"pixel_values": as_pixel_values(self.pixels[index]), "labels": self.labels[index]}

    def augmented_batch(self, index: list[int]) -> dict[str, Tensor]:
        """Chosen images, each cropped, flipped and erased in its own way."""
        pixels = erase_at_random(as_pixel_values(crop_and_flip(self.pixels[index])))
        return {"pixel_values": pixels, "labels": self.labels[index]}


def load_tensors(data: ImageData, side: int, device: torch.device, seed: int) -> tuple[TensorImages, TensorImages]:
    """Training and test images on a device, each shuffled once, resized to ``side x side`` pixels."""
    train, test = (to_tensors(split.shuffle(seed=seed), side, device) for split in (data.train, data.test))
    return train, test


def to_tensors(split: Dataset, side: int, device: torch.device) -> TensorImages:
    """Every image of a split in RGB, resized where it has another size."""
    images = (example["image"].convert("RGB") for example in split)
    arrays = [np.asarray(image if image.size == (side, side) else image.resize((side, side))) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return TensorImages(pixels.to(device), torch.tensor(split["labels"], device=device))


def as_pixel_values(pixels: Tensor) -> Tensor:
    """Bytes as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


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
