"""The command line `fatr-hf`: a file for each command, which reads its options, calls the package and prints."""

from typing import Annotated

import typer

from ..version import __version__
from . import analyze, bench, card, compare, convert, diagnose, search, verify, visualize

__all__ = ["analyze", "app", "bench", "card", "compare", "convert", "diagnose", "search", "verify", "visualize"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def print_version(wanted: bool) -> None:
    """Prints the version and ends the program, if that is wanted."""
    if wanted:
        typer.echo(f"fatr-hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Frequency-aware token reduction for Hugging Face vision transformers."""


def with_dashes(option: str) -> str:
    """An option's name as it is defined, for those who write it as in Python: ``--keep_ratio``."""
    return option.replace("_", "-")


for command in (analyze, bench, card, compare, convert, diagnose, search, verify, visualize):
    name = command.__name__.rpartition(".")[2]
    app.command(name, help=command.HELP, context_settings={"token_normalize_func": with_dashes})(command.run)
