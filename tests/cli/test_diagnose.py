"""`fatr-hf diagnose`: a page of any ViT on any folder of pictures, and what it refuses."""

import json
import sys

import numpy as np
import PIL.Image
import pytest
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from fatr_hf.analysis.diagnosis.result import Diagnosis


@pytest.fixture
def pictures(tmp_path):
    """Two classes of two pictures."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def cats_and_dogs(tiny, tmp_path):
    """A stock ViT that tells cats from dogs."""
    folder = tmp_path / "model"
    config = ViTConfig(**tiny, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_prints_the_page_and_writes_its_files(invoke, cats_and_dogs, pictures, tmp_path):
    html, values = tmp_path / "page.html", tmp_path / "values.json"
    arguments = ("--keep-ratio", "0.5", "--batch-size", "3", "--html", html, "--json", values)
    result = invoke("diagnose", cats_and_dogs, pictures, *arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"# Diagnosis of {cats_and_dogs}\n\n4 images of {pictures}, 8 x 8 patches.")
    assert "## Unsure: Too few images for a verdict" in result.stdout
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    found = json.loads(values.read_text())
    assert found.pop("model") == str(cats_and_dogs)
    assert found.pop("images_of") == str(pictures)
    assert found.pop("findings")[0]["severity"] == "unsure"
    diagnosis = Diagnosis.from_dict(found)
    assert diagnosis.reduction["keep_ratio"] == 0.5
    assert "accuracy_lost" in diagnosis.answers


def test_needs_no_matplotlib(invoke, cats_and_dogs, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("diagnose", cats_and_dogs, pictures, "--limit", "1", "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].startswith("1 image of")
    assert (tmp_path / "page.html").exists()


def test_a_reduced_model_keeps_its_reduction(invoke, make_fatr, pictures, tmp_path):
    make_fatr(reduction_layers=[1, 3], keep_ratio=0.6).save_pretrained(tmp_path / "fatr")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "fatr")
    result = invoke("diagnose", tmp_path / "fatr", pictures, "--limit", "1")
    assert result.exit_code == 0
    assert "in layers 1, 3 (of 4, counted from 0). Keep ratio 0.6" in result.stdout
    assert "Accuracy is not known" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep-ratio", "1"), "reduces nothing"),
        (("--keep-ratio", "2"), "keep_ratio=2.0 must lie in (0, 1]"),
        (("--html", "no/such/folder/page.html"), "there is no folder no/such/folder"),
        (("--json", "no/such/folder/values.json"), "there is no folder no/such/folder"),
        (("--device", "abacus"), "abacus"),
    ],
    ids=["no-reduction", "keep-ratio", "html", "json", "device"],
)
def test_bad_options_are_refused(refused, cats_and_dogs, pictures, arguments, words):
    assert words in refused("diagnose", cats_and_dogs, pictures, *arguments)


def test_a_folder_without_pictures_is_refused(refused, cats_and_dogs, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused("diagnose", cats_and_dogs, tmp_path / "empty")
