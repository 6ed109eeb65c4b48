"""Exported files compute what the model computes, without this package, or are not kept."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"

GRID = {"image_size": [20, 28], "patch_size": 4, "num_hidden_layers": 2, "reduction_layers": [0, 1]}
"""5 x 7 patches."""

FILES = ["labels.json", "model-aoti.pt2", "model.onnx", "model.pt2", "preprocessor_config.json"]


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("export")


@pytest.fixture
def saved(make_fatr, tmp_path):
    """A classifier on an odd grid, whose scores lie too far apart for rounding to reorder them, and its folder."""
    names = {number: f"class {number}" for number in range(5)}
    model = make_fatr(**GRID, dc_windows=[2, 1], id2label=names, initializer_range=0.3)
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 20, "width": 28}).save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def run(module, monkeypatch, model, output, *words):
    arguments = ["export.py", "--model", str(model), "--output", str(output), *words]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()


def functions_of_the_documentation():
    """What docs/serving.md loads the files with."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    return names


def test_all_formats_give_the_models_logits_for_any_batch(module, saved, tmp_path, monkeypatch, capsys):
    model, folder = saved
    output = tmp_path / "new" / "exported"
    words = ["--format", "onnx", "pt2", "aoti", "--benchmark", "--batch_size", "2", "--rounds", "1"]
    run(module, monkeypatch, folder, output, *words)
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert [path.name for path in output.parent.iterdir()] == ["exported"]
    documented = functions_of_the_documentation()
    runtimes = {name: documented[f"load_{name}"](output) for name in ("onnx", "pt2", "aoti")}
    for batch_size in (1, 3, 6):
        images = torch.randn(batch_size, 3, 20, 28)
        expected = model(images).logits.detach()
        for name, classify in runtimes.items():
            assert_rounded_alike(torch.as_tensor(classify(images)), expected, msg=name)
    printed = capsys.readouterr().out
    assert len(re.findall(r"largest error of a logit \d\.\de[-+]\d\d", printed)) == 3
    assert re.findall(r"^\| (.+?) \|", printed, re.MULTILINE)[1:] == ["eager", "eager, fused", "onnx", "pt2", "aoti"]

    picture = PIL.Image.fromarray(np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3))
    pixel_values = ViTImageProcessor(size={"height": 20, "width": 28})(picture, return_tensors="pt")["pixel_values"]
    label = f"class {model(pixel_values).logits.argmax()}"
    for name in runtimes:
        assert documented["classify"](documented[f"load_{name}"], output, [picture]) == [label]
    # Whoever loads them does not have operators of this package.
    graph = torch.export.load(output / "model.pt2").graph
    targets = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert {target.namespace for target in targets} == {"aten"}


def test_a_file_that_differs_is_refused_and_leaves_nothing(module, saved, tmp_path, monkeypatch):
    _, folder = saved
    output = tmp_path / "new" / "exported"
    with pytest.raises(ValueError, match=r"model\.pt2 differs from the model by .*, and --tolerance is -1\.0"):
        run(module, monkeypatch, folder, output, "--format", "pt2", "--tolerance", "-1")
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds 0 must be at least 1"),
        (["--batch_size", "8", "0"], "--batch_size [8, 0] and"),
        (["--keep_ratio", "0.5", "--macs", "1e6"], "--keep_ratio and --macs both choose"),
    ],
    ids=["rounds", "batch", "two-budgets"],
)
def test_bad_options_are_refused_in_words(module, saved, tmp_path, monkeypatch, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(module, monkeypatch, saved[1], tmp_path / "exported", "--format", "pt2", *words)


def test_a_folder_that_holds_something_is_left_alone(module, saved, monkeypatch):
    _, folder = saved
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        run(module, monkeypatch, folder, folder, "--format", "pt2")
    assert sorted(folder.iterdir()) == before


def test_an_encoder_is_refused(module, saved, tmp_path, monkeypatch):
    model, folder = saved
    model.vit.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    with pytest.raises(ValueError, match="has no classifier"):
        run(module, monkeypatch, tmp_path / "encoder", tmp_path / "exported", "--format", "pt2")
