"""Fixtures for all tests. Nothing reaches the network, and everything random is seeded."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
# Kernels run on CPU tensors; read when triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from fatr_hf import FATRViTConfig, FATRViTForImageClassification


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """Keeps collections of garbage short: the Trainer asks for many, each among all objects since the module began."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def tiny():
    """Fields of the smallest ViT that still has 8 x 8 patches."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 4,
    }


@pytest.fixture
def stock_config(tiny):
    return ViTConfig(**tiny, num_labels=5)


@pytest.fixture
def stock(stock_config):
    return ViTForImageClassification(stock_config).eval()


@pytest.fixture
def make_fatr(tiny):
    """Builds a tiny FATR classifier whose own parameters are not zero, as after training."""

    def make(**fields):
        model = FATRViTForImageClassification(FATRViTConfig(**{**tiny, "num_labels": 5, **fields})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
                    parameter.normal_(std=0.3)
        return model

    return make


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 32, 32)


@pytest.fixture
def stock_folder(stock, tmp_path):
    """A stock ViT classifier with its image processor."""
    folder = tmp_path / "stock"
    stock.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def fatr_folder(make_fatr, tmp_path):
    """A FATR classifier."""
    make_fatr().save_pretrained(tmp_path / "fatr")
    return tmp_path / "fatr"
