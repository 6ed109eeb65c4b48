"""What commands share: their options, reading them, refusing them, loading models, progress and JSON."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from rich.progress import Progress
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

from ..analysis.images import Batch, NamedImage, PictureBatches, load_images
from ..benchmark.compare import OutOfMemory
from ..benchmark.machine import choose_device
from ..hub.checkpoints import find_image_processor, is_classifier, read_config
from ..modeling import FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from ..modeling.configuration_fatr_vit import PRESETS
from ..modeling.modeling_fatr_vit import FATRViTPreTrainedModel
from ..training.data import load_image_data
from ..training.idx import is_idx_folder

Value = TypeVar("Value")


def option(words: str, *names: str, least: int | None = None) -> Any:
    """An option with its help, the names it does not get from its argument, and the least number that it takes."""
    return typer.Option(*names, help=words, show_default=False, min=least)


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub name.", show_default=False)]
KeepRatio = Annotated[str | None, option("One, or one for each reduction layer. [0.7]")]
ReductionLayers = Annotated[str | None, option("Counted from 0. [quarter, half, three quarters]")]
DCWindows = Annotated[str | None, option("One, or one for each reduction layer. [2, then 1]")]
TokenMultiple = Annotated[int | None, option("Reduced sequences are multiples of it. [1]", least=1)]
Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A picture, a folder of them, of idx files, 'photographs' or 'digits'.",
        show_default=False,
    ),
]
Preset = Annotated[str | None, option(f"A reduction by name: {', '.join(PRESETS)}.")]
BatchSize = Annotated[int, option("Images at a time. [32]", least=1)]
Limit = Annotated[int | None, option("Take no more images than so many. [all]", least=1)]
Device = Annotated[str | None, option("Such as cuda:1 or cpu. [cuda, where there is one]")]
Revision = Annotated[str | None, option("Branch, tag or commit on the Hub. [main]")]


@contextmanager
def refusals() -> Iterator[None]:
    """Ends the program in words: with code 2 for what is wrong with the options, 1 where memory has run out."""
    try:
        yield
    except (ImportError, OSError, StrictDataclassError, ValueError) as error:
        # A configuration's refusal is wrapped in a line that names the check, not the option.
        reason = error.__cause__ if isinstance(error, StrictDataclassError) else None
        typer.echo(f"Error: {reason or error}", err=True)
        raise typer.Exit(2) from error
    except (OutOfMemory, torch.OutOfMemoryError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def separated(what: str, text: str | None, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """The values of an option that takes several; none where it is not given.

    Raises:
        ValueError: a value of another kind.
    """
    try:
        return () if text is None else tuple(kind(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r} is no list of {what}: separate numbers by commas.") from error


def numbers(what: str, text: str | None, kind: Callable[[str], Value]) -> Value | tuple[Value, ...] | None:
    """One value, or one for each reduction layer; None where the option is not given."""
    values = separated(what, text, kind)
    return values[0] if len(values) == 1 else values or None


def reduction_fields(
    keep_ratio: str | None, reduction_layers: str | None, dc_windows: str | None, **others: Any
) -> dict[str, Any]:
    """The reduction's fields that were given, by name.

    Raises:
        ValueError: text that is no list of numbers.
    """
    fields = {
        "keep_ratio": numbers("keep ratios", keep_ratio, float),
        "reduction_layers": separated("reduction layers", reduction_layers, int) or None,
        "dc_windows": numbers("DC windows", dc_windows, int),
        **others,
    }
    return {name: value for name, value in fields.items() if value is not None}


def require_folders(*paths: Path | None) -> None:
    """Checks, before anything is computed, that files can be written where they are wanted.

    Raises:
        ValueError: a folder that does not exist.
    """
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}.")


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Writes what a command found, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(values, indent=2) + "\n")


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar on standard error where that is a terminal; gives the function that moves it on by one.

    Args:
        words: what is going on.
        total: how often the function will be called, if that is known.
    """
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(words, total=total)
        yield lambda: bar.advance(task)


def watched(words: str, data: PictureBatches) -> Iterator[Batch]:
    """Batches with a bar that moves as they are taken; ``words`` say what is going on."""
    with progress(words, len(data)) as advance:
        for batch in data:
            yield batch
            advance()


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
    name: str, *, revision: str | None = None, eager: bool = False, device: str | None = "cpu"
) -> tuple[PreTrainedModel, BaseImageProcessor | None]:
    """A saved vision model, in evaluation mode, and its image processor.

    The model is a classifier if the checkpoint is one, else an encoder; of a checkpoint for images and text (CLIP,
    SigLIP) it is the encoder of images.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        eager: compute attention so that ``output_attentions`` gives its maps.
        device: where the model goes; None for CUDA, where there is one.

    Returns:
        The model, and its image processor or None where there is none.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: no vision model, one that transformers has no code for, one that lacks weights, or no such device.
    """
    place = choose_device(device)
    fields = read_config(name, revision)
    if fields["model_type"] not in CONFIG_MAPPING:
        raise ValueError(
            f"{name!r} is of model type {fields['model_type']!r}, which this version of transformers does not know; "
            "code that comes with a checkpoint is not run."
        )
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
    # A pooler comes after all layers; encoders are often saved without one.
    lacking = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if lacking:
        raise ValueError(f"The checkpoint {name!r} lacks {len(lacking)} of the model's weights, such as {lacking[0]}.")
    return model.to(place), find_image_processor(name, revision)


def load_reduced(
    name: str, *, revision: str | None = None, eager: bool = False, device: str | None = "cpu", **reduction: Any
) -> tuple[FATRViTPreTrainedModel, BaseImageProcessor | None]:
    """A saved model as FATR, in evaluation mode, and its image processor.

    A FATR model keeps its reduction, but for the fields that are given; any other ViT gets the default one, or what is
    given, without training.

    Args:
        name, revision, eager, device: as for ``load_model``.
        reduction: fields of the reduction (see ``FATRViTConfig``), or ``preset``.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint of another architecture, one that lacks weights, no such device, or fields that its
            parameters or its configuration do not allow.
    """
    place = choose_device(device)
    fields = read_config(name, revision)
    model_class = FATRViTForImageClassification if is_classifier(fields) else FATRViTModel
    is_reduced = fields["model_type"] == FATRViTConfig.model_type
    if is_reduced and "preset" in reduction:
        raise ValueError(f"{name!r} is reduced already: a preset is for a checkpoint that is not.")
    with quiet_loading():
        model: Any = model_class.from_pretrained(
            name,
            revision=revision,
            attn_implementation="eager" if eager else None,
            **({} if is_reduced else reduction),
        )
    if is_reduced and reduction:
        model.set_reduction(**reduction)
    return model.eval().to(place), find_image_processor(name, revision)


def load_pictures(
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    images: str,
    limit: int | None = None,
    batch_size: int = 32,
) -> PictureBatches:
    """The images that a command was given, as a model takes them, batch after batch.

    Args:
        images, limit: as for ``read_images``.
        batch_size: images at a time.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no images, or a checkpoint without an image processor.
    """
    classes: Any = model.config.label2id
    return PictureBatches(read_images(images, limit), require_processor(processor), classes, batch_size)


def require_processor(processor: BaseImageProcessor | None) -> BaseImageProcessor:
    """The image processor, or a ValueError where a checkpoint has none."""
    if processor is None:
        raise ValueError("The checkpoint has no image processor (preprocessor_config.json), which images need.")
    return processor


def read_images(source: str, limit: int | None = None) -> Sequence[NamedImage]:
    """Pictures of ``load_images``, or the test images of scikit-learn's digits or of a folder of idx files.

    Args:
        source: a picture, a folder, ``photographs`` or ``digits``.
        limit: take no more than so many, evenly spread over all of them.

    Raises:
        FileNotFoundError, ValueError: as ``load_images`` and ``load_image_data``.
    """
    if source != "digits" and not is_idx_folder(Path(source)):
        return load_images(source, limit)
    data = load_image_data(source)
    test, names = data.test, data.label_names
    number = len(test) if limit is None else min(limit, len(test))
    chosen = [place * len(test) // number for place in range(number)]
    return [
        NamedImage(f"{place:05d}", example["image"].convert("RGB"), names[example["labels"]])
        for place, example in zip(chosen, test.select(chosen), strict=True)
    ]
