"""Augmentation of training pictures: what is done, as one checked value, and the transforms that do it.

The recipe of DeiT (arXiv 2012.12877, table 9), with which the paper trains (arXiv 2511.21477, appendix D), out of
torchvision's transforms. All of it draws from torch's global generator, whose state the Trainer saves. What is done to
a batch rather than to a picture is in ``preprocessing`` (MixUp, CutMix) and ``repeated_sampler``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

CROPS = ("none", "random_resized", "pad")
MAX_LEVEL = 10.0
# Bins of the scale from which RandAugment's level is read: fine enough for a level drawn from a normal distribution.
_BINS_PER_LEVEL = 100
_PROBABILITIES = (
    "horizontal_flip",
    "rand_augment_probability",
    "random_erasing",
    "mix_probability",
    "mix_switch_probability",
)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Augmentation:
    """What happens to training pictures; the defaults are DeiT's.

    Attributes:
        crop: "none"; "random_resized", a part of random area and aspect, resized to the model's size; or "pad", a
            shift by up to an eighth of each side, filled with zeros, for pictures as small as 28 x 28.
        crop_scale: least and greatest share of the picture's area in a random resized crop, in (0, 1].
        horizontal_flip: probability of a mirrored picture.
        rand_augment_magnitude: mean level of RandAugment's operations (arXiv 1909.13719), from 0, which switches them
            off, to 10, the end of each operation's range.
        rand_augment_std: standard deviation of the level, which is drawn anew for each operation on each picture and
            cut to [0, 10].
        rand_augment_ops: operations per picture.
        rand_augment_probability: probability of each of them; one half in DeiT's code.
        random_erasing: probability that a rectangle of the normalised picture becomes noise (arXiv 1708.04896).
        mixup_alpha: both parameters of the Beta distribution of MixUp's weight (arXiv 1710.09412); 0 switches it off.
        cutmix_alpha: the same of CutMix's area (arXiv 1905.04899).
        mix_probability: probability that a batch is mixed.
        mix_switch_probability: probability that a mixed batch gets CutMix and not MixUp, where both are on.
        repeats: how often a picture comes in an epoch, augmented anew each time, in which an epoch is still as many
            pictures as there are (repeated augmentation, arXiv 1901.09335); 1 switches it off.

    Raises:
        ValueError: a field outside its range.
    """

    crop: str = "random_resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    horizontal_flip: float = 0.5
    rand_augment_magnitude: float = 9.0
    rand_augment_std: float = 0.5
    rand_augment_ops: int = 2
    rand_augment_probability: float = 0.5
    random_erasing: float = 0.25
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    mix_probability: float = 1.0
    mix_switch_probability: float = 0.5
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r} must be one of {', '.join(CROPS)}.")
        scale = self.crop_scale
        is_pair = isinstance(scale, Sequence) and len(scale) == 2 and all(_is_number(value) for value in scale)
        if not (is_pair and 0 < scale[0] <= scale[1] <= 1):
            raise ValueError(f"crop_scale={scale!r} must be two ascending numbers above 0 and at most 1.")
        for name in _PROBABILITIES:
            self._require(name, 0, 1, "a probability, from 0 to 1")
        self._require("rand_augment_magnitude", 0, MAX_LEVEL, "a number from 0 (off) to 10")
        for name in ("rand_augment_std", "mixup_alpha", "cutmix_alpha"):
            self._require(name, 0, math.nextafter(math.inf, 0), "a finite number that is not negative")
        for name in ("rand_augment_ops", "repeats"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a positive integer.")

    def _require(self, name: str, least: float, most: float, words: str) -> None:
        value = getattr(self, name)
        if not (_is_number(value) and least <= value <= most):
            raise ValueError(f"{name}={value!r} of the augmentation must be {words}.")

    @property
    def mixes(self) -> bool:
        """Whether any batch is mixed, so that labels are shares of classes."""
        return self.mix_probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


_OFF: dict[str, Any] = {
    "crop": "none",
    "horizontal_flip": 0.0,
    "rand_augment_magnitude": 0.0,
    "random_erasing": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "repeats": 1,
}

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(**_OFF),
    "light": Augmentation(**_OFF | {"crop": "random_resized", "crop_scale": (0.35, 1.0), "horizontal_flip": 0.5}),
    "small": Augmentation(**_OFF | {"crop": "pad", "horizontal_flip": 0.5, "random_erasing": 0.25}),
    "deit": Augmentation(),
}
"""``light``: random resized crop and flip, for photographs. ``small``: shift, flip and erasing, for small pictures.
``deit``: everything."""


def find_augmentation(augmentation: str | Augmentation) -> Augmentation:
    """The augmentation of that name, or the one that was given.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation={augmentation!r} must be one of {', '.join(AUGMENTATIONS)}.")
    return AUGMENTATIONS[augmentation]


class PaddedCrop(v2.Transform):
    """A picture's own size out of the picture with zeros around it, an eighth of each side (rounded up) wide."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where the crop begins, in pixels from the picture's upper left corner."""
        height, width = v2.functional.get_size(flat_inputs[0])
        top, left = (int(torch.randint(-_eighth(side), _eighth(side) + 1, ())) for side in (height, width))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        # What lies outside the picture is cropped as zeros.
        return self._call_kernel(v2.functional.crop, inpt, **params)


@dataclass(frozen=True)
class RandAugmentOperation:
    """One operation of torchvision's RandAugment at a level that is drawn for every picture.

    torchvision takes one bin of a scale for all pictures; DeiT's code draws the level, "9/0.5" in its table 9, from a
    normal distribution for every operation. Its operations are torchvision's up to Invert and SolarizeAdd, which
    torchvision lacks, and Identity, which it has instead.

    Attributes:
        magnitude, std: mean and standard deviation of the level, of which 10 is the end of an operation's range.
        fill: colour, in 0 to 255 per channel, of what a rotation or shift uncovers.
    """

    magnitude: float
    std: float
    fill: tuple[float, ...]

    def draw_level(self) -> float:
        """A level in [0, 10]."""
        return min(max(float(torch.normal(self.magnitude, self.std, ())), 0.0), MAX_LEVEL)

    def __call__(self, picture: Any) -> Any:
        """The picture, a PIL image of mode L or RGB, after an operation drawn with equal probabilities."""
        operation = v2.RandAugment(
            num_ops=1,
            magnitude=round(self.draw_level() * _BINS_PER_LEVEL),
            num_magnitude_bins=round(MAX_LEVEL * _BINS_PER_LEVEL) + 1,
            interpolation=InterpolationMode.BILINEAR,
            fill=list(self.fill),
        )
        return operation(picture)


def picture_transforms(
    augmentation: Augmentation,
    *,
    size: tuple[int, int] | None,
    resample: int | InterpolationMode,
    fill: tuple[float, ...],
) -> list[Callable[[Any], Any]]:
    """What happens to a PIL image (mode L or RGB) before it is resized and normalised, in this order.

    Args:
        augmentation: what is on.
        size: height and width of a random resized crop, in pixels; only that needs one.
        resample: its interpolation, as torchvision's or Pillow's number.
        fill: colour of what RandAugment uncovers, in 0 to 255, one number per channel.

    Raises:
        ValueError: a random resized crop without a size.
    """
    steps: list[Callable[[Any], Any]] = []
    if augmentation.crop == "random_resized":
        if size is None:
            raise ValueError(
                "crop='random_resized' needs an image processor with a fixed size: give its size as height and width, "
                f"or take another crop of {', '.join(CROPS)}."
            )
        steps.append(v2.RandomResizedCrop(size, scale=augmentation.crop_scale, interpolation=resample))
    elif augmentation.crop == "pad":
        steps.append(PaddedCrop())
    if augmentation.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.horizontal_flip))
    if augmentation.rand_augment_magnitude:
        operation = RandAugmentOperation(augmentation.rand_augment_magnitude, augmentation.rand_augment_std, fill)
        applied = v2.RandomApply([operation], p=augmentation.rand_augment_probability)
        steps += [applied] * augmentation.rand_augment_ops
    return steps


def normalised_transforms(augmentation: Augmentation) -> list[Callable[[Any], Any]]:
    """What happens to a normalised picture, a tensor (channels, height, width)."""
    return [v2.RandomErasing(augmentation.random_erasing, value="random")] if augmentation.random_erasing else []


def _eighth(side: int) -> int:
    return math.ceil(side / 8)
