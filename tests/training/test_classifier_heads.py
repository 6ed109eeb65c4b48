"""A checkpoint's classes beside those of a data set."""

import copy

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from fatr_hf.training.classifier_heads import class_fields, find_classes, order_classifier, renew_classifier


@pytest.mark.parametrize(
    ("own", "names", "places"),
    [
        (["cat", "dog"], ["cat", "dog"], [0, 1]),
        (["dog", "cat", "owl"], ["cat", "dog", "owl"], [1, 0, 2]),
        (["ok", "defect"], ["cat", "dog"], None),
        (["cat", "dog", "owl"], ["cat", "dog"], None),
        (["LABEL_0", "LABEL_1"], ["cat", "dog"], [0, 1]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["cat", "dog"], None),
        (["cat", "dog"], ["0", "1"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["cat", "dog"], ["1", "2"], None),
        (["crane", "crane", "owl"], ["crane", "crane", "owl"], [0, 1, 2]),
        (["crane", "owl", "crane"], ["crane", "crane", "owl"], None),
    ],
    ids=[
        "same",
        "another-order",
        "others",
        "more",
        "unnamed",
        "unnamed-more",
        "numbers",
        "numbers-in-another-order",
        "numbers-from-1",
        "same-names-twice",
        "names-twice",
    ],
)
def test_classes_are_compared_by_name(own, names, places):
    assert find_classes(ViTConfig(**class_fields(own)), names) == places


def classifier(names):
    config = ViTConfig(hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=1, image_size=8)
    config.patch_size = 4
    for name, value in class_fields(names).items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


def test_a_reordered_classifier_gives_the_same_logits_to_the_same_names():
    model, pixel_values = classifier(["dog", "cat", "owl"]), torch.randn(2, 3, 8, 8)
    before = model(pixel_values).logits
    order_classifier(model, [1, 0, 2], ["cat", "dog", "owl"])
    assert torch.equal(model(pixel_values).logits, before[:, [1, 0, 2]])
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert model.config.label2id == {"cat": 0, "dog": 1, "owl": 2}


def test_names_stay_where_the_data_set_has_numbers_alone():
    model = classifier(["dog", "cat"])
    order_classifier(model, [0, 1], ["0", "1"])
    assert model.config.id2label == {0: "dog", 1: "cat"}


def test_a_new_classifier_is_drawn_anew_for_as_many_classes():
    model = classifier(["dog", "cat"])
    old = copy.deepcopy(model.classifier)
    renew_classifier(model, ["ok", "defect"])
    assert not torch.equal(model.classifier.weight, old.weight)
    assert 0 < model.classifier.weight.std() < 0.1  # ViT's own initialisation, whose deviation is 0.02
    assert not model.classifier.bias.any()
    assert model.config.id2label == {0: "ok", 1: "defect"}
    renew_classifier(model, ["a", "b", "c"])
    assert model(torch.randn(1, 3, 8, 8)).logits.shape == (1, 3)
    assert (model.num_labels, model.config.num_labels) == (3, 3)
