import numpy as np
import PIL.Image
import pytest
import torch
from transformers import EvalPrediction, ViTImageProcessor

from fatr_hf.training.metrics import Accuracy, accuracy_of_logits
from fatr_hf.training.preprocessing import collate, image_transform


@pytest.fixture
def processor():
    return ViTImageProcessor(size={"height": 16, "width": 24})


def image(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_transform_gives_what_the_processor_gives(processor, mode):
    batch = image_transform(processor)({"image": [image(mode), image(mode, (16, 16))], "labels": [1, 0]})
    expected = processor([image(mode).convert("RGB")], return_tensors="pt")["pixel_values"]
    assert batch["pixel_values"].shape == (2, 3, 16, 24)
    assert torch.equal(batch["pixel_values"][:1], expected)
    assert batch["labels"] == [1, 0]


def test_light_augmentation_is_random_and_seeded(processor):
    transform = image_transform(processor, "light")
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(transform({"image": [image()], "labels": [0]})["pixel_values"])
    assert draws[0].shape == (1, 3, 16, 24)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_unknown_augmentation_is_refused(processor):
    with pytest.raises(ValueError, match="augmentation='heavy' must be one of none, light"):
        image_transform(processor, "heavy")


def test_collate_stacks():
    batch = collate([{"pixel_values": torch.full((3, 2, 2), float(i)), "labels": i} for i in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 2, 2)
    assert torch.equal(batch["labels"], torch.tensor([0, 1, 2]))


def test_accuracy_counts_hits():
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([1, 0, 0, 0])
    assert accuracy_of_logits(EvalPrediction(predictions=logits, label_ids=labels)) == {"accuracy": 0.75}
    assert accuracy_of_logits(EvalPrediction(predictions=(logits, None), label_ids=labels)) == {"accuracy": 0.75}
    assert Accuracy().compute(predictions=[1, 2], references=[1, 2]) == {"accuracy": 1.0}
