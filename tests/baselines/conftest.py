import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf.baselines import (
    EViTConfig,
    EViTForImageClassification,
    PoolingConfig,
    PoolingForImageClassification,
    ToMeConfig,
    ToMeForImageClassification,
    TruncationConfig,
    TruncationForImageClassification,
)

CLASSES = {
    "evit": (EViTConfig, EViTForImageClassification),
    "pooling": (PoolingConfig, PoolingForImageClassification),
    "tome": (ToMeConfig, ToMeForImageClassification),
    "truncation": (TruncationConfig, TruncationForImageClassification),
}

FIELDS = {
    "evit": {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]},
    "pooling": {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]},
    "tome": {"merges_per_layer": [9, 0, 20, 5]},
    "truncation": {"tokens_out": [65, 40, 40, 7]},
}
"""For each rival a reduction that leaves some layers alone."""


@pytest.fixture
def sharp(tiny):
    """Fields of a tiny ViT whose attention tells tokens apart as a trained one's does."""
    return {**tiny, "num_labels": 5, "initializer_range": 0.3}


@pytest.fixture
def make_rival(sharp):
    """Builds a rival by its name, with the fields of ``FIELDS`` if none are given."""

    def make(name, **fields):
        config_class, model_class = CLASSES[name]
        return model_class(config_class(**{**sharp, **(fields or FIELDS[name])})).eval()

    return make


@pytest.fixture
def sharp_stock(sharp):
    return ViTForImageClassification(ViTConfig(**sharp)).eval()


@pytest.fixture(params=CLASSES)
def rival(request, make_rival):
    """Every rival in turn."""
    return make_rival(request.param)


@pytest.fixture
def count_macs():
    """Counts the multiply-accumulates of one image, without weights or data."""

    def count(model_class, config):
        config._attn_implementation = "eager"
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            model_class(config).eval()(torch.empty(1, 3, config.image_size, config.image_size))
        return counter.get_total_flops() / 2

    return count
