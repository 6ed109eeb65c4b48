"""The classifier of a checkpoint beside the classes of a data set: kept, reordered or made anew."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from .teachers import class_names


def class_fields(names: Sequence[str]) -> dict[str, Any]:
    """The configuration's fields for classes of these names, in order."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def are_numbers(names: Sequence[str]) -> bool:
    """Whether the classes of a data set have no names but 0, 1, 2 and so on."""
    return list(names) == [str(number) for number in range(len(names))]


def find_classes(config: PreTrainedConfig, names: Sequence[str]) -> list[int] | None:
    """The model's class number for every class of a data set, or None where the model's classes are others.

    Classes are compared by name. Where the model or the data set has numbers alone, as many classes are taken to be the
    same in the same order.
    """
    own = class_names(config)
    if own == list(names) or (has_numbers_alone(config, names) and config.num_labels == len(names)):
        return [*range(len(names))]
    if own is None or sorted(own) != sorted(names) or len({*own}) < len(own):
        return None
    return [own.index(name) for name in names]


def has_numbers_alone(config: PreTrainedConfig, names: Sequence[str]) -> bool:
    """Whether the classes of a model and of a data set cannot be compared by name."""
    own = class_names(config)
    return own is None or (are_numbers(names) and sorted(own) != sorted(names))


def classifiers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear classifiers of a model by name: one, or the two of a distilled DeiT."""
    return {name: module for name, module in model.named_children() if name.endswith("classifier")}


@torch.no_grad()
def order_classifier(model: Any, places: Sequence[int], names: Sequence[str]) -> None:
    """Puts the classes of a model in the order of a data set, whose names they get where it has any.

    Args:
        model: with linear ``classifiers``.
        places: of ``find_classes``.
    """
    for head in classifiers(model).values():
        for parameter in head.parameters():
            parameter.copy_(parameter[torch.tensor(places, device=parameter.device)])
    if not are_numbers(names):
        name_classes(model, names)


def renew_classifier(model: Any, names: Sequence[str]) -> None:
    """Gives a model new linear ``classifiers`` for classes of these names."""
    for name, old in classifiers(model).items():
        width = getattr(old, "in_features", None) or getattr(model.config, "classifier_width", model.config.hidden_size)
        new = nn.Linear(width, len(names)).to(model.device, model.dtype)
        model._init_weights(new)
        setattr(model, name, new.train(old.training))
    name_classes(model, names)


def name_classes(model: Any, names: Sequence[str]) -> None:
    """Writes the names of the classes into a model's configuration."""
    for field, value in class_fields(names).items():
        setattr(model.config, field, value)
    model.num_labels = len(names)
