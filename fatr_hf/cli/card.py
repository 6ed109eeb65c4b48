"""`fatr-hf card`: the model card of a saved FATR model."""

from pathlib import Path
from typing import Annotated

import typer

from ..hub.model_card import checkpoint_card
from .common import ModelName, Revision, check_folders, option, refusals, separated, write_json

HELP = """
Prints or writes the model card of a saved FATR model.

\b
  fatr-hf card outputs/model --repo-id user/vit-fatr --license apache-2.0
  fatr-hf card outputs/model --dataset imagenet-1k --accuracy 0.8123 --results results.md
  fatr-hf card outputs/model --base-model google/vit-base-patch16-224 --output outputs/model/README.md --force
"""


def run(
    model: ModelName,
    output: Annotated[Path | None, option("Write the card to this file. [print it]")] = None,
    force: Annotated[bool, option("Replace an existing file.", "--force")] = False,
    repo_id: Annotated[str | None, option("Hub name of the published model. [MODEL, unless a folder]")] = None,
    license: Annotated[str | None, option("Hub identifier of the weights' license. [unknown]")] = None,
    base_model: Annotated[str | None, option("Hub name of the checkpoint before fine-tuning.")] = None,
    dataset: Annotated[str | None, option("Data set of fine-tuning and test.")] = None,
    accuracy: Annotated[float | None, option("Top-1 accuracy on that data set, from 0 to 1.")] = None,
    results: Annotated[Path | None, option("Markdown file of results to include.")] = None,
    tags: Annotated[str | None, option("Additional tags, separated by commas.")] = None,
    revision: Revision = None,
    json: Annotated[Path | None, option("Write the card's metadata to this JSON file.")] = None,
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
