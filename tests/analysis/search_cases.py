"""A tiny model and a few images to search schedules for."""

import torch

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from fatr_hf.analysis.images import Batch

WITHOUT = {"reweight_attention": False, "dc_position_embeddings": False}


def make_searchable(tiny, model_class=FATRViTForImageClassification, **fields):
    """In float64 a model that tells tokens apart and can have every schedule, with a layer more than the paper's."""
    torch.manual_seed(1)
    own = {"num_hidden_layers": 5, "num_labels": 5, "initializer_range": 0.3}
    config = FATRViTConfig(**{**tiny, **own, **WITHOUT, **fields})
    return model_class(config).double().eval()


def make_encoder(tiny):
    return make_searchable(tiny, FATRViTModel)


def make_images(count=20, seed=2):
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(count, 3, 32, 32, generator=generator)
    return Batch(pixel_values, torch.arange(count) % 5)
