"""finetune.py on data and checkpoints that fit each other or do not, in this process, proofs included."""

import importlib
import json
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fatr_hf.hub.errors import ProofError
from fatr_hf.training.classifier_heads import class_fields
from fatr_hf.training.data import load_image_data

COLOURS = {"cat": (200, 40, 40), "dog": (40, 40, 200), "owl": (40, 200, 40)}


@pytest.fixture
def finetune():
    return importlib.import_module("finetune")


@pytest.fixture
def proofs(finetune, monkeypatch):
    """Folders that were proved, by this process, whose package is the folder's code."""
    folders = []

    def classify(folder, images, device):
        folders.append(folder)
        model = AutoModelForImageClassification.from_pretrained(folder)
        return finetune.predict_classes(model, AutoImageProcessor.from_pretrained(folder), images)

    monkeypatch.setattr(finetune, "classify_without_package", classify)
    return folders


def write_pictures(folder, names=("cat", "dog"), count=8, grey=False):
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.clip(np.array(COLOURS[name]) + noise.integers(-30, 30, (32, 32, 3)), 0, 255)
                picture = PIL.Image.fromarray(pixels.astype(np.uint8))
                (picture.convert("L") if grey else picture).save(folder / split / name / f"{number}.png")
    return folder


def write_checkpoint(folder, names=("cat", "dog"), image_size=32, processor=None, **fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}
    config = ViTConfig(image_size=image_size, patch_size=8, **sizes, **class_fields(names), **fields)
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    (processor or ViTImageProcessor(size=size)).save_pretrained(folder)
    return model


@pytest.fixture
def run(finetune, proofs, monkeypatch, tmp_path):
    """Runs finetune.py; gives the output folder."""

    def start(*options, dataset="data", model="checkpoint", epochs=1):
        words = ["--dataset", tmp_path / dataset, "--model_name_or_path", tmp_path / model, "--use_cpu", "true"]
        words += ["--preset", "digits", "--output_dir", tmp_path / "out", "--num_train_epochs", epochs]
        words += ["--per_device_train_batch_size", 4, "--disable_tqdm", "true", *options]
        monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, words)])
        finetune.main()
        return tmp_path / "out"

    return start


def results(folder):
    return json.loads((folder / "results.json").read_text())


# Classes


@pytest.fixture
def fetch(tmp_path):
    """The base that a checkpoint becomes for the images in ``data``, with what is said of its classifier."""

    def fetched(teaches=True, **arguments):
        options = importlib.import_module("finetune_arguments").ModelArguments(
            str(tmp_path / "checkpoint"), **arguments
        )
        data = load_image_data(str(tmp_path / "data"))
        base, _, words = importlib.import_module("finetune_base").fetch_base(options, data, teaches)
        return base, words

    return fetched


def test_a_classifier_in_another_order_is_found_by_name(fetch, tmp_path):
    write_pictures(tmp_path / "data")
    model = write_checkpoint(tmp_path / "checkpoint", ["dog", "cat"])
    base, words = fetch()
    assert words.endswith("its classifier is put in the order of the classes of data.")
    assert torch.equal(base.classifier.weight, model.classifier.weight[[1, 0]])
    assert base.config.id2label == {0: "cat", 1: "dog"}


def test_a_classifier_without_names_is_kept_and_it_is_said(fetch, tmp_path):
    write_pictures(tmp_path / "data")
    model = write_checkpoint(tmp_path / "checkpoint", ["LABEL_0", "LABEL_1"])
    base, words = fetch()
    assert "Its class numbers are taken to be those of data" in words
    assert torch.equal(base.classifier.weight, model.classifier.weight)


SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "patch_size": 8, "image_size": 32}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 99}
CATS = class_fields(["cat", "dog"])


def tower(**fields):
    return {"vision_config": {**SMALL, "intermediate_size": 48}, "text_config": TEXT, **fields}


FAMILIES = {
    "dinov2-encoder": lambda: Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2)),
    "clip-whole": lambda: CLIPModel(CLIPConfig(**tower(projection_dim=16))),
    "siglip-classifier": lambda: SiglipForImageClassification(SiglipConfig(**tower(**CATS))),
    "deit-two-classifiers": lambda: DeiTForImageClassificationWithTeacher(
        DeiTConfig(**SMALL, intermediate_size=48, **CATS)
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpoints_of_every_family_are_fine_tuned(run, tmp_path, proofs, name):
    write_pictures(tmp_path / "data")
    FAMILIES[name]().save_pretrained(tmp_path / "checkpoint")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "checkpoint")
    teaches = ("classifier" in name) * 1.0
    found = results(run("--distillation_weight", teaches, "--keep_ratio", 0.5))
    family = {"dinov2": "Dinov2", "clip": "CLIP", "siglip": "Siglip", "deit": "DeiT"}[name.split("-")[0]]
    assert found["models"][0]["name"] == f"{family}, unreduced"
    assert found["models"][2]["macs"] < 0.8 * found["models"][0]["macs"]
    assert len(proofs) == 2
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model")
    assert type(model).__name__.removesuffix("WithTeacher") == f"FATR{family}ForImageClassification"
    assert type(model).__name__.endswith("WithTeacher") == (name == "deit-two-classifiers")
    assert model.config.id2label == {0: "cat", 1: "dog"}
    assert any(step.reduces for step in model.config.plan())
    assert all(omega.any() for key, omega in model.named_parameters() if "omega" in key)


def test_a_model_for_any_size_is_fine_tuned_at_that_of_its_images(fetch, tmp_path):
    """DINOv2's configuration names the size of its training, 518 pixels; its image processor gives 224."""
    write_pictures(tmp_path / "data")
    Dinov2Model(Dinov2Config(**{**SMALL, "image_size": 64}, mlp_ratio=2)).save_pretrained(tmp_path / "checkpoint")
    size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    BitImageProcessor(**size).save_pretrained(tmp_path / "checkpoint")
    base, _ = fetch(teaches=False)
    assert base.config.image_size == 32
    assert base(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2)


def test_a_classifier_of_other_classes_cannot_teach(fetch, tmp_path):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint", ["ok", "defect"])
    with pytest.raises(
        ValueError, match=r"has no classifier for the 2 classes of data \(cat, dog\), so it cannot teach"
    ):
        fetch()


def test_a_classifier_of_other_classes_is_replaced(run, tmp_path, capsys):
    write_pictures(tmp_path / "data")
    model = write_checkpoint(tmp_path / "checkpoint", ["ok", "defect"])
    folder = run("--distillation_weight", 0)
    assert "checkpoint: it gets a new classifier for the classes of data." in capsys.readouterr().out
    base = ViTForImageClassification.from_pretrained(folder / "base")
    assert not torch.equal(base.classifier.weight, model.classifier.weight)
    assert base.config.id2label == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("names", [["dog", "cat"], ["ok", "defect"]], ids=["another-order", "others"])
def test_teachers_of_other_classes_are_refused_before_anything_is_computed(run, tmp_path, proofs, names):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint")
    write_checkpoint(tmp_path / "teacher", names)
    with pytest.raises(ValueError, match=r"--teacher .* has other classes than data, or another order of them"):
        run("--teacher", tmp_path / "teacher")
    assert proofs == []
    assert not (tmp_path / "out").exists()


# Numbers of pictures


def test_samples_are_spread_over_the_classes(run, tmp_path):
    write_pictures(tmp_path / "data", COLOURS)
    write_checkpoint(tmp_path / "checkpoint", COLOURS)
    folder = run("--max_train_samples", 6, "--max_test_samples", 4)
    assert results(folder)["test_images"] == 4
    assert results(folder)["verified_images"] == 4
    data = importlib.import_module("finetune_data").some_of(load_image_data(str(tmp_path / "data")).train, 6)
    assert data["labels"][:] == [0, 0, 1, 1, 2, 2]


def test_too_few_samples_for_the_classes_are_refused(run, tmp_path):
    write_pictures(tmp_path / "data", COLOURS)
    write_checkpoint(tmp_path / "checkpoint", COLOURS)
    with pytest.raises(ValueError, match="--max_train_samples 2 leaves classes without a training image: owl"):
        run("--max_train_samples", 2)
    with pytest.raises(ValueError, match="--max_train_samples 0 must be at least 1"):
        run("--max_train_samples", 0)
    with pytest.raises(ValueError, match="--verify_samples -1 must be at least 0"):
        run("--verify_samples", -1)


def test_a_run_without_a_proof_works_to_the_end(run, tmp_path, proofs):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint")
    assert results(run("--verify_samples", 0))["verified_images"] == 0
    assert proofs == []


# Channels and sizes


def test_a_grey_model_is_trained_and_proved(run, tmp_path):
    write_pictures(tmp_path / "data", grey=True)
    size = {"height": 32, "width": 32}
    processor = ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5])
    write_checkpoint(tmp_path / "checkpoint", num_channels=1, processor=processor)
    assert results(run())["verified_images"] == 16


def test_a_processor_that_does_not_fit_is_refused_before_anything_is_computed(run, tmp_path, proofs):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint", processor=ViTImageProcessor(size={"height": 96, "width": 96}))
    with pytest.raises(ValueError, match="gives pictures of 96 x 96 pixels, and the model takes 32 x 32"):
        run()
    assert proofs == []
    assert not (tmp_path / "out").exists()


def test_image_size_is_for_checkpoints(run, monkeypatch, finetune, tmp_path):
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--image_size", "96", "--use_cpu", "true"])
    with pytest.raises(ValueError, match="--image_size is for --model_name_or_path"):
        finetune.main()


# Proofs


def test_a_proof_comes_before_training_and_another_after_it(run, tmp_path, proofs):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint")
    folder = run()
    before, after = proofs
    assert before.name == "model"
    assert not before.exists()
    assert after == folder / "model"


def test_a_failed_proof_before_training_leaves_the_folder_free(run, finetune, tmp_path, monkeypatch):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint")

    def fail(*arguments):
        raise ProofError("it does not load")

    monkeypatch.setattr(finetune, "classify_without_package", fail)
    with pytest.raises(ProofError, match="it does not load"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_failed_proof_after_training_loses_nothing(run, finetune, tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "data")
    write_checkpoint(tmp_path / "checkpoint")
    classify = finetune.classify_without_package

    def fail(folder, *arguments):
        if folder == tmp_path / "out" / "model":
            raise ProofError("the disk was full")
        return classify(folder, *arguments)

    monkeypatch.setattr(finetune, "classify_without_package", fail)
    with pytest.raises(
        ProofError, match=r"the disk was full\n.*results\.json are written.*resume_from_checkpoint true"
    ):
        run()
    assert "| FATR, fine-tuned |" in capsys.readouterr().out
    assert results(tmp_path / "out")["verified_images"] is None
    weights = load_file(tmp_path / "out" / "model" / "model.safetensors")
    monkeypatch.setattr(finetune, "classify_without_package", classify)
    folder = run("--resume_from_checkpoint", "true", "--verify_samples", 5)
    assert results(folder)["verified_images"] == 5
    for name, value in load_file(folder / "model" / "model.safetensors").items():
        assert torch.equal(value, weights[name]), name


# What is read


def test_what_was_read_and_left_out_is_said(run, tmp_path, capsys):
    write_pictures(tmp_path / "data")
    (tmp_path / "data" / "train" / "cat" / "._0.png").write_bytes(b"resource fork")
    write_checkpoint(tmp_path / "checkpoint")
    run()
    printed = capsys.readouterr().out
    assert "data: 16 images to train on and 16 to test on, of 2 classes (cat, dog)." in printed
    assert "Note: " in printed
    assert "files left out: 1 hidden (train/cat/._0.png)" in printed


def test_a_picture_that_cannot_be_read_stops_the_run_before_anything_is_computed(run, tmp_path, proofs):
    write_pictures(tmp_path / "data")
    (tmp_path / "data" / "train" / "cat" / "3.png").write_bytes(b"no picture")
    write_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(
        ValueError, match=r"1 of the 16 images of split 'train' cannot be read.*no picture of a known.*3\.png"
    ):
        run()
    assert proofs == []
    assert not (tmp_path / "out").exists()
