"""Names of files and models as text that can be printed and written in UTF-8."""

import unicodedata
from typing import Any


def printable(name: Any) -> str:
    r"""A name with escapes such as ``\xe9`` for bytes that are not UTF-8, and ``\n`` for control characters."""
    return "".join(
        escaped(each) if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") else each for each in str(name)
    )


def escaped(character: str) -> str:
    """One character as Python escapes it; of a surrogate that stands for a byte (PEP 383) that byte."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
