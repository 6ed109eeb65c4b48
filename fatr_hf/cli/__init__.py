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


app.command("analyze", help=analyze.HELP)(analyze.run)
app.command("bench", help=bench.HELP)(bench.run)
app.command("card", help=card.HELP)(card.run)
app.command("compare", help=compare.HELP)(compare.run)
app.command("convert", help=convert.HELP)(convert.run)
app.command("diagnose", help=diagnose.HELP)(diagnose.run)
app.command("search", help=search.HELP)(search.run)
app.command("verify", help=verify.HELP)(verify.run)
app.command("visualize", help=visualize.HELP)(visualize.run)
