"""Every entry of docs/troubleshooting.md quotes an error that the package or an example raises."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

PAGE = (ROOT / "docs/troubleshooting.md").read_text()

ENTRIES = re.findall(r"\*\*`(.+?)`\*\*", PAGE)
"""Fragments of messages, which the page sets in bold code; ``...`` stands for values."""


def wording(expression):
    """A message as it stands in the code, with … for values."""
    if isinstance(expression, ast.JoinedStr):
        return "".join(wording(part) for part in expression.values)
    return expression.value if isinstance(expression, ast.Constant) else "…"


def raised_in(folder):
    """The messages of all errors that the files of a folder raise, by file and line."""
    messages = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                # The message comes last: OSError has a number before it.
                messages[f"{path.relative_to(ROOT)}:{node.lineno}"] = wording(node.exc.args[-1])
    return {place: message for place, message in messages.items() if isinstance(message, str)}  # the rest: exit codes


def quotes(entry, message):
    return re.search(".*".join(map(re.escape, entry.split("..."))), message, re.DOTALL) is not None


def test_every_entry_has_an_error():
    messages = [*raised_in("fatr_hf").values(), *raised_in("examples").values()]
    assert [entry for entry in ENTRIES if not any(quotes(entry, message) for message in messages)] == []


def test_entries_are_given_once():
    assert len(ENTRIES) == len(set(ENTRIES))


def test_entries_say_enough_to_be_recognised():
    assert [entry for entry in ENTRIES if len(re.findall(r"\w+", entry)) < 3] == []
