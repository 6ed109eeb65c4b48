"""`fatr-hf visualize`: pictures of where a model keeps its tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import BaseImageProcessor, PreTrainedModel

from ..analysis.animation import FORMATS as ANIMATION_FORMATS
from ..analysis.animation import check_picture_file, save_animation
from ..analysis.figure_files import FORMATS, save_figure
from ..analysis.image_trace import ImageTrace, trace_image, trace_rivals
from ..analysis.images import NamedImage
from ..analysis.pictures import choose_layers, plot_grid, plot_kept, plot_scores
from ..benchmark.machine import choose_device
from ..families import family_of
from ..hub.checkpoints import read_config
from ..hub.load import check_has_processor, load_model, load_reduced
from ..modeling.reduction_model import ReductionModel
from .common import (
    Device,
    Images,
    ModelName,
    Revision,
    check_folders,
    option,
    progress,
    read_pictures,
    refusals,
    separated,
    write_json,
)
from .reduction import FIELDS, Reduction, takes_reduction

KINDS = {
    "kept": "what is left of one image after each layer",
    "scores": "the attention that its patches receive",
    "grid": "what is left of several images",
    "rivals": "what is left of one image in FATR and its rivals",
}
GRID_IMAGES = 8

HELP = """
Draws where a model keeps its tokens, layer by layer: patches with a token of their own in detail, the others flat.

MODEL is a folder or Hub name of a FATR model, a rival, or any ViT, which is then reduced without training. For other
vision transformers only --kind scores works, with --layers. IMAGES is a picture, a folder of them, or the word
photographs; all kinds but grid use the first image. The extension of FILE sets the format: .png, .svg, .pdf, or .gif or
.mp4 for an animation.

\b
  fatr-hf visualize google/vit-base-patch16-224 photographs --output kept.png
  fatr-hf visualize outputs/model cat.jpg --kind rivals --output rivals.pdf
  fatr-hf visualize outputs/model path/to/images --kind grid --limit 12 --output grid.png
  fatr-hf visualize outputs/model cat.jpg --kind scores --layers 0,3,6,9 --output scores.svg
  fatr-hf visualize outputs/base cat.jpg --keep-ratio 0.5 --output kept.gif
"""


@takes_reduction("preset", *FIELDS)
def run(
    model: ModelName,
    images: Images,
    output: Annotated[Path, option(f"FILE to write ({', '.join((*FORMATS, *ANIMATION_FORMATS))}).")],
    kind: Annotated[str, option(f"{', '.join(f'{name}: {words}' for name, words in KINDS.items())}. [kept]")] = "kept",
    limit: Annotated[int | None, option(f"Maximum images in a grid. [{GRID_IMAGES}]", least=1)] = None,
    layers: Annotated[str | None, option("Layers to show, counted from 0. [those that reduce]")] = None,
    *,
    reduction: Reduction,
    device: Device = None,
    revision: Revision = None,
    dpi: Annotated[int, option("Pixels per inch; a panel's longer side is 2.3 inches. [150]", least=1)] = 150,
    json: Annotated[Path | None, option("Write the kept patches to this JSON file.")] = None,
) -> None:
    """Reads the options, runs the model and draws."""
    with refusals():
        check_drawable(output, kind, limit)
        check_folders(json)
        numbers = separated("layers", layers, int) or None
        pictures = read_pictures(images, (limit or GRID_IMAGES) if kind == "grid" else 1)
        loaded, processor = load_transformer(model, revision, device, reduction)
        traces = run_model(loaded, processor, pictures, kind)
        shown = choose_layers(traces, numbers)
        draw(traces, shown, kind, output, dpi)
        write_json(json, {"model": model, "kind": kind, "images": [values(trace, shown) for trace in traces]})
    for trace in traces:
        counts = ", ".join(str(trace.layers[layer].tokens_out) for layer in shown)
        typer.echo(f"{trace.name}: {counts} of {trace.tokens} tokens after layers {', '.join(map(str, shown))}")
    typer.echo(f"Wrote {output}.")


def check_drawable(output: Path, kind: str, limit: int | None) -> None:
    """Checks, before a model is loaded, that a kind of picture can be written.

    Raises:
        ValueError: an unknown kind or format, a folder that does not exist, an animation of scores, or a limit for a
            single image.
        ImportError: matplotlib is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind {kind!r}: choose from {', '.join(KINDS)}.")
    if limit is not None and kind != "grid":
        raise ValueError("--limit is for --kind grid: the other kinds show one image.")
    if kind == "scores" and output.suffix in ANIMATION_FORMATS:
        raise ValueError(f"Scores are drawn as one of {', '.join(FORMATS)}, which {output.name!r} is not.")
    check_picture_file(output)


def load_transformer(
    name: str, revision: str | None, device: str | None, reduction: dict[str, Any]
) -> tuple[PreTrainedModel, BaseImageProcessor | None]:
    """A FATR model, a ViT as one, or any other model as it is, with attention maps; and its image processor.

    Raises:
        FileNotFoundError, ValueError: see ``load_model`` and ``load_reduced``; a reduction for another model.
    """
    model_type = read_config(name, revision)["model_type"]
    if family_of(model_type) is not None:
        return load_reduced(name, revision=revision, eager=True, device=choose_device(device), **reduction)
    if reduction:
        raise ValueError(f"{name!r} is of model type {model_type!r}: it cannot be given a reduction.")
    return load_model(name, revision=revision, eager=True, device=choose_device(device))


def run_model(
    model: PreTrainedModel, processor: BaseImageProcessor | None, pictures: Sequence[NamedImage], kind: str
) -> list[ImageTrace]:
    """What is drawn: the images in the model, or the one image in the model and its rivals.

    Raises:
        ValueError: a checkpoint without an image processor, rivals of a model that is none of FATR, or a model that
            cannot be traced.
    """
    processor = check_has_processor(processor)
    if kind == "rivals":
        if not isinstance(model, ReductionModel):
            raise ValueError(f"Rivals are those of a FATR model, not of model type {model.config.model_type!r}.")
        return trace_rivals(model, pictures[0], processor)
    traces = []
    with progress("Running the model", len(pictures)) as advance:
        for picture in pictures:
            traces.append(trace_image(model, picture, processor))
            advance()
    return traces


def draw(traces: Sequence[ImageTrace], layers: Sequence[int], kind: str, output: Path, dpi: int) -> None:
    """Writes a picture or an animation."""
    if output.suffix in ANIMATION_FORMATS:
        save_animation(traces, output, layers, dpi)
    elif kind == "kept":
        save_figure(plot_kept(traces[0], layers), output, dpi)
    elif kind == "scores":
        save_figure(plot_scores(traces[0], layers), output, dpi)
    else:
        save_figure(plot_grid(traces, layers), output, dpi)


def values(trace: ImageTrace, layers: Sequence[int]) -> dict[str, Any]:
    """A row of the picture as JSON holds it; ``kept`` are the patches with a token of their own, row by row from 0."""
    return {
        "name": trace.name,
        "tokens": trace.tokens,
        "layers": [
            {
                "layer": layer,
                "tokens": trace.layers[layer].tokens_out,
                "kept": trace.layers[layer].own.flatten().nonzero().flatten().tolist(),
            }
            for layer in layers
        ],
    }
