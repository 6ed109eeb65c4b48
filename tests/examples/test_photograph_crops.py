"""The crops: where they come from, how they are written, and what is refused."""

import importlib
import re
import sys

import numpy as np
import PIL.Image
import pytest

from fatr_hf.training.data import load_image_data

SMALL = {"train_crops": 2, "test_crops": 1, "size": 16, "seed": 0}


@pytest.fixture
def module():
    return importlib.import_module("photograph_crops")


def read_folder(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_command_line_writes_a_folder_that_the_training_reads(module, tmp_path, monkeypatch):
    words = ["photograph_crops.py", str(tmp_path), "--train_crops", "2", "--test_crops", "1", "--size", "16"]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    data = load_image_data(str(tmp_path))
    assert data.label_names == sorted(module.PHOTOGRAPHS)
    assert sorted(data.train["labels"]) == sorted(2 * [*range(len(module.PHOTOGRAPHS))])
    assert sorted(data.test["labels"]) == [*range(len(module.PHOTOGRAPHS))]
    assert {(image.size, image.mode) for image in (*data.train["image"], *data.test["image"])} == {((16, 16), "RGB")}


def test_the_seed_alone_decides_what_is_drawn(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PHOTOGRAPHS", ("cat", "page"))
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        module.write_crops(tmp_path / name, **SMALL | {"seed": seed})
    first, again, other = (read_folder(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first)


def test_no_pixel_is_in_crops_of_both_splits(module, tmp_path, monkeypatch):
    photograph = np.full((40, 90, 3), 200, dtype=np.uint8)
    photograph[:, 68:] = 0  # a quarter of 90, rounded down, is 22
    monkeypatch.setattr(module, "load", lambda name: photograph)
    monkeypatch.setattr(module, "PHOTOGRAPHS", ("half black",))
    module.write_crops(tmp_path, **SMALL | {"train_crops": 50, "test_crops": 50})
    for split, is_right in (("train", lambda crop: crop.min() > 100), ("test", lambda crop: crop.max() == 0)):
        crops = [np.asarray(PIL.Image.open(path)) for path in (tmp_path / split).rglob("*.png")]
        assert len(crops) == 50
        assert all(map(is_right, crops))


def test_crops_are_squares_of_all_allowed_sides_and_places(module):
    rows, columns = np.mgrid[:12, :20]
    region = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    generator = np.random.default_rng(0)
    crops = [np.asarray(module.draw_crop(region, 12, generator)) for _ in range(1000)]
    corners = set()
    for crop in crops:
        top, left, side = crop[0, 0, 0], crop[0, 0, 1], len(crop)
        np.testing.assert_array_equal(crop, region[top : top + side, left : left + side])
        corners.add((top, left, side))
    possible = {(y, x, side) for side in range(6, 13) for y in range(13 - side) for x in range(21 - side)}
    assert {side for _, _, side in corners} == {side for _, _, side in possible}
    assert {left for _, left, _ in corners} == {left for _, left, _ in possible}
    assert corners <= possible


def test_half_of_the_crops_are_grey_and_the_brightness_varies(module):
    crop = PIL.Image.new("RGB", (4, 4), (180, 100, 100))
    generator = np.random.default_rng(0)
    varied = np.stack([np.asarray(module.vary(crop, generator)) for _ in range(1000)]).astype(float)
    is_grey = (varied[..., 0] == varied[..., 1]).all(axis=(1, 2))
    assert is_grey.mean() == pytest.approx(0.5, abs=0.05)
    gains = varied[~is_grey][:, 0, 0, 1] / 100
    assert gains.min() == pytest.approx(0.7, abs=0.02)
    assert gains.max() == pytest.approx(1.3, abs=0.02)


@pytest.mark.parametrize("name", ["train_crops", "test_crops", "size"])
def test_numbers_must_be_positive(module, tmp_path, name):
    with pytest.raises(ValueError, match=f"--{name} 0 must be a positive integer"):
        module.write_crops(tmp_path, **SMALL | {name: 0})


def test_a_negative_seed_is_refused(module, tmp_path):
    with pytest.raises(ValueError, match="--seed -1 must not be negative"):
        module.write_crops(tmp_path, **SMALL | {"seed": -1})


@pytest.mark.parametrize("is_folder", [True, False], ids=["folder with a file", "file"])
def test_what_exists_is_not_mixed_with_crops(module, tmp_path, is_folder):
    (tmp_path / "own.txt").write_text("kept")
    output = tmp_path if is_folder else tmp_path / "own.txt"
    with pytest.raises(ValueError, match=re.escape(str(output)) + " must be a new or an empty folder"):
        module.write_crops(output, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]
