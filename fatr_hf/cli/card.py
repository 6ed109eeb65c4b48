"""`fatr-hf card`: the model card of a saved FATR model."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.model_card import checkpoint_card
from .common import ModelName, Revision, check_folders, option, refusals, separated, write_json

HELP = """
Prints the model card of a saved FATR model, or writes it.

\b
  fatr-hf card outputs/model --repo-id user/vit-fatr --license apache-2.0
  fatr-hf card outputs/model --dataset imagenet-1k --accuracy 0.8123 --results results.md
  fatr-hf card outputs/model --base-model google/vit-base-patch16-224 --output outputs/model/README.md --force
"""


def run(
    model: ModelName,
    output: Annotated[Path | None, option("File for the card. [prints it]")] = None,
    force: Annotated[bool, option("Replace an existing file.", "--force")] = False,
    repo_id: Annotated[str | None, option("Where the model is published. [MODEL, if it is no folder]")] = None,
    license: Annotated[str | None, option("The Hub's identifier of the weights' license. [unknown]")] = None,
    base_model: Annotated[str | None, option("Hub name of the checkpoint that it was fine-tuned from.")] = None,
    dataset: Annotated[str | None, option("What it was fine-tuned and tested on.")] = None,
    accuracy: Annotated[float | None, option("Top-1 accuracy there, from 0 to 1.")] = None,
    results: Annotated[Path | None, option("Markdown file of what was measured.")] = None,
    tags: Annotated[str | None, option("Further tags, separated by commas.")] = None,
    revision: Revision = None,
    json: Annotated[Path | None, option("File for the card's metadata.")] = None,
) -> None:
    """Reads the options, builds the card and prints or writes it."""
    with refusals():
        check_folders(output, json)
        if output is not None and output.exists() and not force:
            raise FileExistsError(f"{output} is there already: replace it with --force, or choose another --output.")
        arguments = {
            "repo_id": repo_id,
            "license": license,
            "base_model": base_model,
            "dataset": dataset,
            "accuracy": accuracy,
            "results": None if results is None else results.read_text(),
            "tags": separated("tags", tags, str) or None,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        card = checkpoint_card(model, revision=revision, **given)
        write_json(json, card.data.to_dict())
        if output is not None:
            card.save(output)
    typer.echo(card if output is None else f"Wrote {output}.")
