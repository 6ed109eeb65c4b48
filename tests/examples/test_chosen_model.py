"""The model that examples for serving take, and what it answers."""

import argparse
import importlib

import pytest
import torch
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

from fatr_hf import FATRDinov2ForImageClassification, FATRIJepaForImageClassification
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.token_reduction import restore_tokens


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("chosen_model")


FAMILIES = {
    "dinov2": (FATRDinov2ForImageClassification, {"image_size": 32, "patch_size": 8}),
    "ijepa": (FATRIJepaForImageClassification, {"image_size": 32, "patch_size": 8}),
}
"""A classifier of CLS and patches, and one without CLS."""


@pytest.mark.parametrize("embedding", [False, True], ids=["logits", "logits-and-embedding"])
@pytest.mark.parametrize(("model_class", "shape"), FAMILIES.values(), ids=FAMILIES)
def test_classifiers_answer_whatever_they_read(module, model_class, shape, embedding):
    size = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 48}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**shape, **size, num_labels=5, initializer_range=0.3)).double().eval()
    pixel_values = torch.randn(3, 3, 32, 32)
    found = module.answer(model.fuse(), pixel_values, embedding)
    assert_rounded_alike(found.logits, model(pixel_values.double()).logits.detach().float())
    if not embedding:
        assert found.embedding is None
        return
    outputs = model.base_model(pixel_values.double(), output_token_sources=True)
    tokens, prefix = outputs.last_hidden_state, model.config.num_prefix_tokens
    expected = tokens[:, 0] if prefix else restore_tokens(tokens, outputs.token_sources[-1]).mean(dim=1)
    assert_rounded_alike(found.embedding, expected.detach().float())


CHOICES = {"preset": None, "keep_ratio": None, "macs": None}
"""Options of the reduction, none of them given."""


@pytest.mark.parametrize(
    ("options", "keep_ratio"),
    [
        ({}, 1.0),
        ({"keep_ratio": [0.5]}, 0.5),
        ({"keep_ratio": [0.8, 0.7, 0.6]}, [0.8, 0.7, 0.6]),
        ({"preset": "faithful"}, 0.77),
        ({"preset": "faithful", "keep_ratio": [0.6]}, 0.6),
    ],
    ids=["as-saved", "one", "each-its-own", "preset", "preset-at-another"],
)
def test_a_stock_model_is_reduced_only_when_asked(module, stock, stock_folder, options, keep_ratio, pixel_values):
    arguments = argparse.Namespace(**{"model": str(stock_folder), "revision": None, **CHOICES})
    vars(arguments).update(options)
    model, _ = module.load_chosen(arguments)
    assert model.config.keep_ratio == keep_ratio
    if keep_ratio == 1:
        assert_rounded_alike(model.double()(pixel_values).logits, stock.double()(pixel_values).logits)


def test_a_budget_chooses_the_keep_ratio(module, fatr_folder, make_fatr):
    macs = schedule_macs(make_fatr(keep_ratio=0.4).config)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(fatr_folder)
    model, _ = module.load_chosen(
        argparse.Namespace(model=str(fatr_folder), revision=None, **{**CHOICES, "macs": macs})
    )
    assert schedule_macs(model.config) == macs
