"""A classifier on the CLS tokens of an encoder that stays as it is."""

import importlib
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from fatr_hf import FATRViTForImageClassification

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


@pytest.fixture
def probe():
    return importlib.import_module("linear_probe")


def write_images(folder, classes, images):
    """Pictures of one colour by class, with noise."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        for number in range(images):
            path = folder / f"class-{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.normal(60 * label + 40, 20, (16, 16, 3)).clip(0, 255)
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_reads_what_the_encoder_gives(probe, tmp_path, monkeypatch, capsys, classes):
    torch.manual_seed(0)
    encoder = ViTModel(ViTConfig(**SIZE, image_size=16, patch_size=4), add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "encoder")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "encoder")
    write_images(tmp_path / "images", classes, 20)
    words = [str(tmp_path / name) for name in ("encoder", "images", "probe")]
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", *words, "--train_images", "30", "--regularisation", "0.1"])
    probe.main()
    printed = capsys.readouterr().out
    assert "30 training images, of which 100.0% are classified" in printed
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("encoder", "probe"))
    assert all(torch.equal(after[f"vit.{name}"], tensor) for name, tensor in before.items())
    model = ViTForImageClassification.from_pretrained(tmp_path / "probe").eval()
    assert model.config.id2label == {label: f"class-{label}" for label in range(classes)}
    processor = ViTImageProcessor.from_pretrained(tmp_path / "probe")
    pictures = [PIL.Image.open(tmp_path / "images" / f"class-{label}" / "0.png") for label in range(classes)]
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    assert model(pixel_values).logits.argmax(dim=1).tolist() == list(range(classes))
    fatr = FATRViTForImageClassification.from_pretrained(tmp_path / "probe").eval()
    with fatr.reduction(False), torch.no_grad():
        assert_rounded_alike(fatr.double()(pixel_values).logits, model.double()(pixel_values).logits)


ENCODERS = {
    "Dinov2": lambda: Dinov2Model(Dinov2Config(**{**DINO, "image_size": 64}, mlp_ratio=2)),
    "Siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SIZE, image_size=16, patch_size=4)),
}


@pytest.mark.parametrize("family", ENCODERS)
def test_other_families_get_a_classifier_of_what_theirs_reads(probe, tmp_path, monkeypatch, family):
    """DINOv2's reads CLS beside the mean of the patches, SigLIP's the mean alone, at the size of the images."""
    torch.manual_seed(0)
    ENCODERS[family]().save_pretrained(tmp_path / "encoder")
    size = {"height": 16, "width": 16}
    processor = BitImageProcessor(size={"shortest_edge": 16}, crop_size=size, do_center_crop=True)
    (processor if family == "Dinov2" else ViTImageProcessor(size=size)).save_pretrained(tmp_path / "encoder")
    write_images(tmp_path / "images", 3, 20)
    words = [str(tmp_path / name) for name in ("encoder", "images", "probe")]
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", *words, "--regularisation", "0.1"])
    probe.main()
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "probe").eval()
    assert model.config.image_size == 16
    assert type(model).__name__.removeprefix("FATR") == f"{family}ForImageClassification"
    pictures = [PIL.Image.open(tmp_path / "images" / f"class-{label}" / "0.png") for label in range(3)]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "probe")
    assert model(processor(pictures, return_tensors="pt")["pixel_values"]).logits.argmax(dim=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [2, 4])
def test_the_fit_is_scikit_learns(probe, classes):
    """Probabilities are those of the regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    labels = np.arange(80) % classes
    features = generator.normal(size=(80, 5)) * [1, 2, 3, 4, 50] + 3 * labels[:, None]
    weight, bias = probe.fit(features, labels, classes, 10.0)
    logits = torch.from_numpy(features @ weight.T + bias)
    scaled = StandardScaler().fit_transform(features)
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), expected, atol=1e-6)


def test_a_class_without_images_is_refused(probe):
    with pytest.raises(ValueError, match="--train_images 4 leaves class 2 without an image"):
        probe.fit(np.zeros((4, 3)), np.array([0, 1, 0, 1]), 3, 1.0)


@pytest.mark.parametrize("words", ["--train_images 0", "--train_images -5", "--batch_size 0", "--regularisation 0"])
def test_numbers_that_are_not_positive_are_refused(probe, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", "encoder", "images", "probe", *words.split()])
    with pytest.raises(SystemExit):
        probe.main()
    assert f"{words.split()[0]} {float(words.split()[1]):g}" in capsys.readouterr().err.replace(".0 must", " must")


def test_a_folder_with_files_is_left_alone(probe, tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", "encoder", "images", str(tmp_path)])
    with pytest.raises(FileExistsError, match="is there already"):
        probe.main()
    assert (tmp_path / "precious").read_text() == "mine"
