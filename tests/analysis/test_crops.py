"""Random crops: squares inside of the picture, the same for the same seed."""

import numpy as np
import PIL.Image
import pytest

from fatr_hf.analysis.crops import random_crops
from fatr_hf.analysis.images import NamedImage


@pytest.fixture
def pictures():
    """A wide and a high picture whose pixels say where they are."""
    rows, columns = np.mgrid[:40, :60].astype(np.uint8)
    pixels = np.stack([rows, columns, np.zeros_like(rows)], axis=2)
    wide = PIL.Image.fromarray(pixels)
    return [NamedImage("wide", wide, "cat"), NamedImage("high", wide.transpose(PIL.Image.Transpose.TRANSPOSE))]


def test_crops_are_squares_of_the_picture(pictures):
    crops = random_crops(pictures, 30)
    assert [(crop.name, crop.label) for crop in crops] == [("wide", "cat")] * 30 + [("high", None)] * 30
    for crop in crops[:30]:
        pixels = np.asarray(crop.picture)
        side = len(pixels)
        assert pixels.shape == (side, side, 3)
        assert 20 <= side <= 40
        top, left = pixels[0, 0, :2]
        assert (pixels[-1, -1, :2] == (top + side - 1, left + side - 1)).all()
    assert len({crop.picture.size for crop in crops}) > 5


def test_the_seed_decides(pictures):
    first, again, other = (random_crops(pictures, 3, seed) for seed in (0, 0, 1))
    assert [crop.picture.tobytes() for crop in first] == [crop.picture.tobytes() for crop in again]
    assert [crop.picture.tobytes() for crop in first] != [crop.picture.tobytes() for crop in other]


def test_no_crops_are_refused(pictures):
    with pytest.raises(ValueError, match="crops=0 must be an integer of at least 1"):
        random_crops(pictures, 0)
