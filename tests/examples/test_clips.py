"""Clips: that a single frame does not tell the class, and what their frames show."""

import importlib

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike

SIDE, FRAMES = 32, 5


@pytest.fixture
def module():
    return importlib.import_module("clips")


@pytest.fixture
def sources(module):
    """An item of one grey, brighter at one side, and a photograph of noise."""
    generator = np.random.default_rng(0)
    square = np.zeros((28, 28), dtype=np.uint8)
    square[4:24, 6:22] = np.linspace(100, 255, 16)
    items = [{"image": PIL.Image.fromarray(square), "label": 3}]
    return module.Sources(items, [generator.integers(0, 256, (90, 80, 3), dtype=np.uint8)])


@pytest.fixture
def clips(module, sources):
    """What some clips are made of."""
    return [module.draw_clip(sources, SIDE, np.random.default_rng(seed)) for seed in range(12)]


def step(module, clip):
    """Rows and columns in pixels."""
    return clip.speed * np.array(list(module.DIRECTIONS.values())[clip.direction])


def with_direction(module, clip, direction, frame):
    """A clip whose item moves in another direction and is where it was in one of the frames."""
    turned = clip._replace(direction=direction)
    place = (clip.moving.place + frame * (step(module, clip) - step(module, turned))) % SIDE
    return turned._replace(moving=clip.moving._replace(place=tuple(place.tolist())))


def test_every_frame_may_be_of_any_direction(module, clips):
    """Equally likely places of all directions pair off so that a frame is the same: it says nothing of the class."""
    for clip in clips:
        frames = module.draw_frames(clip, FRAMES)
        for direction in range(len(module.DIRECTIONS)):
            for number in range(FRAMES):
                other = module.draw_frames(with_direction(module, clip, direction, number), FRAMES)
                assert (other[number] == frames[number]).all()
                assert direction == clip.direction or (other != frames).any()


def test_backwards_it_is_the_opposite_direction(module, clips):
    for clip in clips:
        clip = clip._replace(window=clip.window[[0, 0]])
        end = (clip.moving.place + (FRAMES - 1) * step(module, clip)) % SIDE
        moving = clip.moving._replace(place=tuple(end.tolist()))
        opposite = clip._replace(direction=(clip.direction + 4) % 8, moving=moving)
        assert (module.draw_frames(opposite, FRAMES)[::-1] == module.draw_frames(clip, FRAMES)).all()


def test_places_and_directions_are_drawn_evenly_and_apart(module, sources):
    drawn = [module.draw_clip(sources, SIDE, np.random.default_rng((7, index))) for index in range(1500)]
    counts = np.zeros((8, 2, 4))
    for clip in drawn:
        for axis, place in enumerate(clip.moving.place):
            counts[clip.direction, axis, place * 4 // SIDE] += 1
    expected = len(drawn) / 32
    assert abs(counts - expected).max() < 5 * expected**0.5
    assert {clip.speed for clip in drawn} == {2, 3}
    assert 0.4 < np.mean([clip.still is not None for clip in drawn]) < 0.6


def test_the_item_moves_and_the_other_one_does_not(module, clips):
    dark = np.zeros((SIDE + 2, SIDE + 2, 3), dtype=np.uint8)
    clip = next(clip for clip in clips if clip.still is not None)._replace(photograph=dark)
    alone = module.draw_frames(clip._replace(still=None), FRAMES)
    for number, frame in enumerate(alone):
        assert (frame == np.roll(alone[0], number * step(module, clip), axis=(0, 1))).all()
    both, covered = module.draw_frames(clip, FRAMES), alone.any(axis=3)
    assert (both[covered] == alone[covered]).all()
    stands = np.roll(clip.still.colours, clip.still.place, axis=(0, 1))
    stands[~np.roll(clip.still.shown, clip.still.place, axis=(0, 1))] = 0
    for frame, hidden in zip(both, covered, strict=True):
        assert (frame[~hidden] == stands[~hidden]).all()


def test_the_photograph_drifts_evenly(module, clips):
    ramp = np.broadcast_to(np.arange(SIDE + 9, dtype=np.uint8)[:, None, None], (SIDE + 9, SIDE + 9, 3))
    nowhere = clips[0].moving._replace(shown=np.zeros((SIDE, SIDE), dtype=bool))
    window = np.array([[8.0, 3.0], [0.0, 3.0]])
    frames = module.draw_frames(clips[0]._replace(photograph=ramp, window=window, still=None, moving=nowhere), FRAMES)
    assert frames[:, 0, 0, 0].tolist() == [8, 6, 4, 2, 0]


def test_seed_and_index_alone_decide_what_is_drawn(module, sources):
    first, same, other = (module.Clips(sources, 5, FRAMES, SIDE, seed) for seed in (0, 0, 1))
    pictures = [clip["pixel_values"] for clip in (first[4], same[4], first[3], other[4])]
    assert torch.equal(pictures[0], pictures[1])
    assert not any(torch.equal(pictures[0], picture) for picture in pictures[2:])
    assert len(first) == 5
    assert pictures[0].shape == (FRAMES, 3, SIDE, SIDE)
    clip = module.draw_clip(sources, SIDE, np.random.default_rng((0, 4)))
    assert first[4]["labels"] == clip.direction
    assert_rounded_alike(
        (pictures[0] + 1) * 127.5, torch.from_numpy(module.draw_frames(clip, FRAMES)).movedim(3, 1).float()
    )
