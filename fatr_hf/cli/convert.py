"""`fatr-hf convert`: a checkpoint as a folder of FATR."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.convert import Conversion, convert_checkpoint
from ..hub.load import quiet_loading
from ..hub.model_card import token_table
from .common import (
    ModelName,
    Revision,
    check_folders,
    numbers,
    option,
    refusals,
    write_json,
)
from .reduction import FIELDS, Reduction, takes_reduction

HELP = """
Converts a checkpoint to FATR without training.

MODEL is a folder or Hub name; the README lists the families that convert. Without options of the reduction the preset
is faithful, for models that are not trained further. OUTPUT becomes a folder with model, code, image processor and
card, which loads without fatr_hf: from_pretrained(OUTPUT, trust_remote_code=True).

\b
  fatr-hf convert google/vit-base-patch16-224 outputs/vit-fatr
  fatr-hf convert facebook/dinov2-small outputs/dinov2-fatr --keep-ratio 0.8,0.7,0.6 --dc-windows 2
  fatr-hf convert google/vit-base-patch16-224 outputs/vit-384 --image-size 384
  fatr-hf convert outputs/base outputs/local --preset local --json conversion.json
"""


@takes_reduction("preset", *FIELDS)
def run(
    model: ModelName,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to create.", show_default=False)],
    *,
    reduction: Reduction,
    image_size: Annotated[str | None, option("Image size: one side, or height,width. [the checkpoint's]")] = None,
    revision: Revision = None,
    json: Annotated[Path | None, option("Write the summary to this JSON file.")] = None,
) -> None:
    """Reads the options, converts and prints."""
    with refusals(), quiet_loading():
        check_folders(json)
        sides = numbers("sides", image_size, int)
        conversion = convert_checkpoint(model, output, revision=revision, image_size=sides, **reduction)
        write_json(json, values(conversion))
    typer.echo(summary(conversion))


def values(conversion: Conversion) -> dict[str, object]:
    """A conversion as JSON holds it; ``tokens_per_layer`` are those that leave each layer."""
    return {
        "folder": str(conversion.folder),
        "architecture": conversion.architecture,
        "has_image_processor": conversion.has_image_processor,
        "tokens_per_layer": [tokens.tokens_out for tokens in conversion.plan],
        "macs_before": conversion.macs_before,
        "macs_after": conversion.macs_after,
    }


def summary(conversion: Conversion) -> str:
    """What was written and what it spares, for people."""
    processor = "with" if conversion.has_image_processor else "without"
    before, after = conversion.macs_before, conversion.macs_after
    return (
        f"Wrote {conversion.folder}: {conversion.architecture} {processor} image processor.\n\n"
        f"{token_table(conversion.plan)}\n"
        f"Multiply-accumulates of an image: {before / 1e9:.3g} G before, {after / 1e9:.3g} G after "
        f"({after / before:.2f})."
    )
