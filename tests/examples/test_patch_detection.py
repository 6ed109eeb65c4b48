"""The detection head on patches of reduced encoders: targets, fit, boxes, average precision and the table."""

import importlib
import itertools
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines.rival import unreduced_copy

pytest.importorskip("pycocotools", reason="average precision needs it")

NUMBERS = {
    "--train_scenes 0": "must be at least 1",
    "--test_scenes -3": "must be at least 1",
    "--seed -1": "must not be negative",
    "--budgets 0.5 1.5": "--budgets 1.5 must lie between 0 and 1",
}


@pytest.fixture
def program():
    return importlib.import_module("patch_detection")


def scene_of(program, *objects, side=32):
    """A scene of rectangles."""
    scenes = importlib.import_module("scenes")
    picture = np.full((side, side, 3), 60, dtype=np.uint8)
    owner = np.zeros((side, side), dtype=np.uint8)
    for number, (label, (left, top, right, bottom)) in enumerate(objects, start=1):
        owner[top:bottom, left:right] = number
        picture[top:bottom, left:right] = 120 + 60 * label
    mask = np.array([0, *(1 + label for label, _ in objects)], dtype=np.uint8)[owner]
    return scenes.Scene(picture, mask, tuple(scenes.Object(*each) for each in objects), owner)


def found_of(program, *boxes):
    coordinates, scores, labels = zip(*boxes, strict=True) if boxes else ([], [], [])
    return program.Found(
        torch.tensor(coordinates, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels)
    )


def test_a_patch_is_of_the_object_that_its_middle_belongs_to(program):
    assert program.centres((2, 4), 32).tolist()[:5] == [[4, 8], [12, 8], [20, 8], [28, 8], [4, 24]]
    scene = scene_of(program, (1, (0, 0, 16, 16)), (0, (20, 20, 32, 30)))
    targets = program.patch_targets([scene], (4, 4))
    expected = [[1, 1, -1, -1], [1, 1, -1, -1], [-1, -1, -1, 0], [-1, -1, -1, 0]]
    expected[2][2] = expected[3][2] = 0  # middles at 20
    assert targets.labels.reshape(4, 4).tolist() == expected
    assert targets.boxes[0, 0].tolist() == [0, 0, 16, 16]
    assert targets.boxes[0, -1].tolist() == [20, 20, 32, 30]


def test_the_head_learns_what_patches_tell(program, monkeypatch):
    """Features that hold the label and the reach of the box in four directions."""
    monkeypatch.setattr(program, "STEPS", 400)
    generator = np.random.default_rng(0)
    scenes = []
    for _ in range(40):
        left, top = generator.integers(0, 12, size=2).tolist()
        scenes.append(scene_of(program, (int(generator.integers(2)), (left, top, left + 16, top + 18))))
    grid = (8, 8)
    targets, middles = program.patch_targets(scenes, grid), program.centres(grid, 32)
    reach = torch.cat([middles - targets.boxes[..., :2], targets.boxes[..., 2:] - middles], dim=2) / 32
    features = torch.cat([torch.nn.functional.one_hot(targets.labels + 1, 3), reach], dim=2)
    head = program.fit_head(features[:30], program.Targets(targets.labels[:30], targets.boxes[:30]), grid, 32, seed=0)
    found = program.detect(head, features[30:], grid, 32)
    assert program.precision(program.evaluate(scenes[30:], found))[1] > 95
    assert all((each.scores[:-1] >= each.scores[1:]).all() for each in found)


def test_average_precision_of_right_and_wrong_boxes(program):
    scenes = [scene_of(program, (0, (0, 0, 10, 10)), (1, (12, 12, 30, 30))), scene_of(program, (1, (2, 2, 20, 20)))]
    right = [
        found_of(program, ((0, 0, 10, 10), 0.9, 0), ((12, 12, 30, 30), 0.8, 1)),
        found_of(program, ((2, 2, 20, 20), 0.7, 1)),
    ]
    assert program.precision(program.evaluate(scenes, right)) == pytest.approx((100, 100))
    # Of class 0 nothing is found, of class 1 one of two boxes, with an IoU of 0.61, above three of ten thresholds.
    half = [found_of(program, ((12, 12, 30, 23.0), 0.9, 1)), found_of(program)]
    mean, at_half = program.precision(program.evaluate(scenes, half))
    assert at_half == pytest.approx(100 * 51 / 101 / 2)
    assert mean == pytest.approx(at_half * 3 / 10)


def test_differences_are_of_the_same_scenes(program):
    scenes = [scene_of(program, (0, (0, 0, 10, 10))) for _ in range(4)]
    hit, miss = found_of(program, ((0, 0, 10, 10), 0.9, 0)), found_of(program, ((20, 20, 30, 30), 0.9, 0))
    right, wrong = program.evaluate(scenes, [hit] * 4), program.evaluate(scenes, [miss] * 4)
    assert program.difference(right, right) == "+0.0 (+0.0 to +0.0)"
    assert program.difference(wrong, right) == "-100.0 (-100.0 to -100.0)"
    mixed = program.evaluate(scenes, [hit, hit, miss, hit])
    assert program.precision(mixed, [2, 2, 2, 2]) == (0, 0)
    assert program.precision(mixed, [0, 1, 3, 3]) == pytest.approx((100, 100))
    assert program.precision(mixed)[0] < 100  # drawing has left it as it was


@pytest.mark.parametrize("options", [[], ["--own_heads"]], ids=["one head", "own heads"])
def test_the_program_prints_the_table(program, stock_folder, tmp_path, monkeypatch, capsys, options):
    scenes = importlib.import_module("scenes")
    square = np.full((28, 28), 255, dtype=np.uint8)

    class Items(list):
        def __getitem__(self, place):
            return [1, 0] if place == "label" else super().__getitem__(place)

    items = Items({"image": PIL.Image.fromarray(square), "label": label} for label in (1, 0))
    sources = scenes.Sources(items, [np.full((40, 40, 3), 100, dtype=np.uint8)])
    monkeypatch.setattr(program, "read_sources", lambda folder: {"train": sources, "test": sources})
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    model = FATRViTForImageClassification(FATRViTConfig(**size, image_size=32, patch_size=4, num_labels=5)).eval()
    plans = importlib.import_module("task_arms").plans_of(unreduced_copy(model), [0.7])
    monkeypatch.setattr(program, "plans_of", lambda twin, budgets: dict(itertools.islice(plans.items(), 3)))
    for name, value in {"STEPS": 5, "DRAWS": 4}.items():
        monkeypatch.setattr(program, name, value)
    words = [str(stock_folder), str(tmp_path), "--budgets", "0.7", "--train_scenes", "9", "--test_scenes", "9"]
    words += options
    monkeypatch.setattr(sys, "argv", ["patch_detection.py", *words])
    program.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == (2 + 3) * (1 + len(options))
    if options:  # the unreduced head is its own
        assert rows[2] == rows[7]
    assert rows[2].startswith("| 1 | no reduction | 1.00 | ")
    assert "| – |" in rows[2]
    assert {row.count("|") for row in rows} == {7}


@pytest.mark.parametrize("words", NUMBERS)
def test_numbers_out_of_range_are_refused(program, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["patch_detection.py", "m", "items", *words.split()])
    with pytest.raises(SystemExit):
        program.main()
    printed = capsys.readouterr().err
    assert words.split()[0] in printed
    assert NUMBERS[words] in printed
