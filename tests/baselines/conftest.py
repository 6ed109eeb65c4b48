import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines import METHODS, Rival
from fatr_hf.baselines.macs import plan_macs
from fatr_hf.modeling.reduction_config import UNREDUCED

# The families' small models and their slow reference serve here too.
sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))

FIELDS = {
    "evit": {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]},
    "pooling": {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]},
    "tome": {"merges_per_layer": [9, 0, 20, 5]},
    "pitome": {"keep_ratio": 0.8},
    "prune_merge": {"keep_ratio": 0.6},
    "mctf": {"merges_per_layer": [9, 0, 20, 5]},
    "zero_tprune": {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]},
    "truncation": {"tokens_out": [65, 40, 40, 7]},
}
"""For each rival a reduction that leaves some layers alone."""


@pytest.fixture
def sharp(tiny):
    """Fields of a tiny ViT whose attention tells tokens apart as a trained one's does."""
    return {**tiny, "num_labels": 5, "initializer_range": 0.3}


@pytest.fixture
def make_rival(sharp):
    """Builds a rival by its name, with the fields of ``FIELDS`` if none are given; ``model`` are fields of the ViT."""

    def make(name, model=None, **fields):
        unreduced = FATRViTForImageClassification(FATRViTConfig(**{**sharp, **(model or {}), **UNREDUCED}))
        return Rival.of(unreduced, METHODS[name](**(fields or FIELDS[name])))

    return make


@pytest.fixture
def sharp_stock(sharp):
    return ViTForImageClassification(ViTConfig(**sharp)).eval()


@pytest.fixture(params=METHODS)
def rival(request, make_rival):
    """Every rival in turn."""
    return make_rival(request.param)


@pytest.fixture
def count_macs():
    """Counts the multiply-accumulates of one image that a ViT of some fields has with a method."""

    def count(method, **fields):
        with torch.device("meta"):
            model = FATRViTForImageClassification(FATRViTConfig(**fields, **UNREDUCED))
        return plan_macs(model, method.plan(model.config))

    return count


@pytest.fixture
def vit():
    """The configuration of an unreduced ViT with some fields."""
    return lambda **fields: FATRViTConfig(**fields, **UNREDUCED)
