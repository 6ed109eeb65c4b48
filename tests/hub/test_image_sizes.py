"""Checkpoints loaded for another image size."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from rounding import assert_rounded_alike

from fatr_hf import FATRViTForImageClassification, FATRViTModel

FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def images():
    return lambda height, width: torch.randn(2, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("size", [(48, 48), (32, 64), (16, 16)], ids=str)
@pytest.mark.parametrize("shards", ["50GB", "40KB"], ids=["whole", "shards"])
def test_positions_are_stretched_as_at_run_time(stock, images, tmp_path, size, shards):
    stock.double().save_pretrained(tmp_path / "stock", max_shard_size=shards)
    dense = {"keep_ratio": 1.0, "dtype": torch.float64}
    pixel_values = images(*size)
    model = FATRViTForImageClassification.from_pretrained(tmp_path / "stock", image_size=size, **dense)
    expected = stock(pixel_values, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(model(pixel_values).logits, expected, **FLOAT64)
    model.save_pretrained(tmp_path / "saved")
    again = FATRViTForImageClassification.from_pretrained(tmp_path / "saved", dtype=torch.float64)
    assert tuple(again.config.image_size) == size
    assert_rounded_alike(again(pixel_values).logits, model(pixel_values).logits)


def test_a_reduced_model_keeps_its_reduction(make_fatr, images, tmp_path):
    model = make_fatr().double()
    model.save_pretrained(tmp_path)
    larger = FATRViTForImageClassification.from_pretrained(tmp_path, image_size=64, dtype=torch.float64)
    pixel_values = images(64, 64)
    expected = model(pixel_values, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(larger(pixel_values).logits, expected, **FLOAT64)


def test_an_encoder_and_a_configuration_of_ones_own(make_fatr, tmp_path):
    make_fatr().save_pretrained(tmp_path)
    config = FATRViTModel.config_class.from_pretrained(tmp_path, image_size=48)
    encoder = FATRViTModel.from_pretrained(tmp_path, config=config)
    assert encoder.embeddings.position_embeddings.shape[1] == 1 + 12 * 12
    assert encoder(torch.zeros(1, 3, 48, 48)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": 3}, "holds no patch"),
        ({"image_size": 8, "dc_windows": [4, 2, 1]}, "exceeds the grid"),
        ({"image_size": 48, "num_labels": 9}, r"classifier\.weight is .* and must be \(9, 32\)"),
        ({"hidden_size": 64}, "and must be"),
    ],
    ids=["no-patch", "too-small", "other-classes", "wider"],
)
def test_what_does_not_fit_is_refused_with_names_and_shapes(stock, tmp_path, fields, words):
    stock.save_pretrained(tmp_path)
    with pytest.raises((StrictDataclassError, ValueError), match=words):
        FATRViTForImageClassification.from_pretrained(tmp_path, **fields)


def test_new_classes_and_another_size_go_together(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    options = {"image_size": 48, "num_labels": 9, "ignore_mismatched_sizes": True}
    model, info = FATRViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert model(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 9)
    assert {key for key, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}


def test_class_numbers_that_are_text_become_numbers(stock, tmp_path):
    stock.config.label2id = {"cat": "0", "dog": "1"}
    stock.save_pretrained(tmp_path)
    config = FATRViTForImageClassification.from_pretrained(tmp_path).config
    assert config.label2id["dog"] == 1
