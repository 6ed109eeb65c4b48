"""The linear head on patches of reduced encoders: features, fit, scores and the table."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from fatr_hf.baselines.macs import plan_macs
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.modeling import restore_tokens, schedule_macs

NUMBERS = {
    "--train_scenes 0": "must be at least 1",
    "--test_scenes -3": "must be at least 1",
    "--decay -1": "must not be negative",
    "--seed -1": "must not be negative",
    "--budgets 0.5 1.5": "--budgets 1.5 must lie between 0 and 1",
}


@pytest.fixture
def program():
    return importlib.import_module("segmentation")


@pytest.fixture
def twin(make_fatr):
    return unreduced_copy(make_fatr())


@pytest.fixture(scope="module")
def plans():
    """Those of all arms for models as large as ``twin``."""
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    model = FATRViTForImageClassification(FATRViTConfig(**size, image_size=32, patch_size=4, num_labels=5)).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "examples")
        return importlib.import_module("task_arms").plans_of(unreduced_copy(model), [0.7, 0.58])


def test_every_arm_is_within_its_budget_or_matches_it(twin, plans):
    assert len(plans) == 1 + 2 * 7
    whole = schedule_macs(twin.config)
    for (budget, name), plan in plans.items():
        assert any(step.reduces for step in plan) == (name != "no reduction")
        share = plan_macs(twin, plan) / whole
        assert share == pytest.approx(budget, abs=0.06)  # a token of 64 is much
        assert share <= budget or not name.startswith("FATR")
    local = [name for _, name in plans if name.startswith("FATR, `local`")]
    assert local == ["FATR, `local`", "FATR, `local`, windows of 4 patches a side"]


def test_one_pass_gives_what_restoring_and_dense_outputs_give(program, twin, plans, pixel_values):
    twin.double()
    pixel_values = pixel_values.double()
    dense = FATRViTModel(type(twin.config).from_dict(twin.config.to_dict(), dense_outputs=True)).double().eval()
    dense.load_state_dict(twin.base_model.state_dict(), strict=False)
    with torch.no_grad():
        for name, plan in plans.items():
            restored, with_residual = program.patch_features(twin, pixel_values, plan)
            outputs = twin.base_model(pixel_values, plan=plan, output_token_sources=True)
            expected = outputs.last_hidden_state[:, 1:]
            if outputs.token_sources:
                expected = restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1])
            assert_rounded_alike(restored, expected)
            assert_rounded_alike(with_residual, dense(pixel_values, plan=plan).last_hidden_state[:, 1:])
            assert torch.equal(restored, with_residual) == (name[1] == "no reduction")


def test_pictures_are_taken_as_large_as_they_are(program, twin):
    from transformers import BitImageProcessor

    processor = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    generator = np.random.default_rng(0)
    scenes = [
        program.Scene(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8), np.full((32, 32), number, np.uint8))
        for number in range(10)
    ]
    (first, _), (second, masks) = program.batches(twin, processor, scenes)
    assert (len(first), len(second)) == (8, 2)
    mean, deviation = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    expected = (torch.from_numpy(scenes[9].picture) / 255 - mean) / deviation
    assert_rounded_alike(second[1].movedim(0, 2), expected)
    assert masks[1].unique().tolist() == [9]


def test_the_head_is_scikit_learns_regression(program):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = generator.normal(size=(90, 5)) * [1, 2, 3, 4, 50] + 2 * labels[:, None]
    scaled = StandardScaler().fit_transform(features) * np.sqrt(89 / 90)  # by the deviation with n - 1
    decay = 1e-2
    regression = LogisticRegression(C=1 / (2 * decay * 90), tol=1e-10, max_iter=1000).fit(scaled, labels)
    head = program.fit_head(
        torch.from_numpy(features).float(), torch.nn.functional.one_hot(torch.from_numpy(labels)).float(), decay
    )
    found = head(torch.from_numpy(features).float()).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, regression.predict_proba(scaled), atol=1e-3)


def test_pixels_are_counted_by_class_and_prediction(program):
    masks = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [1, 0]]])
    predicted = torch.tensor([[[0, 2], [2, 2]], [[1, 1], [0, 0]]])
    logits = torch.nn.functional.one_hot(predicted, 3).flatten(1, 2).float()
    counts = program.confusions(logits, masks, (2, 2))
    assert counts.tolist() == [[[1, 0, 0], [0, 0, 1], [0, 0, 2]], [[1, 0, 0], [1, 2, 0], [0, 0, 0]]]
    shares = [2 / 3, 2 / 4, 2 / 3]
    assert program.mean_iou(counts.sum(axis=0)) == pytest.approx(100 * np.mean(shares))
    assert program.mean_iou(counts)[1] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)  # the third class is nowhere
    assert program.accuracy(counts) == pytest.approx(100 * 6 / 8)


def test_differences_are_of_the_same_scenes(program):
    """Of arms that are right and wrong in the same way in every scene the difference has no spread."""
    right = np.tile(np.diag([6, 2]), (5, 1, 1))
    wrong = np.tile([[6, 0], [2, 0]], (5, 1, 1))
    assert program.difference(right, right) == "+0.0 (+0.0 to +0.0)"
    assert program.difference(wrong, right) == "-62.5 (-62.5 to -62.5)"
    mixed = np.concatenate([right[:3], wrong[:2]])
    low, high = program.difference(mixed, right).split(" (")[1].rstrip(")").split(" to ")
    assert float(low) < -20 < float(high) <= 0


def test_the_program_prints_the_table(program, plans, stock_folder, tmp_path, monkeypatch, capsys):
    scenes = importlib.import_module("scenes")
    square = np.full((28, 28), 255, dtype=np.uint8)

    class Items(list):
        def __getitem__(self, place):
            return [1, 0] if place == "label" else super().__getitem__(place)

    items = Items({"image": PIL.Image.fromarray(square), "label": label} for label in (1, 0))
    sources = scenes.Sources(items, [np.full((40, 40, 3), 100, dtype=np.uint8)])
    monkeypatch.setattr(program, "read_sources", lambda folder: {"train": sources, "test": sources})
    chosen = dict(itertools.islice(plans.items(), 3))
    monkeypatch.setattr(program, "plans_of", lambda twin, budgets: chosen if budgets == [0.7] else {})
    words = [str(stock_folder), str(tmp_path), "--budgets", "0.7", "--train_scenes", "3", "--test_scenes", "9"]
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *words])
    program.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert rows[2].startswith("| 1 | no reduction | 1.00 | ")
    assert rows[2].count("+0.0 (+0.0 to +0.0)") == 3
    assert {row.count("|") for row in rows} == {11}


@pytest.mark.parametrize("words", NUMBERS)
def test_numbers_out_of_range_are_refused(program, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["segmentation.py", "m", "items", *words.split()])
    with pytest.raises(SystemExit):
        program.main()
    printed = capsys.readouterr().err
    assert words.split()[0] in printed
    assert NUMBERS[words] in printed
