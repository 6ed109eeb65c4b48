"""Names of files and models as text that can be shown: on a terminal, in UTF-8 files, in figures."""

import unicodedata


def printable(name: str) -> str:
    r"""A name with escapes such as ``\xe9`` for bytes that are not UTF-8, and ``\n`` for control characters."""
    return "".join(
        escaped(each) if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") else each for each in str(name)
    )


def escaped(character: str) -> str:
    """One character as Python escapes it; of a surrogate that stands for a byte (PEP 383) that byte."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def figure_text(name: str) -> str:
    """A name as matplotlib shows it letter by letter: no formula, and not left out of legends."""
    text = printable(name).replace("$", r"\$")
    # A legend leaves out what begins with an underscore; a word joiner has no width.
    return f"\N{WORD JOINER}{text}" if text.startswith("_") else text


def table_text(name: str) -> str:
    """A name as a cell of a Markdown table."""
    return printable(name).replace("|", "\\|")
