"""Exported files compute what the model computes, without this package, or are not kept."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor

PAGE = Path(__file__).parents[2] / "docs" / "export.md"

GRID = {"image_size": [20, 28], "patch_size": 4, "num_hidden_layers": 2, "reduction_layers": [0, 1]}
"""5 x 7 patches."""

FILES = [
    "config.json",
    "model-aoti.pt2",
    "model.pt2",
    "onnx/model.onnx",
    "openvino/openvino_model.bin",
    "openvino/openvino_model.xml",
    "preprocessor_config.json",
]

FLOAT_FORMATS = ("onnx", "openvino", "pt2", "aoti")


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


@pytest.fixture
def pictures(tmp_path):
    """A folder of 40 pictures, coarse and fine ones."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        size = 2 + number % 8
        picture = PIL.Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
        picture.resize((28, 20)).save(folder / f"{number}.png")
    return folder


def run(module, monkeypatch, model, output, *words):
    arguments = ["export.py", "--model", str(model), "--output", str(output), *words]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()


def functions_of_the_documentation():
    """What docs/export.md loads the files with."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    return names


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_all_formats_give_the_models_logits_for_any_batch(module, saved, tmp_path, monkeypatch, capsys):
    model, folder = saved
    output = tmp_path / "new" / "exported"
    run(module, monkeypatch, folder, output, "--format", *FLOAT_FORMATS)
    assert files_below(output) == FILES
    assert [path.name for path in output.parent.iterdir()] == ["exported"]
    documented = functions_of_the_documentation()
    runtimes = {name: documented[f"load_{name}"](output) for name in FLOAT_FORMATS}
    for batch_size in (1, 3, 6):
        images = torch.randn(batch_size, 3, 20, 28)
        expected = model(images).logits.detach()
        for name, classify in runtimes.items():
            assert_rounded_alike(torch.as_tensor(classify(images)), expected, msg=name)
    assert len(re.findall(r"largest error of a logit \d\.\de[-+]\d\d", capsys.readouterr().out)) == 4

    picture = PIL.Image.fromarray(np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3))
    pixel_values = ViTImageProcessor(size={"height": 20, "width": 28})(picture, return_tensors="pt")["pixel_values"]
    label = f"class {model(pixel_values).logits.argmax()}"
    for name in runtimes:
        assert documented["classify"](documented[f"load_{name}"], output, [picture]) == [label]
    # Whoever loads them does not have operators of this package.
    graph = torch.export.load(output / "model.pt2").graph
    targets = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert {target.namespace for target in targets} == {"aten"}


def test_the_configuration_tells_the_reduction_and_loads_no_model(module, saved, tmp_path):
    model, _ = saved
    module.write_config(model, ["onnx"], tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.exported_model_type) == ("vit", "fatr_vit")
    assert config.id2label == {number: f"class {number}" for number in range(5)}
    assert config.label2id == {f"class {number}": number for number in range(5)}
    assert (config.image_size, config.patch_size, config.hidden_size) == ([20, 28], 4, 32)
    assert (config.reduction_layers, config.keep_ratio, config.dc_windows) == ([0, 1], 0.7, [2, 1])
    assert config.tokens == [layer.tokens_out for layer in model.config.plan()]
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        (["onnx", "pt2"], {"dtype": "fp32"}),
        (["onnx-int8"], {"dtype": "q8"}),
        (["onnx", "onnx-int8"], None),
        (["pt2"], None),
    ],
    ids=["float", "int8", "both", "none"],
)
def test_transformers_js_is_told_of_an_only_graph(module, saved, tmp_path, formats, expected):
    module.write_config(saved[0], formats, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("transformers.js_config") == expected


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8_files_keep_most_predictions(module, saved, pictures, tmp_path, monkeypatch, capsys, runtime):
    model, folder = saved
    output = tmp_path / "exported"
    calibration = ["--calibration", str(pictures), "--calibration_images", "16"]
    run(module, monkeypatch, folder, output, "--format", runtime, f"{runtime}-int8", *calibration)
    line = r"quantized.*: .* MB, (\d\.\d{3}) of 24 predictions stay, cosine of logits (\d\.\d{4}), relative error"
    [(same, cosine)] = re.findall(line, capsys.readouterr().out)
    assert float(same) >= 0.9
    assert float(cosine) > 0.99
    file = output / module.FORMATS[f"{runtime}-int8"].file
    images = torch.randn(3, 3, 20, 28)
    logits = torch.as_tensor(functions_of_the_documentation()[f"load_{runtime}"](output, file.name)(images))
    assert_rounded_alike(logits, module.FORMATS[runtime].load(file)(images))
    assert (logits - model(images).logits.detach()).abs().max() > 1e-4


def test_int8_that_loses_predictions_is_refused_and_leaves_nothing(module, saved, pictures, tmp_path, monkeypatch):
    flat = tmp_path / "flat"
    flat.mkdir()
    PIL.Image.new("RGB", (28, 20), "grey").save(flat / "grey.png")
    output = tmp_path / "new" / "exported"
    words = ["--format", "onnx-int8", "--calibration", str(flat), "--held_out", str(pictures)]
    with pytest.raises(
        ValueError, match=r"model_quantized\.onnx: 0\.\d+ of 40 predictions stay.*--least_agreement is 1\.0"
    ):
        run(module, monkeypatch, saved[1], output, *words, "--least_agreement", "1")
    assert list(output.parent.iterdir()) == []


def test_the_benchmark_compares_with_the_unreduced_model(module, saved, pictures, tmp_path, monkeypatch, capsys):
    words = ["--format", "onnx-int8", "--calibration", str(pictures), "--calibration_images", "16", "--benchmark"]
    run(module, monkeypatch, saved[1], tmp_path / "exported", *words, "--batch_size", "1", "2", "--rounds", "1")
    cells = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    [head, *rows] = cells
    timed = [words for size in (1, 2) for words in (f"batch {size}, ms", "over unreduced", "over eager")]
    assert head == ["runtime", "model", "same predictions", "cosine of logits", *timed]
    assert [row[:2] for row in rows] == [
        ["eager", "unreduced"],
        ["eager", "reduced"],
        ["eager, fused", "unreduced"],
        ["eager, fused", "reduced"],
        ["onnx", "unreduced"],
        ["onnx", "reduced"],
        ["onnx", "int8"],
        ["onnx", "reduced, int8"],
    ]
    found = {tuple(row[:2]): row[2:4] for row in rows}
    assert found["onnx", "unreduced"] == found["eager", "unreduced"] == ["1.000", "1.0000"]
    assert found["onnx", "reduced"] == found["eager", "reduced"] != ["1.000", "1.0000"]
    assert float(found["onnx", "int8"][1]) > float(found["onnx", "reduced, int8"][1])
    assert [row[5] for row in rows if row[1] == "unreduced"] == ["1.00"] * 3
    assert [row[6] for row in rows if row[0] == "eager"] == ["1.00"] * 2


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
        (["--batch_size", "8", "0"], "--batch_size [8, 0] must be at least 1"),
        (["--keep_ratio", "0.5", "--macs", "1e6"], "--keep_ratio and --macs both choose"),
        (["--preset", "faithful"], "is reduced already: a preset is for a checkpoint that is not"),
        (["--calibration_images", "0"], "--calibration_images 0 must be at least 1"),
        (["--least_agreement", "90"], "--least_agreement 90.0 must be from 0 to 1"),
        (["--calibration", "."], "--calibration . is for the formats in int8"),
        (["--held_out", "."], "--held_out . is for the formats in int8 and for --benchmark"),
        (["--held_out", "./nowhere", "--benchmark"], "nowhere is no folder of pictures"),
        (["--format", "onnx-int8"], "--format onnx-int8 needs --calibration"),
        (["--format", "onnx-int8", "--calibration", "PICTURES"], "of which --calibration_images 256 leaves none"),
    ],
    ids=[
        "rounds",
        "batch",
        "two-budgets",
        "preset",
        "images",
        "agreement",
        "calibration",
        "held-out",
        "nowhere",
        "no-calibration",
        "too-few",
    ],
)
def test_bad_options_are_refused_in_words(module, saved, pictures, tmp_path, monkeypatch, words, message):
    words = [str(pictures) if word == "PICTURES" else word for word in words]
    with pytest.raises((FileNotFoundError, ValueError), match=re.escape(message)):
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
