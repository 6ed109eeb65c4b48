from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image
from transformers import ViTImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.hub.clean_process import predict_classes
from fatr_hf.hub.verify import classify_without_package


@pytest.fixture
def images():
    colours = np.random.default_rng(0).integers(0, 256, (70, 1, 1, 3), dtype=np.uint8)
    pixels = np.broadcast_to(colours, (70, 40, 40, 3))
    return Dataset.from_dict(
        {"image": [PIL.Image.fromarray(each) for each in pixels]}, features=Features({"image": Image()})
    )


@pytest.fixture
def folder(make_fatr, tmp_path):
    model = make_fatr()
    torch.nn.init.normal_(model.vit.embeddings.patch_embeddings.projection.weight)
    with torch.no_grad():  # no class is ahead on average, so that the image decides
        colours = torch.rand(100, 3, 1, 1).mul(2).sub(1).expand(-1, -1, 32, 32)
        model.classifier.bias.sub_(model(colours).logits.mean(dim=0))
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folder_classifies_without_the_package(folder, images, monkeypatch):
    model = FATRViTForImageClassification.from_pretrained(folder)
    expected = predict_classes(model, ViTImageProcessor.from_pretrained(folder), images)
    assert len(set(expected)) > 1
    monkeypatch.chdir(folder.parent)
    assert classify_without_package(Path(folder.name), images) == expected


def test_folder_that_needs_the_package_is_found_out(folder, images):
    modeling = folder / "modeling_fatr_vit.py"
    line = "from torch import Tensor, nn\n"
    modeling.write_text(modeling.read_text().replace(line, f"import fatr_hf\n{line}", 1))
    with pytest.raises(RuntimeError, match=r"does not load without fatr_hf[\s\S]*fatr_hf"):
        classify_without_package(folder, images)
