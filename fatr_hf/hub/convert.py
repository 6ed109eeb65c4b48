"""Converts a checkpoint to a FATR folder, without any training; transformers alone loads it."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import ModelCard
from transformers import AutoImageProcessor

from ..images import resize_processor
from ..modeling import LayerPlan, schedule_macs
from ..modeling.budget import with_keep_ratio
from ..modeling.reduction_config import as_pair
from .checkpoints import copy_image_processor, cropped_size, read_config
from .convert_model import convert
from .load import check_takes_images
from .model_card import model_card_of
from .timm import timm_fields

RESULTS = """The weights are those of {origin}. The model has not been fine-tuned with the reduction, and its accuracy
has not been measured."""


class Conversion(NamedTuple):
    """What ``convert_checkpoint`` wrote, and what the reduction spares."""

    folder: Path
    architecture: str
    """Class of the model: a classifier or the encoder."""
    has_image_processor: bool
    plan: list[LayerPlan]
    macs_before: int
    """Multiply-accumulates of an image without reduction (see ``schedule_macs``)."""
    macs_after: int


def convert_checkpoint(
    name: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    image_size: int | Sequence[int] | None = None,
    **reduction: Any,
) -> Conversion:
    """Writes a checkpoint as FATR: the model, its code, its processor of images or videos if it has one, and a card.

    Checkpoints of every family convert (see ``fatr_hf.convert``), as what was saved there. The folder appears when all
    of it is written.

    Args:
        name: folder or Hub name.
        folder: created with its parents; may be there if it is empty.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        image_size: pixels a side, or height and width, of the model that is written; by default the checkpoint's. The
            position embeddings are stretched and the image processor is changed alike.
        reduction: fields of the reduction (see ``ReductionConfig``), or ``preset``.

    Raises:
        FileExistsError: a folder that is not empty.
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint of another architecture, one that lacks weights, or one that is reduced already; an
            image size that its image processor cannot give.
        huggingface_hub.errors.StrictDataclassError: fields that the configuration refuses.
    """
    folder = Path(folder)
    check_free(folder)
    if timm_fields(name, revision) is None:
        fields = read_config(name, revision)  # says so if the name leads nowhere, or is a model
        if image_size is not None:
            check_takes_images(str(name), fields)
    if image_size is not None:
        reduction["image_size"] = image_size
    model = convert(name, revision=revision, **reduction)
    card = conversion_card(model, str(name))
    config = getattr(model.config, "vision_config", model.config)
    save = partial(model.save_pretrained, model_card=card)
    size = None if image_size is None else as_pair("image_size", image_size)
    has_image_processor = write_checkpoint(save, folder, name, revision, size)
    if size is None and config.takes_any_size:
        size = cropped_size(folder)  # what images it will get
    return Conversion(
        folder=folder,
        architecture=type(model).__name__,
        has_image_processor=has_image_processor,
        plan=config.plan(size),
        macs_before=schedule_macs(with_keep_ratio(config, 1.0), size),
        macs_after=schedule_macs(config, size),
    )


def write_checkpoint(
    save: Callable[[Path], None],
    folder: Path,
    name: str | os.PathLike[str],
    revision: str | None,
    image_size: tuple[int, int] | None = None,
) -> bool:
    """Makes a folder of a model and its origin's image processor, whole or not at all; says whether there is one.

    Args:
        image_size: that the processor is changed for; None leaves it as it is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workspace:
        complete = Path(workspace, folder.name)
        save(complete)
        has_image_processor = copy_image_processor(name, revision, complete)
        if has_image_processor and image_size is not None:
            resize_processor(AutoImageProcessor.from_pretrained(complete), image_size).save_pretrained(complete)
        complete.rename(folder)
    return has_image_processor


def check_free(folder: Path) -> None:
    """Raises a FileExistsError for a file, or a folder that is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, and no empty folder: choose another name.")


def conversion_card(model: Any, name: str) -> ModelCard:
    """A card that says where the weights come from, and that they have not been trained since."""
    hub_name = None if Path(name).exists() else name
    origin = f"`{hub_name}`" if hub_name else "an unreduced checkpoint"
    # Named in the metadata alone: of a base_model that it is given, the card says that it was fine-tuned from it.
    card = model_card_of(model, base_model=None, results=RESULTS.format(origin=origin))
    card.data["base_model"] = hub_name
    return card
