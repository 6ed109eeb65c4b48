"""Names of files and models as text in figures and tables."""

from ..images import printable


def figure_text(name: str) -> str:
    """A name as matplotlib shows it letter by letter: no formula, and not left out of legends."""
    text = printable(name).replace("$", r"\$")
    # A legend leaves out what begins with an underscore; a word joiner has no width.
    return f"\N{WORD JOINER}{text}" if text.startswith("_") else text


def table_text(name: str) -> str:
    """A name as a cell of a Markdown table."""
    return printable(name).replace("|", "\\|")
