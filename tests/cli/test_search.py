"""`fatr-hf search`: what it prints and writes, that it goes on, and what it refuses."""

import json

import numpy as np
import PIL.Image
import pytest
from transformers import AutoModelForImageClassification

from fatr_hf.analysis.schedule import Schedule
from fatr_hf.analysis.schedule_search import rivals
from fatr_hf.analysis.schedule_search.result import SearchResult

FEW = ["--trials", 3, "--macs-range", "0.4,0.95", "--batch-size", 4]


@pytest.fixture
def images(tmp_path):
    """Six pictures of two classes of the model's."""
    generator = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "images" / f"LABEL_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_front_figure_json_and_model(invoke, stock_folder, images, tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "RIVAL_RATIOS", (0.5,))
    plot, found, output = tmp_path / "search.svg", tmp_path / "search.json", tmp_path / "searched"
    outputs = ["--plot", plot, "--json", found, "--best-at", 0.9, "--check", images, "--write", output]
    result = invoke("search", stock_folder, images, *FEW, *outputs)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "| trial | multiply-accumulates | accuracy |" in result.stdout
    assert "On 6 other images, accuracy" in result.stdout
    assert "over 2 groups" in result.stdout
    assert plot.read_text().startswith("<?xml")
    values = json.loads(found.read_text())
    best = Schedule.from_fields(values["best"]["fields"])
    assert f"keep_ratio={list(best.keep_ratio)}" in result.stdout
    assert {point["name"] for point in values["rivals"]} == {"tome", "evit", "random", "pooling"}
    assert values["check"]["rival"] == "tome"
    model = AutoModelForImageClassification.from_pretrained(output, trust_remote_code=True)
    assert Schedule.of(model.config) == best


def test_the_same_command_goes_on(invoke, stock_folder, images, tmp_path):
    study, found = tmp_path / "study.sqlite", tmp_path / "search.json"
    for trials in (2, 3):
        options = [*FEW, "--trials", trials, "--quality", "cosine", "--study", study, "--json", found]
        assert invoke("search", stock_folder, images, *options).exit_code == 0
    values = json.loads(found.read_text())
    numbers = [trial["number"] for trial in values["trials"] + values["pruned"]]
    assert sorted(numbers) == [0, 1, 2]
    kept = {name: value for name, value in values.items() if name != "model"}
    assert SearchResult.from_dict(kept).quality == "cosine"


def test_crops_of_pictures(invoke, stock_folder, images):
    result = invoke("search", stock_folder, images, *FEW, "--crops", 2, "--limit", 4, "--one-per-range")
    assert result.exit_code == 0, result.stderr
    assert "on 8 images" in result.stdout


def test_a_fatr_model_is_searched_within_its_own_schedule(invoke, make_fatr, stock_folder, images, tmp_path):
    folder = tmp_path / "fatr"
    make_fatr(reduction_layers=[0, 2], dc_windows=[2, 1]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((stock_folder / "preprocessor_config.json").read_bytes())
    result = invoke("search", folder, images, *FEW)
    assert result.exit_code == 0, result.stderr
    assert "only its own layers and windows are searched" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--objective", "watts"], "objective='watts' must be one of macs, latency"),
        (["--quality", "beauty"], "Unknown quality 'beauty'"),
        (["--windows", "8"], "No schedule of this search can be carried out on 8 x 8 patches"),
        (["--windows", "two"], "'two' is no list of windows"),
        (["--macs-range", "0.9"], "macs_range=[0.9] must be two rising numbers"),
        (["--check", "photographs"], "--check and --write are for the schedule that --best-at chooses"),
        (["--best-at", 0.001], "--best-at 0.001 is below the schedules that are tried: they cost at least 0.4"),
        (["--best-at", 0.4, "--macs-range", "0.5,0.6"], "they cost at least 0.5"),
        (["--plot", "search.txt"], "must end in one of"),
        (["--json", "no/such/folder/search.json"], "there is no folder"),
        (["--check", "no-such-folder", "--best-at", 0.9], "no-such-folder does not exist"),
    ],
    ids=lambda value: " ".join(str(each) for each in value[:1]) if isinstance(value, list) else "",
)
def test_bad_options_are_refused(invoke, stock_folder, images, options, words):
    result = invoke("search", stock_folder, images, *FEW, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert words in result.stderr


def test_a_file_that_is_no_study_is_refused(refused, stock_folder, images, tmp_path):
    (tmp_path / "study.sqlite").write_text("no study")
    assert "study.sqlite cannot be used as the file of a search" in refused(
        "search", stock_folder, images, "--study", tmp_path / "study.sqlite"
    )


def test_a_model_is_not_written_over_another(refused, stock_folder, images):
    words = refused("search", stock_folder, images, "--best-at", 0.9, "--write", stock_folder)
    assert "is there already" in words


def test_a_fatr_model_is_not_written_anew(refused, fatr_folder, images, tmp_path):
    words = refused("search", fatr_folder, images, "--best-at", 0.9, "--write", tmp_path / "new")
    assert "--write makes a FATR model of an unreduced one" in words


def test_a_model_without_image_processor_is_refused(refused, fatr_folder, images):
    assert "has no image processor" in refused("search", fatr_folder, images)
