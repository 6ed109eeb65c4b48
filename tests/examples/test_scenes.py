"""Scenes: what their pixels and masks show, and what the splits are made of."""

import importlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

SIDE = 56


@pytest.fixture
def module():
    return importlib.import_module("scenes")


@pytest.fixture
def flat(module):
    """Bright squares of the labels 3 and 7 for a photograph of one grey."""
    square = np.zeros((28, 28), dtype=np.uint8)
    square[4:24, 4:24] = 255
    items = [{"image": PIL.Image.fromarray(square), "label": label} for label in (3, 7)]
    return module.Sources(items, [np.full((80, 90, 3), 100, dtype=np.uint8)])


def test_the_seed_alone_decides_what_is_drawn(module, flat):
    first, again, other = (module.draw_scenes(flat, 3, SIDE, seed) for seed in (0, 0, 1))
    for scene, same, another in zip(first, again, other, strict=True):
        assert scene.picture.shape == (SIDE, SIDE, 3)
        assert (scene.picture == same.picture).all()
        assert (scene.mask == same.mask).all()
        assert (scene.picture != another.picture).any()


def test_the_mask_is_where_the_photograph_is_covered(module, flat):
    scenes = module.draw_scenes(flat, 50, SIDE, 0)
    for scene in scenes:
        photograph = np.unique(scene.picture[scene.mask == 0], axis=0)
        assert len(photograph) == 1
        covered = scene.picture[scene.mask > 0] != photograph[0]
        assert covered.any(axis=1).mean() > 0.9  # an item's edge may be as bright as the photograph
    assert {int(value) for scene in scenes for value in np.unique(scene.mask)} == {0, 4, 8}


def test_items_have_all_allowed_sides_and_numbers(module, flat, monkeypatch):
    lengths = []
    enlarge = module.enlarge
    monkeypatch.setattr(module, "enlarge", lambda item, length: lengths.append(length) or enlarge(item, length))
    numbers = set()
    for seed in range(200):
        module.draw_scenes(flat, 1, SIDE, seed)
        numbers.add(len(lengths))
        assert set(lengths) <= {*range(SIDE // 4, SIDE // 2 + 1)}
        lengths.clear()
    assert numbers == {2, 3, 4, 5}


def test_what_an_item_encloses_belongs_to_it(module):
    ring = np.zeros((28, 28), dtype=np.uint8)
    ring[4:24, 4:24] = 200
    ring[8:20, 8:20] = 0
    shades, shown = module.enlarge(PIL.Image.fromarray(ring), 56)
    assert shown[12:44, 12:44].all()
    assert not shown[:6].any()
    assert shades[28, 28] == 0
    assert shades[12, 28] == pytest.approx(200 / 255, abs=0.1)


def test_the_splits_share_neither_items_nor_photographs(module, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    write_mnist = importlib.import_module("labelled_images").write_mnist
    monkeypatch.setattr(module, "PHOTOGRAPHS", ("cat", "page", "coins"))
    monkeypatch.setattr(module, "load", lambda name: name)
    sources = module.read_sources(write_mnist(tmp_path))
    assert sources["train"].photographs == ["cat", "coins"]
    assert sources["test"].photographs == ["page"]
    pictures = {split: {each.tobytes() for each in sources[split].items["image"]} for split in sources}
    assert pictures["train"]
    assert not pictures["train"] & pictures["test"]
    for path in tmp_path.glob("t10k-*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="has no files t10k"):
        module.read_sources(tmp_path)


def test_boxes_and_owners_are_of_what_can_be_seen(module, flat):
    for scene in module.draw_scenes(flat, 30, SIDE, 0):
        for number, (label, (left, top, right, bottom)) in enumerate(scene.objects, start=1):
            owned = scene.owner == number
            assert (scene.mask[owned] == 1 + label).all()
            inside = owned[top:bottom, left:right]
            assert owned.sum() == inside.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        assert scene.owner.max() == len(scene.objects)


def test_an_item_that_is_nearly_covered_is_no_object(module):
    drawn = np.zeros((8, 8), dtype=np.uint8)
    drawn[:4, :4] = 2  # over the first, of whose 12 pixels 2 are left
    drawn[4, :2] = 1
    drawn[6:, 5:] = 3
    objects, owner = module.find_objects(drawn, [(4, 12), (5, 16), (6, 6)])
    assert objects == (module.Object(5, (0, 0, 4, 4)), module.Object(6, (5, 6, 8, 8)))
    assert (owner == np.select([drawn == 2, drawn == 3], [1, 2])).all()
