"""The ablation in small: whole runs against fresh models, a record that goes on, and what is refused."""

import importlib
import json
import re
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from rounding import FLOAT32
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.analysis import load_images, to_batch
from fatr_hf.baselines.macs import count_macs
from fatr_hf.training.data import load_image_data

FIELDS = {
    "image_size": 8,
    "patch_size": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 32,
    "initializer_range": 0.3,
    "id2label": {number: str(number) for number in range(10)},
    "label2id": {str(number): number for number in range(10)},
}
IMAGES = 12


@pytest.fixture
def module():
    return importlib.import_module("ablation")


@pytest.fixture
def plots():
    return importlib.import_module("ablation_plots")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(autouse=True)
def few_points(monkeypatch, module):
    monkeypatch.setattr(module, "KEEP_RATIOS", (0.1, 0.5, 1.0))
    monkeypatch.setattr(module, "FEW_KEEP_RATIOS", (0.3, 0.7))
    monkeypatch.setattr(module, "SIZE_EXPONENTS", (0.0, 0.5))


@pytest.fixture
def no_figures(monkeypatch, plots):
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: None)


def save(model, folder):
    model.double().save_pretrained(folder)  # with room for nothing but float64's rounding
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stock(folder):
    torch.manual_seed(0)
    return save(ViTForImageClassification(ViTConfig(**FIELDS)), folder / "stock")


@pytest.fixture(scope="module")
def trained(folder):
    torch.manual_seed(1)
    model = FATRViTForImageClassification(FATRViTConfig(**FIELDS, reduction_layers=[1, 2], dc_windows=[4, 2]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
                parameter.normal_(std=0.5)
    return save(model, folder / "trained")


@pytest.fixture(autouse=True)
def finished_run(few_points, module, folder, stock):
    """Many tests look at one run, whichever of them comes first in its process."""
    if not (folder / "run" / "results.md").exists():
        with pytest.MonkeyPatch.context() as monkeypatch:
            run(module, monkeypatch, stock, folder / "run")


def run(module, monkeypatch, model, output, *words):
    arguments = ["ablation.py", str(model), "--output_dir", str(output), "--images", str(IMAGES), *words]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()


def read_points(output):
    points = json.loads((output / "results.json").read_text())["points"]
    return {(point["sweep"], point["row"], point["column"]): point for point in points}


def digits(model):
    test = load_image_data("digits").test
    examples = test.select(range(0, len(test), len(test) // IMAGES))
    pixel_values = ViTImageProcessor.from_pretrained(model)(list(examples["image"]), return_tensors="pt").pixel_values
    return pixel_values, torch.tensor(examples["labels"])


@torch.no_grad()
def measure_afresh(model, reduced):
    pixel_values, labels = digits(model)
    logits = reduced.eval()(pixel_values).logits
    with reduced.reduction(False):
        reference = reduced(pixel_values).logits
    cosines = functional.cosine_similarity(logits, reference)
    return {"accuracy": (logits.argmax(dim=1) == labels).double().mean().item(), "cosine": cosines.mean().item()}


def test_a_whole_run_writes_tables_points_and_figures(module, monkeypatch, capsys, folder, stock):
    run(module, monkeypatch, stock, folder / "run")
    assert (folder / "run" / "results.md").read_text() in capsys.readouterr().out
    figures = {"layers", "windows", "selection", "selection-lines", "front"}
    for suffix in (".png", ".svg"):
        assert {path.stem for path in (folder / "run").glob(f"*{suffix}")} == figures
    points = read_points(folder / "run")
    assert {sweep for sweep, _, _ in points} == {"layers", "windows", "selection"}
    assert ("layers", "1, 2, 3", "0.5") in points
    assert ("layers", "1, 2, 3", "0.1") not in points  # the third would not shorten anything
    assert len([key for key in points if key[0] == "selection"]) == 6 * 2
    assert "ω is not swept" in (folder / "run" / "results.md").read_text()


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        (("layers", "0", "0.1"), {"reduction_layers": [0], "keep_ratio": 0.1}),
        (("layers", "1, 2, 3", "0.5"), {"keep_ratio": 0.5}),
        (("windows", "4", "0.5"), {"dc_windows": 4, "size_exponent": 0.5}),
        (("windows", "0", "0"), {"dc_windows": 0}),
        (("selection", "low_frequency", "0.3"), {"selection": "low_frequency", "keep_ratio": 0.3}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, tuple) else "",
)
def test_points_are_what_a_fresh_model_gives(folder, stock, key, fields):
    point = read_points(folder / "run")[key]
    model = FATRViTForImageClassification.from_pretrained(stock, **fields)
    assert point["qualities"] == pytest.approx(measure_afresh(stock, model), abs=FLOAT32)
    assert point["macs"] == count_macs(model)


def test_at_keep_ratio_1_the_model_is_the_stock_one(folder, stock):
    point = read_points(folder / "run")["layers", "0", "1"]
    pixel_values, labels = digits(stock)
    with torch.no_grad():
        logits = ViTForImageClassification.from_pretrained(stock).eval()(pixel_values).logits
    assert point["qualities"]["accuracy"] == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())
    assert point["qualities"]["cosine"] == pytest.approx(1)


def test_a_run_goes_on_where_it_stopped(module, monkeypatch, no_figures, capsys, folder, stock):
    path = folder / "run" / "results.json"
    before, record = path.read_text(), json.loads(path.read_text())
    removed = record["points"].pop(7)
    path.write_text(json.dumps(record))
    run(module, monkeypatch, stock, folder / "run")
    measured = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("layers,", "windows,"))]
    assert [line.split(":")[0] for line in measured] == [f"{removed['sweep']}, {removed['row']} / {removed['column']}"]
    assert json.loads(path.read_text()) == json.loads(before)


def test_trained_parameters_are_swept_where_they_fit(module, monkeypatch, no_figures, folder, trained):
    run(module, monkeypatch, trained, folder / "trained-run")
    points = read_points(folder / "trained-run")
    model = FATRViTForImageClassification.from_pretrained(trained)
    model.set_reduction(keep_ratio=0.3)
    expected = measure_afresh(trained, model)
    for key in (("selection", "high_frequency", "0.3"), ("omega", "as trained", "0.3")):
        assert points[key]["qualities"] == pytest.approx(expected, abs=FLOAT32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "omega" in name:
                parameter.zero_()
    zeroed = points["omega", "ω set to zero", "0.3"]["qualities"]
    assert zeroed == pytest.approx(measure_afresh(trained, model), abs=FLOAT32)
    assert zeroed["cosine"] != pytest.approx(expected["cosine"], abs=1e-3)
    without = FATRViTForImageClassification.from_pretrained(
        trained, reweight_attention=False, dc_position_embeddings=False
    )
    assert points["windows", "4, 2", "0"]["qualities"] == pytest.approx(measure_afresh(trained, without), abs=FLOAT32)


def write_images(folder, number):
    folder.mkdir(parents=True)
    for index in range(number):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_without_labels_and_classifier_the_cosine_alone_is_measured(module, monkeypatch, no_figures, tmp_path):
    encoder = save(ViTModel(ViTConfig(**FIELDS), add_pooling_layer=False), tmp_path / "encoder")
    images = write_images(tmp_path / "images", 9)
    run(module, monkeypatch, encoder, tmp_path / "run", "--dataset", str(images))
    points = read_points(tmp_path / "run").values()
    assert {(*point["qualities"],) for point in points} == {("cosine",)}
    assert "There is no accuracy" in (tmp_path / "run" / "results.md").read_text()


def test_the_folders_names_are_the_labels(module, monkeypatch, no_figures, tmp_path, stock):
    write_images(tmp_path / "images" / "3", 6)
    write_images(tmp_path / "images" / "7", 4)
    run(module, monkeypatch, stock, tmp_path / "run", "--dataset", str(tmp_path / "images"))
    point = read_points(tmp_path / "run")["layers", "0", "1"]
    pixel_values = to_batch(load_images(tmp_path / "images"), ViTImageProcessor.from_pretrained(stock)).pixel_values
    with torch.no_grad():
        classes = ViTForImageClassification.from_pretrained(stock).eval()(pixel_values).logits.argmax(dim=1).tolist()
    hits = sum(found == label for found, label in zip(classes, 6 * [3] + 4 * [7], strict=True))
    assert point["qualities"]["accuracy"] == pytest.approx(hits / 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "nowhere"), "nowhere does not exist: give a picture, a folder"),
        (("--images", "3"), "--images 3 must be at least 8"),
        (("--keep_ratio", "1.5"), r"keep_ratio=1.5 must lie in \(0, 1\]"),
        (("--keep_ratio", "1"), "The sweep of windows has no admissible schedule that reduces 8 x 8 patches"),
    ],
    ids=["data set", "few images", "keep ratio", "nothing reduces"],
)
def test_what_cannot_be_measured_is_refused_in_words(module, monkeypatch, tmp_path, stock, words, message):
    with pytest.raises((OSError, StrictDataclassError, ValueError), match=message):
        run(module, monkeypatch, stock, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_too_few_images_is_refused(module, monkeypatch, tmp_path, stock):
    images = write_images(tmp_path / "images", 7)
    with pytest.raises(ValueError, match="has 7 test images, and 8 are needed"):
        run(module, monkeypatch, stock, tmp_path / "run", "--dataset", str(images))


@pytest.mark.parametrize(
    ("words", "what"),
    [((), "model"), (("--images", "9"), "set of images"), (("--keep_ratio", "0.6"), "keep ratio")],
    ids=["model", "images", "keep ratio"],
)
def test_an_output_folder_holds_one_ablation(module, monkeypatch, folder, stock, trained, words, what):
    before = (folder / "run" / "results.json").read_text()
    with pytest.raises(ValueError, match=re.escape(f"{folder / 'run'} holds an ablation with another {what} (of ")):
        run(module, monkeypatch, stock if words else trained, folder / "run", *words)
    assert (folder / "run" / "results.json").read_text() == before


def test_layer_sets_lie_within_the_model(module):
    config = FATRViTConfig(num_hidden_layers=12, reduction_layers=[2, 7])
    threes = [(1, 4, 7), (3, 6, 9), (5, 8, 11)]
    assert module.layer_sets(config) == [(0,), (3,), (6,), (9,), *threes, (3, 4, 5, 6, 7, 8, 9, 10, 11), (2, 7)]
    assert module.layer_sets(FATRViTConfig(num_hidden_layers=2)) == [(0,), (1,), (0, 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [(2, "2"), ([2, 1, 1], "2, 1, 1"), ((3, 4, 5, 6), "3 to 6"), ((3, 4, 6, 7), "3, 4, 6, 7")],
    ids=["one", "windows", "in a row", "with a gap"],
)
def test_numbers_in_words(module, values, expected):
    assert module.in_words(values) == expected


def points_of(plots, costs):
    return [
        plots.Point("layers", f"{index % 3}", f"{index // 3}", "", {}, macs, {"cosine": cosine})
        for index, (macs, cosine) in enumerate(costs)
    ]


def test_the_front_holds_what_no_other_point_dominates(plots):
    costs = np.random.default_rng(0).integers(1, 12, (30, 2)).tolist()
    points = points_of(plots, [(macs, value / 12) for macs, value in costs])
    front = plots.pareto_front(points, "cosine")

    def dominates(one, other):
        cheaper, better = one.macs <= other.macs, one.qualities["cosine"] >= other.qualities["cosine"]
        return cheaper and better and (one.macs, one.qualities) != (other.macs, other.qualities)

    expected = {(p.macs, p.qualities["cosine"]) for p in points if not any(dominates(other, p) for other in points)}
    assert [(point.macs, point.qualities["cosine"]) for point in front] == sorted(expected)


def test_cells_without_a_point_are_dashes(plots):
    points = points_of(plots, [(10, 1.0), (8, 0.5), (6, 0.0), (4, -1.0)])
    table = plots.sweep_tables(points, "rows / columns", 10)
    assert [re.findall(r"[–.\d]+", line) for line in table.splitlines() if re.match(r"\| \d", line)] == [
        ["0", "0.0", "180.0"],
        ["1", "60.0", "–"],
        ["2", "90.0", "–"],
        ["0", "1.00", "0.40"],
        ["1", "0.80", "–"],
        ["2", "0.60", "–"],
    ]


def test_the_standard_error_is_the_binomial_one(plots):
    draws = np.random.default_rng(0).binomial(400, 0.9, 100_000) / 400
    assert plots.standard_error(0.9, 400) == pytest.approx(draws.std(), rel=0.01)
