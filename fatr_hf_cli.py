"""The program `fatr-hf`: its commands by name. Only the one that is called is imported, from `fatr_hf/cli/`.

This module stands outside the package, because importing that takes seconds: it registers models with transformers.
"""

from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "analyze": "Measures spectrum, rank and attention, layer by layer.",
    "bench": "Times FATR, the stock model and the rivals in turn.",
    "card": "Prints or writes the model card of a saved FATR model.",
    "compare": "Compares FATR with the unreduced model and with rivals.",
    "convert": "Converts a checkpoint to FATR without training.",
    "diagnose": "Reports on one page whether a reduction suits a model.",
    "search": "Searches for the best reductions at every cost.",
    "verify": "Compares the code of a saved model with this release.",
    "visualize": "Draws which tokens a model keeps, layer by layer.",
}


class Commands(TyperGroup):
    """Commands that are listed by their summaries and loaded when they are called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As in click, with the loaded command."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> Any:
    """The command of this name, as click takes it."""
    module = import_module(f"fatr_hf.cli.{name}")
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name, help=module.HELP, context_settings={"token_normalize_func": with_dashes})(module.run)
    return typer.main.get_command(single)


def with_dashes(option: str) -> str:
    """An option's name as it is defined, for those who write it as in Python: ``--keep_ratio``."""
    return option.replace("_", "-")


def print_version(wanted: bool) -> None:
    """Prints the version and ends the program, if that is wanted."""
    if wanted:
        typer.echo(f"fatr-hf {installed_version('fatr-hf')}")
        raise typer.Exit


def summary() -> None:
    """Stands for a command in the list."""


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Frequency-aware token reduction for Hugging Face vision transformers."""


for name, words in COMMANDS.items():
    app.command(name, help=words)(summary)
