"""`fatr-hf diagnose`: whether a reduction suits a model, on one page."""

from pathlib import Path
from typing import Annotated

import typer

from ..analysis.diagnosis import diagnose, find, html_page, text_page
from ..benchmark.machine import choose_device
from ..hub.load import load_reduced
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
    watched,
    write_json,
    write_text,
)
from .reduction import FIELDS, Reduction, takes_reduction

HELP = """
Reports on one page whether a reduction suits a model: its answers with and without the reduction, what each reduction
keeps, which layers are costly, whether the choice of tokens matters, and what to change.

MODEL is a folder or Hub name of a FATR model, or of any ViT, which is then reduced without training. IMAGES is a
picture, a folder of them (a sub-folder for each class gives labels), or the word photographs; a few hundred images are
enough. Each image takes about three forward passes for each layer of the model.

\b
  fatr-hf diagnose outputs/model path/to/images --html diagnosis.html
  fatr-hf diagnose google/vit-base-patch16-224 path/to/images --limit 200 --keep-ratio 0.5 --json diagnosis.json
  fatr-hf diagnose outputs/base path/to/images --preset local --html local.html
  fatr-hf diagnose outputs/base photographs --reduction-layers 4,8 --device cpu
"""


@takes_reduction("preset", *FIELDS)
def run(
    model: ModelName,
    images: Images,
    *,
    reduction: Reduction,
    batch_size: BatchSize = 32,
    limit: Limit = None,
    device: Device = None,
    revision: Revision = None,
    html: Annotated[Path | None, option("Write the page with its charts to this file.")] = None,
    json: Annotated[Path | None, option("Write all measurements and findings to this JSON file.")] = None,
) -> None:
    """Reads the options, diagnoses and prints."""
    with refusals():
        check_folders(html, json)
        reduced, processor = load_reduced(
            model, revision=revision, eager=True, device=choose_device(device), **reduction
        )
        data = load_pictures(reduced, processor, images, limit, batch_size)
        diagnosis = diagnose(reduced, watched("Diagnosing", data))
        if html is not None:
            write_text(html, html_page(diagnosis, model, images))
        findings = [finding._asdict() for finding in find(diagnosis)]
        write_json(json, {"model": model, "images_of": images, "findings": findings, **diagnosis.to_dict()})
    typer.echo(text_page(diagnosis, model, images), nl=False)
