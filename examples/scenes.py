"""Scenes with masks and boxes: items of Fashion-MNIST, enlarged and tinted, on photographs of scikit-image.

Training and test scenes have different items and different photographs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from photograph_crops import PHOTOGRAPHS, Pixels, draw_crop, load, vary
from scipy.ndimage import binary_fill_holes

from fatr_hf.training.idx import read_idx_folder

NUMBERS = (2, 5)
"""Fewest and most items of a scene."""

SIDES = (1 / 4, 1 / 2)
"""Shortest and longest side of an item, as shares of the scene's."""

FAINT = 0.1
"""Grey values up to this one are what an item lies on, unless the item encloses them."""


VISIBLE = 1 / 4
"""Least share of an item's pixels that others leave uncovered where it counts as an object."""


class Object(NamedTuple):
    """An item of which enough can be seen."""

    label: int
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of what can be seen, in pixels; the last two are the first beyond it."""


class Scene(NamedTuple):
    """A picture and what each of its pixels shows."""

    picture: Pixels
    """(side, side, 3)."""
    mask: Pixels
    """(side, side): 0 for the photograph, 1 + the label of an item."""
    objects: tuple[Object, ...] = ()
    owner: Pixels | None = None
    """(side, side): 0 for what belongs to no object, 1 + the place among ``objects``."""


class Sources(NamedTuple):
    """What the scenes of one split are made of."""

    items: Any
    """Labelled pictures, each a mapping with ``image`` and ``label``."""
    photographs: Sequence[Pixels]
    """(height, width, 3) each."""


def read_sources(folder: Path) -> dict[str, Sources]:
    """The sources of the splits ``train`` and ``test``.

    Args:
        folder: of idx files, such as those of Fashion-MNIST.

    Raises:
        FileNotFoundError: files of a split are missing.
        ValueError: damaged files.
    """
    items = read_idx_folder(folder)
    if "test" not in items:
        raise FileNotFoundError(f"{folder} has no files t10k-*, and test scenes must show other items.")
    names = {"train": PHOTOGRAPHS[::2], "test": PHOTOGRAPHS[1::2]}
    return {split: Sources(items[split], [load(name) for name in each]) for split, each in names.items()}


def draw_scenes(sources: Sources, count: int, side: int, seed: int) -> list[Scene]:
    """So many scenes of ``side`` x ``side`` pixels; the same arguments give the same pixels."""
    generator = np.random.default_rng(seed)
    return [draw_scene(sources, side, generator) for _ in range(count)]


def draw_scene(sources: Sources, side: int, generator: np.random.Generator) -> Scene:
    """A crop of a photograph with items on it; a later one may cover an earlier one."""
    photograph = sources.photographs[int(generator.integers(len(sources.photographs)))]
    crop = draw_crop(photograph, min(photograph.shape[:2]), generator)
    picture = np.array(vary(crop, generator).resize((side, side)))
    mask, drawn = (np.zeros((side, side), dtype=np.uint8) for _ in range(2))
    items: list[tuple[int, int]] = []  # label and number of pixels
    shortest, longest = (round(share * side) for share in SIDES)
    for _ in range(generator.integers(NUMBERS[0], NUMBERS[1] + 1)):
        item = sources.items[int(generator.integers(len(sources.items)))]
        length = int(generator.integers(shortest, longest + 1))
        top, left = generator.integers(0, side - length + 1, size=2)
        shades, shown = enlarge(item["image"], length)
        place = (slice(top, top + length), slice(left, left + length))
        tint = generator.uniform(80, 255, size=3)
        picture[place][shown] = (tint * (0.3 + 0.7 * shades[shown, None])).astype(np.uint8)
        mask[place][shown] = 1 + item["label"]
        items.append((item["label"], int(shown.sum())))
        drawn[place][shown] = len(items)
    return Scene(picture, mask, *find_objects(drawn, items))


def find_objects(drawn: Pixels, items: Sequence[tuple[int, int]]) -> tuple[tuple[Object, ...], Pixels]:
    """The objects of a scene, and which of them every pixel belongs to (see ``Scene.owner``).

    Args:
        drawn: (side, side), 1 + the place among the items of what is seen; 0 for the photograph.
        items: label and number of pixels of each.
    """
    objects: list[Object] = []
    owner = np.zeros_like(drawn)
    for number, (label, pixels) in enumerate(items, start=1):
        seen = drawn == number
        if seen.sum() < max(1, VISIBLE * pixels):
            continue
        rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
        objects.append(Object(label, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)))
        owner[seen] = len(objects)
    return tuple(objects), owner


def enlarge(item: PIL.Image.Image, length: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The grey values of an item in [0, 1] and which pixels show it, (length, length) each."""
    shades = np.asarray(item.resize((length, length), PIL.Image.Resampling.BICUBIC)) / 255
    return shades, binary_fill_holes(shades > FAINT)
