"""Public functions that read pictures, data and checkpoints refuse what can only be a mistake, in words."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from fatr_hf.analysis.images import NamedImage, load_images, to_batch
from fatr_hf.hub.convert import convert_checkpoint
from fatr_hf.hub.load import load_model, load_reduced
from fatr_hf.hub.model_card import build_model_card
from fatr_hf.images import check_processor, open_picture
from fatr_hf.training.data import load_image_data, read_images
from fatr_hf.training.preprocessing import MixingCollator, collate, image_transform

PICTURE = PIL.Image.new("RGB", (9, 9))
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
PIXELS = torch.zeros(3, 8, 8)


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: load_image_data(None), "source=None must be a name or a path"),
        (lambda model: load_image_data("digits", test_fraction=20), "test_fraction=20 must lie between 0 and 1"),
        (lambda model: load_image_data("digits", seed="0"), "seed='0' must lie between 0 and"),
        (lambda model: load_images(None), "source=None must be a path or 'photographs'"),
        (lambda model: load_images("photographs", 2.5), "limit=2.5 must be at least 1, an integer"),
        (lambda model: read_images("digits", 0), "limit=0 must be at least 1"),
        (lambda model: read_images("digits", "3"), "limit='3' must be at least 1"),
        (lambda model: image_transform(model), "processor=ViTForImageClassification must be an image processor"),
        (lambda model: image_transform("google/vit"), "processor=str must be an image processor, such as AutoImage"),
        (lambda model: collate([]), "a list of examples, at least one"),
        (lambda model: collate({"pixel_values": PIXELS}), "a list of examples, at least one, and not dict"),
        (
            lambda model: collate([{"image": PICTURE}]),
            "Examples have image and no pixel_values: give .* image_transform",
        ),
        (lambda model: collate([{"pixel_values": PIXELS}, {"pixel_values": PIXELS[:, 1:]}]), "have the shapes"),
        (lambda model: collate([{"pixel_values": PIXELS, "labels": "cat"}]), "labels=.*'cat'.* must be class numbers"),
        (
            lambda model: collate([{"pixel_values": PIXELS, "labels": 1}, {"pixel_values": PIXELS}]),
            "or be left out of all",
        ),
        (lambda model: MixingCollator(["cat", "dog"]), "num_classes=.* must be a positive integer"),
        (lambda model: MixingCollator(2)([{"pixel_values": PIXELS}] * 2), "Images without labels cannot be mixed"),
        (lambda model: to_batch([PICTURE], PROCESSOR), "images must be a list of NamedImage"),
        (lambda model: to_batch(NamedImage("a", PICTURE), PROCESSOR), "images must be a list of NamedImage"),
        (lambda model: to_batch([NamedImage("a", PICTURE)], model), "processor=ViTForImageClassification must be"),
        (lambda model: to_batch([NamedImage("a", PICTURE, "cat")], PROCESSOR, ["cat"]), "label2id=.* must map"),
        (lambda model: convert_checkpoint(model, "out"), "A checkpoint is a folder or a Hub name, not ViTForImage"),
        (lambda model: load_model(model), "A checkpoint is a folder or a Hub name, not ViTForImage"),
        (lambda model: load_reduced(model), "A checkpoint is a folder or a Hub name, not ViTForImage"),
        (lambda model: build_model_card(model), "config=ViTForImageClassification must be a FATR configuration"),
        (lambda model: open_picture(np.zeros((8, 8, 3))), "ndarray cannot be read as a picture: give a path"),
        (lambda model: open_picture(PICTURE, "rgb"), "mode='rgb' must be 'RGB', 'L' or None"),
        (lambda model: check_processor(model.config, PROCESSOR), "config=.* must be a model's configuration"),
        (
            lambda model: check_processor(PROCESSOR, model),
            "config=ViTForImageClassification must be .* give model.config",
        ),
    ],
)
def test_mistakes_are_refused_in_words(model, call, words):
    with pytest.raises(ValueError, match=words):
        call(model)


def test_an_accuracy_in_percent_is_refused(make_fatr):
    with pytest.raises(ValueError, match=r"accuracy=81.3 must lie in \[0, 1\]: 81.3% is 0.813"):
        build_model_card(make_fatr().config, dataset="pets", accuracy=81.3)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0], torch.tensor([1, 0])), ([True, False], torch.tensor([1, 0])), (np.int32([1, 0]), torch.tensor([1, 0]))],
    ids=["integers", "booleans", "int32"],
)
def test_labels_become_int64(labels, expected):
    batch = collate([{"pixel_values": PIXELS, "labels": label} for label in labels])
    assert batch["labels"].dtype == torch.int64
    assert torch.equal(batch["labels"], expected)


def test_examples_without_labels_make_a_batch_without():
    assert set(collate([{"pixel_values": PIXELS}] * 2)) == {"pixel_values"}


@pytest.mark.parametrize(
    ("pixel_values", "words"),
    [
        (torch.zeros(3, 32, 32), r"pixel_values of the shape \(3, 32, 32\) must be \(batch, channels, height, width\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "pixel_values of torch.uint8 must be of floating point"),
        ([torch.zeros(3, 32, 32)], "pixel_values must be a tensor, as the image processor gives, not list"),
        (PICTURE, "pixel_values must be a tensor, as the image processor gives, not Image"),
        (torch.zeros(1, 32, 32, 3), "have 32 channels, but the model takes 3"),
    ],
    ids=["no-batch", "bytes", "list", "picture", "channels-last"],
)
def test_models_take_what_an_image_processor_gives(make_fatr, pixel_values, words):
    with pytest.raises(ValueError, match=words):
        make_fatr()(pixel_values)


@pytest.mark.parametrize("size", ["32", 32.5, True, [32, "32"], 0], ids=repr)
def test_image_sizes_are_integers(make_fatr, size):
    with pytest.raises(ValueError, match="must be one number, or height and width, each at least 1"):
        make_fatr().config.patch_grid(size)
