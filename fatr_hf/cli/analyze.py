"""`fatr-hf analyze`: measures of a model layer by layer, and their figures."""

from pathlib import Path
from typing import Annotated

import typer

from ..analysis.analyze import analysis_table, analyze, choose_measures
from ..analysis.curves import analysis_figures, noise_figure
from ..analysis.figure_files import FORMATS, check_matplotlib, save_figure
from ..analysis.model_measures import MEASURES
from ..analysis.noise import noise_sensitivity
from ..benchmark.machine import choose_device
from ..hub.load import load_model
from .common import (
    BatchSize,
    Device,
    Images,
    Limit,
    ModelName,
    Revision,
    check_folders,
    load_pictures,
    option,
    refusals,
    separated,
    watched,
    write_json,
)

HELP = """
Measures the tokens of a vision transformer, layer by layer: spectrum, rank, similarity, attention.

MODEL is a folder or Hub name of any vision transformer over a grid of patches, reduced or not. IMAGES is a picture, a
folder of them, or the word photographs. A layer's row describes the tokens that enter it.

\b
  fatr-hf analyze outputs/digits/model photographs
  fatr-hf analyze google/vit-base-patch16-224 path/to/images --limit 256 --figures outputs/analysis
  fatr-hf analyze facebook/dinov2-base photographs --measures spectrum,effective_rank --json dinov2.json
  fatr-hf analyze outputs/digits/base path/to/images --noise --figures outputs/analysis --format svg
"""


def run(
    model: ModelName,
    images: Images,
    measures: Annotated[str | None, option(f"Measures to take: {', '.join(MEASURES)}. [all]")] = None,
    noise: Annotated[bool, option("Also add noise to high- and to low-frequency tokens.", "--noise")] = False,
    figures: Annotated[Path | None, option("Folder for figures; created if missing.")] = None,
    format: Annotated[str, option(f"Format of the figures: {', '.join(each[1:] for each in FORMATS)}. [png]")] = "png",
    batch_size: BatchSize = 32,
    limit: Limit = None,
    device: Device = None,
    revision: Revision = None,
    json: Annotated[Path | None, option("Write all measurements to this JSON file.")] = None,
) -> None:
    """Reads the options, measures and prints."""
    with refusals():
        check_folders(json)
        if f".{format}" not in FORMATS:
            raise ValueError(f"--format {format} must be one of {', '.join(each[1:] for each in FORMATS)}.")
        if figures is not None:
            check_matplotlib()
        names = separated("measures", measures, str) or None
        loaded, processor = load_model(model, revision=revision, eager=True, device=choose_device(device))
        choose_measures(loaded, names)
        data = load_pictures(loaded, processor, images, limit, batch_size)
        analysis = analyze(loaded, watched("Measuring", data), names)
        disturbed = noise_sensitivity(loaded, watched("Adding noise", data)) if noise else ()
        drawn = {} if figures is None else analysis_figures(analysis, Path(model).name)
        if figures is not None and disturbed:
            drawn["noise"] = noise_figure(disturbed, "cosine")
        if figures is not None:
            figures.mkdir(parents=True, exist_ok=True)
            for name, figure in drawn.items():
                save_figure(figure, figures / f"{name}.{format}")
        write_json(json, {"model": model, **analysis.to_dict(), "noise": [row._asdict() for row in disturbed]})
    typer.echo(analysis_table(analysis), nl=False)
