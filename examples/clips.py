"""Clips whose class is the direction in which an item moves: Fashion-MNIST's over photographs, as in ``scenes.py``.

The photograph drifts by a motion of its own, and another item may stand still. What leaves a clip at one side comes
back at the other, so that the item is at every place with the same probability, in every frame and whatever its
direction: a single frame says nothing of the class.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from photograph_crops import Pixels, draw_crop, vary
from scenes import Sources, enlarge
from torch.utils.data import Dataset

DIRECTIONS = {
    "right": (0, 1),
    "down right": (1, 1),
    "down": (1, 0),
    "down left": (1, -1),
    "left": (0, -1),
    "up left": (-1, -1),
    "up": (-1, 0),
    "up right": (-1, 1),
}
"""Rows and columns of a step, by the name of the class."""

SIDES = (1 / 3, 1 / 2)
"""Shortest and longest side of an item, as shares of a frame's."""

SPEEDS = (1 / 20, 1 / 10)
"""Shortest and longest step from one frame to the next, along each axis, as shares of a frame's side."""

DRIFT = 1 / 16
"""How far the photograph moves at most along each axis, as a share of a frame's side."""

STILL_SHARE = 0.5
"""Of the clips with a second item."""


class Cutout(NamedTuple):
    """An item in the upper left corner of an empty frame."""

    colours: Pixels
    """(side, side, 3)."""
    shown: NDArray[np.bool_]
    """(side, side): the item's pixels."""
    place: tuple[int, int]
    """Row and column to which the corner is moved in the first frame."""


class Clip(NamedTuple):
    """What the frames of a clip are made of."""

    photograph: Pixels
    """(height, width, 3), larger than a frame."""
    window: NDArray[np.float64]
    """(2, 2): row and column of the frame's corner in the photograph, in the first frame and in the last one."""
    still: Cutout | None
    moving: Cutout
    direction: int
    """Of ``DIRECTIONS``, counted from 0: the class."""
    speed: int
    """Pixels from one frame to the next along each axis."""


class Clips(Dataset[dict[str, Any]]):
    """So many clips, drawn when they are asked for; seed and index alone decide what a clip shows.

    Args:
        sources: of one split (see ``scenes.read_sources``).
        count: of the clips.
        frames: of a clip.
        side: height and width in pixels.
        seed: two data sets with different ones have no clip in common.
    """

    def __init__(self, sources: Sources, count: int, frames: int, side: int, seed: int):
        self.sources = sources
        self.count = count
        self.frames = frames
        self.side = side
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``pixel_values`` (frames, 3, side, side) float32 in [-1, 1], and ``labels``, the class."""
        clip = draw_clip(self.sources, self.side, np.random.default_rng((self.seed, index)))
        frames = torch.from_numpy(draw_frames(clip, self.frames))
        return {"pixel_values": frames.movedim(3, 1) / 127.5 - 1, "labels": clip.direction}


def draw_clip(sources: Sources, side: int, generator: np.random.Generator) -> Clip:
    """What a clip of ``side`` x ``side`` pixels is made of; all its parts are drawn independently of each other."""
    photograph = sources.photographs[int(generator.integers(len(sources.photographs)))]
    room = round(DRIFT * side)
    crop = draw_crop(photograph, min(photograph.shape[:2]), generator)
    crop = vary(crop.resize((side + room, side + room), reducing_gap=2), generator)
    still = draw_cutout(sources, side, generator) if generator.random() < STILL_SHARE else None
    slowest, fastest = (max(1, round(share * side)) for share in SPEEDS)
    return Clip(
        photograph=np.asarray(crop),
        window=generator.uniform(0, room, size=(2, 2)),
        still=still,
        moving=draw_cutout(sources, side, generator),
        direction=int(generator.integers(len(DIRECTIONS))),
        speed=int(generator.integers(slowest, fastest + 1)),
    )


def draw_cutout(sources: Sources, side: int, generator: np.random.Generator) -> Cutout:
    """An item, enlarged and tinted, and its place."""
    item = sources.items[int(generator.integers(len(sources.items)))]
    shortest, longest = (round(share * side) for share in SIDES)
    length = int(generator.integers(shortest, longest + 1))
    shades, shown = enlarge(item["image"], length)
    tinted = generator.uniform(80, 255, size=3) * (0.3 + 0.7 * shades[:, :, None])
    around = (0, side - length)
    row, column = generator.integers(0, side, size=2)
    return Cutout(
        colours=np.pad(tinted.clip(0, 255).astype(np.uint8), (around, around, (0, 0))),
        shown=np.pad(shown, (around, around)),
        place=(int(row), int(column)),
    )


def draw_frames(clip: Clip, count: int) -> Pixels:
    """The first ``count`` frames, (count, side, side, 3)."""
    side = len(clip.moving.shown)
    rows, columns = list(DIRECTIONS.values())[clip.direction]
    start, end = clip.window
    corners = np.linspace(start, end, count).round().astype(int)
    frames = np.empty((count, side, side, 3), dtype=np.uint8)
    for number, (frame, (top, left)) in enumerate(zip(frames, corners, strict=True)):
        frame[:] = clip.photograph[top : top + side, left : left + side]
        if clip.still is not None:
            paste(frame, clip.still, (0, 0))
        paste(frame, clip.moving, (number * clip.speed * rows, number * clip.speed * columns))
    return frames


def paste(frame: Pixels, cutout: Cutout, moved: Sequence[int]) -> None:
    """Draws an item, moved by so many rows and columns, into a frame; beyond a side it goes on at the opposite one."""
    shift = [place + by for place, by in zip(cutout.place, moved, strict=True)]
    shown = np.roll(cutout.shown, shift, axis=(0, 1))
    frame[shown] = np.roll(cutout.colours, shift, axis=(0, 1))[shown]
