"""`fatr-hf verify`: whether a repository's code is that of this release."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.code import compare_code
from ..version import __version__
from .common import ModelName, Revision, check_folders, option, refusals, write_json

HELP = """
Compares the code of a saved model, file by file, with this release of fatr_hf.

Does not run the code. Exits with code 1 if a file differs, is missing or is not ours.

\b
  fatr-hf verify outputs/model
  fatr-hf verify user/model --revision 1a2b3c4
  fatr-hf verify user/model --json verdicts.json
"""


def run(
    model: ModelName,
    revision: Revision = None,
    json: Annotated[Path | None, option("Write the verdicts to this JSON file.")] = None,
) -> None:
    """Reads the options, compares and prints."""
    with refusals():
        check_folders(json)
        verdicts = compare_code(model, revision)
        write_json(json, verdicts)
    width = max(map(len, verdicts))
    for file, verdict in verdicts.items():
        typer.echo(f"{file:{width}}  {verdict}")
    if set(verdicts.values()) != {"same"}:
        typer.echo(f"Error: this is not the unmodified code of fatr-hf {__version__}.", err=True)
        raise typer.Exit(1)
    typer.echo(f"The unmodified code of fatr-hf {__version__}.")
