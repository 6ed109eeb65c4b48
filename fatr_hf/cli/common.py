"""What commands share: their options, reading them, refusing them, loading models, progress and JSON."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
import typer
from rich.console import Console
from rich.progress import Progress
from transformers import BaseImageProcessor, PreTrainedModel

from ..analysis.figure_files import whole_file
from ..analysis.images import Batch, NamedImage, PictureBatches, class_numbers
from ..hub.load import check_has_processor
from ..programs import FAILURES, MISTAKES, exit_code, reason

Value = TypeVar("Value")


def option(words: str, *names: str, least: int | None = None) -> Any:
    """An option with its help, the names it does not get from its argument, and the least number that it takes."""
    return typer.Option(*names, help=words, show_default=False, min=least)


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub name.", show_default=False)]
Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A picture, a folder of pictures or of idx files, 'photographs' or 'digits'.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, option("Batch size. [32]", least=1)]
Limit = Annotated[int | None, option("Maximum number of images. [all]", least=1)]
Device = Annotated[str | None, option("Device, such as cuda:1 or cpu. [cuda, if available]")]
Revision = Annotated[str | None, option("Branch, tag or commit on the Hub. [main]")]


@contextmanager
def refusals() -> Iterator[None]:
    """Ends a command as ``fatr_hf.programs`` ends programs; after ``fatr-hf --traceback`` errors stay as they are."""
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("traceback"):
        yield
        return
    try:
        yield
    except (*MISTAKES, *FAILURES) as error:
        typer.echo(f"Error: {reason(error)}", err=True)
        raise typer.Exit(exit_code(error)) from error


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


def check_folders(*paths: Path | None) -> None:
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
        write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file as a whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


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


def read_pictures(images: str, limit: int | None) -> Sequence[NamedImage]:
    """``fatr_hf.training.data.read_images``, for the commands that take images; the others run without pillow.

    What was left out is said on standard error.

    Raises:
        FileNotFoundError, ImportError, ValueError: no images, or nothing to read them with.
    """
    from ..training.data import read_images

    pictures = read_images(images, limit)
    for note in getattr(pictures, "notes", ()):
        typer.echo(f"Note: {note}", err=True)
    return pictures


def load_pictures(
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    images: str,
    limit: int | None = None,
    batch_size: int = 32,
) -> PictureBatches:
    """The images that a command was given, as a model takes them, batch after batch.

    Args:
        images, limit: as for ``read_pictures``.
        batch_size: images at a time.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no images, or a checkpoint without an image processor.
    """
    classes = class_numbers(model.config)
    return PictureBatches(read_pictures(images, limit), check_has_processor(processor), classes, batch_size)
