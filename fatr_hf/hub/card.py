"""The model card of a FATR model that is saved already, from its configuration and its code."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..families import family_of
from ..modeling import build_model_card
from ..modeling.model_card import code_hashes
from .checkpoints import is_classifier, read_config
from .code import find_code


def checkpoint_card(name: str | os.PathLike[str], *, revision: str | None = None, **arguments: Any) -> ModelCard:
    """The card of a saved FATR model; its weights are not read, its code is not run.

    Args:
        name: folder or Hub name; a Hub name is also the card's ``repo_id``, unless another is given.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        arguments: as for ``build_model_card``; the task is by default the saved model's.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model of another kind, or an accuracy without a data set or outside [0, 1].
    """
    fields = read_config(name, revision)
    family = family_of(fields["model_type"])
    if family is None or fields["model_type"] != family.config.model_type:
        raise ValueError(
            f"{str(name)!r} is of model type {fields['model_type']!r} and no FATR model: convert it first."
        )
    accuracy = arguments.get("accuracy")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy:g} must lie in [0, 1].")
    if accuracy is not None and arguments.get("dataset") is None:
        raise ValueError(f"accuracy={accuracy:g} needs the name of the data set that it was measured on.")
    arguments.setdefault("task", "image-classification" if is_classifier(fields) else "image-feature-extraction")
    arguments.setdefault("code", code_hashes(find_code(name, revision)))
    if not Path(name).exists():
        arguments.setdefault("repo_id", str(name))
    return build_model_card(family.config.from_dict(fields), **arguments)
