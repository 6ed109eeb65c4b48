"""A ViT checkpoint as FATR: a folder that loads wherever transformers is, without any training."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, ViTModel

from ..images import resize_processor
from ..modeling import FATRViTConfig, FATRViTForImageClassification, FATRViTModel, LayerTokens, schedule_macs
from ..modeling.budget import with_keep_ratio
from ..modeling.configuration_fatr_vit import as_pair
from .checkpoints import copy_image_processor, is_classifier, read_config
from .dinov2 import MODEL_TYPE as DINOV2
from .dinov2 import vit_from_dinov2

RESULTS = """The weights are those of {origin}. The model has not been fine-tuned with the reduction, and its accuracy
has not been measured."""


class Conversion(NamedTuple):
    """What ``convert_checkpoint`` wrote, and what the reduction spares."""

    folder: Path
    architecture: str
    """Class of the model: a classifier or the encoder."""
    has_image_processor: bool
    token_schedule: list[LayerTokens]
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
    """Writes a checkpoint as FATR: the model, its code, its image processor if it has one, and a card.

    ViT, MSN, MAE and DINOv2 convert. The model is a classifier if the checkpoint is one, else the encoder. That of
    DINOv2 is for images of the size that its image processor crops to. The folder appears when all of it is written.

    Args:
        name: folder or Hub name.
        folder: created with its parents; may be there if it is empty.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        image_size: pixels a side, or height and width, of the model that is written; by default the checkpoint's. The
            position embeddings are stretched and the image processor is changed alike.
        reduction: fields of the reduction (see ``FATRViTConfig``), or ``preset``.

    Raises:
        FileExistsError: a folder that is not empty.
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint of another architecture, one that lacks weights, or one that is reduced already; an
            image size of a DINOv2, or one that its image processor cannot give.
        huggingface_hub.errors.StrictDataclassError: fields that the configuration refuses.
    """
    folder = Path(folder)
    require_free(folder)
    fields = read_config(name, revision)
    if fields["model_type"] == FATRViTConfig.model_type:
        raise ValueError(f"{str(name)!r} is reduced already: convert the unreduced checkpoint that it came from.")
    model: FATRViTForImageClassification | FATRViTModel
    if fields["model_type"] == DINOV2:
        if image_size is not None:
            raise ValueError("A DINOv2 is converted for the size that its image processor crops to: change that.")
        model = reduced(vit_from_dinov2(name, revision), **reduction)
    else:
        resized = fields if image_size is None else {**fields, "image_size": image_size}
        config = FATRViTConfig.from_dict(resized, **reduction)
        model = load_weights(name, revision, config, is_classifier(fields))
    card = conversion_card(model, str(name))
    config, save = model.config, partial(model.save_pretrained, model_card=card)
    size = None if image_size is None else as_pair("image_size", image_size)
    has_image_processor = write_checkpoint(save, folder, name, revision, size)
    return Conversion(
        folder=folder,
        architecture=type(model).__name__,
        has_image_processor=has_image_processor,
        token_schedule=config.token_schedule(),
        macs_before=schedule_macs(with_keep_ratio(config, 1.0)),
        macs_after=schedule_macs(config),
    )


def write_unreduced(
    name: str | os.PathLike[str], folder: str | os.PathLike[str], *, revision: str | None = None
) -> bool:
    """Writes a DINOv2 encoder as transformers' own ViT, for whatever takes a ViT (``finetune.py``, a search).

    Args:
        name, folder, revision: as for ``convert_checkpoint``.

    Returns:
        Whether there is an image processor.

    Raises:
        FileExistsError: a folder that is not empty.
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint that is no DINOv2 encoder, or one that does not convert (see ``vit_from_dinov2``).
    """
    folder = Path(folder)
    require_free(folder)
    model_type = read_config(name, revision)["model_type"]
    if model_type != DINOV2:
        raise ValueError(
            f"{str(name)!r} is of model type {model_type!r}: only {DINOV2} is converted to an unreduced ViT."
        )
    return write_checkpoint(vit_from_dinov2(name, revision).save_pretrained, folder, name, revision)


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


def require_free(folder: Path) -> None:
    """Raises a FileExistsError for a file, or a folder that is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, and no empty folder: choose another name.")


def load_weights(
    name: str | os.PathLike[str], revision: str | None, config: FATRViTConfig, classifies: bool
) -> FATRViTForImageClassification | FATRViTModel:
    """The model with the weights of a ViT, MSN or MAE checkpoint.

    Raises:
        ValueError: weights that the checkpoint does not have, those of its classifier included.
    """
    model_class = FATRViTForImageClassification if classifies else FATRViTModel
    model, info = model_class.from_pretrained(name, config=config, revision=revision, output_loading_info=True)
    if any(key.startswith("classifier.") for key in info["missing_keys"]):
        raise ValueError(f"{str(name)!r} names a classifier in its config.json, but holds no weights of one.")
    return model


def reduced(vit: ViTModel, **reduction: Any) -> FATRViTModel:
    """An encoder without pooler as FATR."""
    config = FATRViTConfig.from_dict(vit.config.to_dict(), **reduction)
    model = FATRViTModel(config, add_pooling_layer=False)
    # What stays the model's own are the reduction's parameters, which start at zero.
    model.load_state_dict({**model.state_dict(), **vit.state_dict()})
    return model


def conversion_card(model: FATRViTForImageClassification | FATRViTModel, name: str) -> ModelCard:
    """A card that says where the weights come from, and that they have not been trained since."""
    hub_name = None if Path(name).exists() else name
    origin = f"`{hub_name}`" if hub_name else "an unreduced checkpoint"
    # Named in the metadata alone: of a base_model that it is given, the card says that it was fine-tuned from it.
    card = model.build_card(base_model=None, results=RESULTS.format(origin=origin))
    card.data["base_model"] = hub_name
    return card
