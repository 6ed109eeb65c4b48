"""What the demo computes: the library's answers, from models that share their weights and are never changed."""

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import FLOAT32
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.image_trace import trace_image
from fatr_hf.analysis.images import NamedImage
from fatr_hf.baselines.macs import count_macs
from fatr_hf.benchmark.timing import Timing

SETTINGS = {
    "paper": (0.7, (2, 1, 1), 0.0),
    "local": (0.5, (4, 4, 4), 0.5),
    "nothing reduced": (1.0, (1, 1, 1), 0.0),
}


@pytest.fixture
def loaded(demo, model_folder):
    return demo.loaded_model.load(str(model_folder))


@pytest.fixture
def trained_folder(make_fatr, tmp_path):
    """A FATR classifier whose own parameters are not zero, with an image processor."""
    make_fatr(keep_ratio=[0.9, 0.6, 0.4]).double().save_pretrained(tmp_path / "trained")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def picture():
    # A seed with which no two scores are near enough for rounding to reorder them.
    pixels = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize((90, 60))


@torch.no_grad()
def assert_predictions(predictions, model, picture, folder):
    """They are a model's own, with the image processor of a folder."""
    pixel_values = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    top = model(pixel_values).logits[0].softmax(dim=0).topk(5)
    assert [each.label for each in predictions] == [model.config.id2label[place] for place in top.indices.tolist()]
    assert [each.probability for each in predictions] == pytest.approx(top.values.tolist(), rel=FLOAT32)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_answers_are_the_librarys(demo, loaded, model_folder, picture, settings):
    settings = demo.loaded_model.Settings(*settings)
    comparison = demo.comparison.compare(demo.comparison.pair_models(loaded, picture, settings))
    stock = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    assert_predictions(comparison.unreduced.predictions, stock, picture, model_folder)
    reduced = FATRViTForImageClassification.from_pretrained(model_folder, **settings._asdict()).eval()
    assert_predictions(comparison.reduced.predictions, reduced, picture, model_folder)
    assert comparison.reduced.schedule == tuple(reduced.config.plan())
    assert (comparison.unreduced.macs, comparison.reduced.macs) == (count_macs(stock), count_macs(reduced))


def test_kept_patches_are_those_of_a_trace(demo, loaded, model_folder, picture):
    settings = loaded.presets["local"]
    comparison = demo.comparison.compare(demo.comparison.pair_models(loaded, picture, settings))
    model = FATRViTForImageClassification.from_pretrained(model_folder, **settings._asdict()).eval()
    traced = trace_image(model, NamedImage("", picture), loaded.processor)
    assert torch.equal(comparison.pixels, traced.pixels)
    assert [each.layer for each in comparison.reduced.patches] == [1, 2, 3]
    for patches in comparison.reduced.patches:
        expected = traced.layers[patches.layer]
        assert patches[:3] == expected[:3]
        assert torch.equal(patches.source, expected.source)
        assert torch.equal(patches.own, expected.own)


def test_a_comparison_shares_the_weights_and_leaves_the_model_as_it_was(demo, loaded, picture):
    before = loaded.model.config.to_dict()
    pair = demo.comparison.pair_models(loaded, picture, loaded.presets["local"])
    demo.comparison.compare(pair)
    assert loaded.model.config.to_dict() == before
    assert loaded.unreduced.config.keep_ratio == 1.0
    own = {name: tensor.data_ptr() for name, tensor in loaded.model.state_dict().items()}
    for model in (pair.unreduced, pair.reduced):
        assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == own


def test_both_models_are_timed_in_turn(demo, loaded, picture, monkeypatch):
    def time_in_turn(tasks, device, *rounds):
        assert device.type == "cpu"
        classes = {name: task().logits.argmax() for name, task in tasks.items()}
        assert list(classes) == ["unreduced", "reduced"]
        return {"unreduced": Timing((5.0, 4.0, 9.0)), "reduced": Timing((2.0,))}

    monkeypatch.setattr(demo.comparison, "time_in_turn", time_in_turn)
    times = demo.comparison.measure(demo.comparison.pair_models(loaded, picture, loaded.presets["paper"]))
    assert times[:2] == (5.0, 2.0)


def test_pictures_keep_their_shape_where_the_processor_keeps_it(demo, loaded, picture):
    loaded = loaded._replace(processor=ViTImageProcessor(do_resize=False))
    tall = picture.resize((32, 48))
    comparison = demo.comparison.compare(demo.comparison.pair_models(loaded, tall, loaded.presets["paper"]))
    assert comparison.pixels.shape == (48, 32, 3)
    assert comparison.unreduced.schedule[-1].tokens_out == 1 + 12 * 8
    assert comparison.reduced.patches[0].own.shape == (12, 8)


def test_a_vit_takes_all_divisors_of_its_grid(loaded):
    assert loaded.window_choices == ((1, 1, 1), (2, 1, 1), (2, 2, 2), (4, 4, 4))
    assert loaded.presets == {name: SETTINGS[name] for name in ("paper", "local")}
    # 64 patches become 12, 2 and 1. With 0.18 they become 11 and 1, which the last layer cannot reduce.
    assert loaded.least_keep_ratio == 0.19


def test_a_trained_model_takes_the_windows_that_it_has_parameters_for(demo, trained_folder, picture):
    loaded = demo.loaded_model.load(str(trained_folder))
    assert loaded.window_choices == ((2, 1, 1),)
    assert loaded.presets == {"as saved": (0.6, (2, 1, 1), 0.0)}  # (0.9 * 0.6 * 0.4) ** (1 / 3)
    comparison = demo.comparison.compare(demo.comparison.pair_models(loaded, picture, loaded.presets["as saved"]))
    model = FATRViTForImageClassification.from_pretrained(trained_folder).eval()
    model.set_reduction(keep_ratio=0.6)
    assert_predictions(comparison.reduced.predictions, model, picture, trained_folder)
    with model.reduction(False):
        assert_predictions(comparison.unreduced.predictions, model, picture, trained_folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0.9, (4, 4, 4), 0.0), "would not shorten the sequence"),
        ((0.7, (1, 2, 2), 0.0), "dc_windows=2 at layer 2 does not divide"),
        ((0.7, (2, 1, 1), 1.5), r"size_exponent=1.5 must lie in \[0, 1\]"),
    ],
    ids=["too many windows", "windows that do not nest", "exponent"],
)
def test_settings_that_are_not_allowed_are_refused_in_words(demo, loaded, picture, settings, words):
    with pytest.raises(ValueError, match=words):
        demo.comparison.pair_models(loaded, picture, demo.loaded_model.Settings(*settings))


def save_encoder(folder, stock):
    ViTModel(stock.config).save_pretrained(folder)


def save_other_architecture(folder, stock):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(folder)


def save_without_processor(folder, stock):
    stock.save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (save_encoder, "is an encoder: the page needs a classifier"),
        (save_other_architecture, "model type 'resnet', which cannot be reduced"),
        (save_without_processor, "has no image processor"),
    ],
    ids=["encoder", "no ViT", "no image processor"],
)
def test_models_that_cannot_be_shown_are_refused_in_words(demo, stock, tmp_path, save, words):
    save(tmp_path, stock)
    with pytest.raises(ValueError, match=words):
        demo.loaded_model.load(str(tmp_path))


def test_a_model_that_reduces_nowhere_is_refused(demo, make_fatr, tmp_path):
    make_fatr(reduction_layers=[], dc_windows=[], keep_ratio=[]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no layer that can reduce"):
        demo.loaded_model.load(str(tmp_path))


def test_a_model_that_is_not_there_is_named(demo, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint can be read from .*nothing"):
        demo.loaded_model.load(str(tmp_path / "nothing"))
