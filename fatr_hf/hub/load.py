"""Checkpoints of all kinds as models: as they are, or reduced."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
)
from transformers.utils import logging

from ..families import FAMILIES, Family, family_of
from ..images import check_processor
from ..modeling.reduction_model import ReductionModel
from .checkpoints import cropped_size, find_image_processor, is_classifier, is_fatr, read_config
from .convert_model import fatr_classes


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leaves out transformers' report of a loaded checkpoint: what is wrong with it is refused in words.

    Where standard error is no terminal, its progress bars are left out too.
    """
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def load_model(
    name: str, *, revision: str | None = None, eager: bool = False, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, BaseImageProcessor | None]:
    """A saved vision model, in evaluation mode, and its image processor.

    The model is a classifier if the checkpoint is one, else an encoder; of a checkpoint for images and text (CLIP,
    SigLIP) it is the encoder of images.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        eager: compute attention so that ``output_attentions`` gives its maps.
        device: where the model goes.

    Returns:
        The model, and its image processor or None where there is none.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: no vision model, one that transformers has no code for, one that lacks weights, or an image
            processor that does not fit it.
    """
    fields = read_config(name, revision)
    if fields["model_type"] not in CONFIG_MAPPING:
        raise ValueError(
            f"{name!r} is of model type {fields['model_type']!r}, which this version of transformers does not know; "
            "code that comes with a checkpoint is not run."
        )
    check_takes_images(name, fields)
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    auto_class: Any = AutoModelForImageClassification
    if not is_classifier(fields):
        auto_class, config = AutoModel, getattr(config, "vision_config", config)
        if getattr(MODEL_MAPPING.get(type(config), None), "main_input_name", None) != "pixel_values":
            raise ValueError(f"{name!r} is of model type {config.model_type!r}, which is no vision model.")
    with quiet_loading():
        model, info = auto_class.from_pretrained(
            name,
            config=config,
            revision=revision,
            attn_implementation="eager" if eager else None,
            output_loading_info=True,
        )
    lacking = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if len(lacking) < len(info["missing_keys"]):
        model.pooler = None  # encoders are often saved without one, and a random one would speak for the model
    if lacking:
        raise ValueError(f"The checkpoint {name!r} lacks {len(lacking)} of the model's weights, such as {lacking[0]}.")
    return model.to(device), fitting_processor(name, revision, model)


def load_reduced(
    name: str, *, revision: str | None = None, eager: bool = False, device: torch.device | str = "cpu", **reduction: Any
) -> tuple[ReductionModel, BaseImageProcessor | None]:
    """A saved model as FATR, in evaluation mode, and its image processor.

    A FATR model keeps its reduction, but for the fields that are given; a stock model of one of the families gets the
    default one, or what is given, without training. A preset is also for a FATR model that does not reduce. A model
    that takes any image size is for that of the images which its image processor gives.

    Args:
        name, revision, eager, device: as for ``load_model``.
        reduction: fields of the reduction (see ``ReductionConfig``), or ``preset``.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint of another architecture, one that lacks weights, fields that its parameters or its
            configuration do not allow, or an image processor that does not fit.
    """
    fields = read_config(name, revision)
    check_takes_images(name, fields)
    model_class = reduced_class(name, fields)
    is_reduced = is_fatr(fields)
    if is_reduced and "preset" in reduction:
        if any(layer.reduces for layer in model_class.config_class.from_dict(fields).plan()):
            raise ValueError(f"{name!r} is reduced already: a preset is for a checkpoint that is not.")
        is_reduced = False
    with quiet_loading():
        model: Any = model_class.from_pretrained(
            name,
            revision=revision,
            attn_implementation="eager" if eager else None,
            **size_of_images(name, revision, model_class),
            **({} if is_reduced else reduction),
        )
    if is_reduced and reduction:
        model.set_reduction(**reduction)
    return model.eval().to(device), fitting_processor(name, revision, model)


def reduced_class(name: str, fields: Mapping[str, Any]) -> Any:
    """Our class for a checkpoint: of a classifier the one that it names, of anything else the family's encoder.

    Args:
        fields: of the checkpoint's configuration.

    Raises:
        ValueError: a checkpoint of no family.
    """
    family = check_family(name, fields["model_type"])
    if not is_classifier(fields):
        return family.model
    named = [each.removeprefix("FATR") for each in fields["architectures"]]
    found = [each for each in fatr_classes() if each.__name__.removeprefix("FATR") in named]
    return found[0] if found else family.classifier


def size_of_images(name: str, revision: str | None, model_class: Any) -> dict[str, Any]:
    """``image_size`` for ``from_pretrained``, where a model takes any size and its image processor crops to one."""
    size = cropped_size(name, revision) if model_class.config_class.takes_any_size else None
    return {} if size is None else {"image_size": size[0] if size[0] == size[1] else list(size)}


def fitting_processor(name: str, revision: str | None, model: PreTrainedModel) -> BaseImageProcessor | None:
    """The image processor of a checkpoint, or None where it has none.

    Raises:
        ValueError: it gives a model of our families pictures of another size or number of channels than that takes.
    """
    processor = find_image_processor(name, revision)
    if processor is not None and family_of(model.config.model_type) is not None:
        check_processor(processor, getattr(model.config, "vision_config", model.config))
    return processor


def check_takes_images(name: str, fields: Mapping[str, Any]) -> None:
    """Raises a ValueError for the configuration of a model of videos."""
    family = family_of(fields["model_type"])
    if family is not None and "frames" in family.config.input_axes:
        raise ValueError(
            f"{name!r} is of model type {fields['model_type']!r}, which takes videos, and this is for images: load it "
            "with fatr_hf.convert or from_pretrained."
        )


def check_family(name: str, model_type: str) -> Family:
    """The family of a checkpoint's model type, or a ValueError that says which there are."""
    family = family_of(model_type)
    if family is None:
        known = [each for family in FAMILIES for each in family.config.stock_model_types]
        raise ValueError(
            f"{name!r} is of model type {model_type!r}, which cannot be reduced: the families are {', '.join(known)}."
        )
    return family


def check_has_processor(processor: BaseImageProcessor | None) -> BaseImageProcessor:
    """The image processor, or a ValueError where a checkpoint has none."""
    if processor is None:
        raise ValueError(
            "The checkpoint has no image processor, which images need: save one beside it, such as "
            'ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder).'
        )
    return processor
