"""What callers give: each mix-up is refused in words."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ViTImageProcessor

from fatr_hf.baselines.arguments import (
    check_fatr,
    check_integer,
    check_layers,
    check_model,
    check_positive,
    is_integer,
    is_number,
    several,
    some,
)
from fatr_hf.baselines.macs import count_macs


class Adapted(torch.nn.Module):
    """A model inside another one, as peft wraps it."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def merge_and_unload(self):
        return self.base_model


NO_MODELS = {
    "processor": (lambda model: ViTImageProcessor(), "model must be a model of transformers, not .*ViTImageProcessor"),
    "name": (lambda model: "google/vit", "model must be a model .*, loaded by its from_pretrained, not 'google/vit'"),
    "nothing": (lambda model: None, "model must be a model of transformers, not None"),
    "a part": (lambda model: model.classifier, "model must be a model of transformers, not a torch.nn.*Linear"),
    "peft": (Adapted, r"model is wrapped in .*Adapted: merge its adapters first, model = model.merge_and_unload\(\)"),
    "compiled": (torch.compile, "wrapped in .*OptimizedModule: give the model that was compiled, model._orig_mod"),
    "data-parallel": (torch.nn.DataParallel, "wrapped in .*DataParallel: give the model in it, model.module"),
}


@pytest.mark.parametrize(("wrap", "words"), NO_MODELS.values(), ids=NO_MODELS)
def test_what_is_no_model_is_refused(make_fatr, wrap, words):
    wrapped = wrap(make_fatr())
    for refuse in (check_model, lambda model: check_fatr(model, "searched"), count_macs):
        with pytest.raises(ValueError, match=words):
            refuse(wrapped)


def test_only_fatr_models_that_are_not_fused_are_fatr_models(make_fatr, stock):
    check_model(stock)
    check_fatr(make_fatr(), "searched")
    with pytest.raises(
        ValueError, match=r"Only a FATR model can be searched, not a transformers.*ViTForImageClassification"
    ):
        check_fatr(stock, "searched")
    with pytest.raises(ValueError, match="A fused model cannot be searched: use the model that it was made from"):
        check_fatr(make_fatr().fuse(), "searched")


def test_a_model_of_text_has_no_cost_of_an_image():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    with pytest.raises(ValueError, match="BertModel takes no images: its configuration has no image_size"):
        count_macs(BertModel(config))


@pytest.mark.parametrize("size", [0, -32, (32,), (32, 32, 32), "32", ("32", "32"), 32.0, True], ids=str)
def test_image_sizes_are_one_or_two_positive_integers(stock, size):
    with pytest.raises(ValueError, match=r"image_size=.* must be one number, or height and width, each at least 1"):
        count_macs(stock, size)


def test_numbers_are_numbers():
    assert [is_integer(each) for each in (3, np.int64(3), True, 3.0, "3", None)] == [True, True, *[False] * 4]
    assert [is_number(each) for each in (3, 0.5, np.float32(2), True, "3", torch.nan, torch.inf)] == [True] * 3 + [
        False
    ] * 4
    for value in (0, 2.5, "8", False, None):
        with pytest.raises(ValueError, match=r"trials=.* must be an integer of at least 1\."):
            check_integer("trials", value, least=1)
    for value in (0, -1, torch.nan, torch.inf, "3", True):
        with pytest.raises(ValueError, match=r"dpi=.* must be a finite number above 0"):
            check_positive("dpi", value)


def test_lists_are_lists_without_doubles():
    assert several("names", (name for name in ("evit", "tome"))) == ("evit", "tome")
    assert several("names", []) == ()
    for value in ("evit", 3, None):
        with pytest.raises(ValueError, match=r"names must be a list, not .*: put it into brackets"):
            several("names", value)
    with pytest.raises(ValueError, match=r"names=\['a', 'b', 'a'\] must hold each value once; 'a' is there twice"):
        several("names", ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"names=\[\] must hold at least one value"):
        some("names", [])


@pytest.mark.parametrize("layers", [[4], [-1], [0.5], ["0"], [True], [None]], ids=str)
def test_layers_are_those_of_the_model(layers):
    with pytest.raises(ValueError, match=r"layers=\[.*\] must be integers from 0 to 3; .* is not"):
        check_layers("layers", layers, 4)
