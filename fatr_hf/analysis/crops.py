"""Many views of few photographs: random square crops."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..baselines.arguments import check_integer, check_kind
from .images import NamedImage

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST_SIDE = 0.5
"""Of a crop, as a share of the picture's shorter side."""


def random_crops(images: Sequence[NamedImage], count: int, seed: int = 0) -> list[NamedImage]:
    """Crops of pictures with their names and labels, those of one picture together.

    Args:
        images: pictures.
        count: crops of each.
        seed: decides where they lie; the same seed gives the same crops.

    Raises:
        ValueError: a count that is no integer of at least 1, or pictures without names.
    """
    check_integer("crops", count, least=1)
    generator, crops = random.Random(seed), []
    for image in images:
        check_kind("an image", image, NamedImage, "a NamedImage, as load_images gives them")
        crops += [image._replace(picture=random_crop(image.picture, generator)) for _ in range(count)]
    return crops


def random_crop(picture: "Image", generator: random.Random) -> "Image":
    """A square of a picture, with a side between ``LEAST_SIDE`` and the whole of its shorter side."""
    shortest = min(picture.size)
    side = generator.randint(max(1, round(LEAST_SIDE * shortest)), shortest)
    left, top = (generator.randint(0, length - side) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))
