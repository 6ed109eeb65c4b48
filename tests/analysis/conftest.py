"""Tiny models of many families, with weights that tell tokens apart as trained ones do."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.analysis.analyze import analyze
from fatr_hf.baselines import EViT, Pooling, Rival, ToMe, Truncation
from fatr_hf.modeling.reduction_config import UNREDUCED

FAMILIES = {
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2-registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "clip": (CLIPVisionConfig, CLIPVisionModel),
    "siglip": (SiglipVisionConfig, SiglipVisionModel),
}

LAYERWISE = {"reduction_layers": [0, 2], "keep_ratio": [0.7, 0.6]}
RIVALS = {
    "evit": (EViT, LAYERWISE),
    "evit-dropping": (EViT, {**LAYERWISE, "fuse_inattentive": False}),
    "pooling": (Pooling, LAYERWISE),
    "tome": (ToMe, {"merges_per_layer": [9, 0, 20, 5]}),
    "truncation": (Truncation, {"tokens_out": [65, 40, 40, 7]}),
}
"""Each leaves some layers alone; 8 x 8 patches are pooled to 7 x 6 and then to 5 x 5."""


@torch.no_grad()
def randomise(model):
    """Evaluation mode, float64, eager attention, and weights large enough to make attention uneven; none is zero."""
    for parameter in model.parameters():
        parameter.mul_(parameter.dim() == 1).add_(torch.randn(parameter.shape), alpha=0.3)
    model.set_attn_implementation("eager")
    return model.double().eval()


@pytest.fixture
def make_model(tiny):
    """Builds a model of ``FAMILIES`` or ``RIVALS`` by its name; fields are those of the model, or of the method."""

    def make(name, **fields):
        if name in FAMILIES:
            config_class, model_class = FAMILIES[name]
            return randomise(model_class(config_class(**{**tiny, "num_labels": 5, **fields})))
        method, own = RIVALS[name]
        sizes = {each: fields.pop(each) for each in ("image_size", "num_hidden_layers") if each in fields}
        vit = FATRViTForImageClassification(FATRViTConfig(**{**tiny, "num_labels": 5, **sizes, **UNREDUCED}))
        return randomise(Rival.of(vit, method(**{**own, **fields})))

    return make


@pytest.fixture
def make_sharp_fatr(make_fatr):
    """Builds a tiny FATR classifier with eager attention."""

    def make(**fields):
        return randomise(make_fatr(**fields))

    return make


@pytest.fixture(params=FAMILIES)
def family(request, make_model):
    """An unreduced model of every family in turn."""
    return make_model(request.param)


@pytest.fixture(params=RIVALS)
def rival(request, make_model):
    """Every rival in turn."""
    return make_model(request.param)


@pytest.fixture
def analysis(make_model):
    """Of an unreduced model on two images."""
    return analyze(make_model("vit"), torch.randn(2, 3, 32, 32))
