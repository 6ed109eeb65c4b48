"""Every error that the package words has an entry in docs/troubleshooting.md, and every entry an error."""

import ast
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from fatr_hf import FATRViTConfig
from fatr_hf.benchmark.settings import parse_size
from fatr_hf.training.data import load_image_data

ROOT = Path(__file__).parent.parent

PAGE = (ROOT / "docs/troubleshooting.md").read_text()

ENTRIES = re.findall(r"\*\*`(.+?)`\*\*", PAGE)
"""Fragments of messages, which the page sets in bold code; ``...`` stands for values."""

FAULTS_OF_OUR_OWN = ("... does not share the stock model's weights: ...",)
"""Messages that no reader can bring about."""


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


def test_every_error_has_an_entry():
    known = [*ENTRIES, *FAULTS_OF_OUR_OWN]
    messages = raised_in("fatr_hf")
    assert len(messages) > 200
    unknown = [f"{place} {text}" for place, text in messages.items() if not any(quotes(entry, text) for entry in known)]
    assert unknown == []


def test_every_entry_has_an_error():
    messages = [*raised_in("fatr_hf").values(), *raised_in("examples").values()]
    stale = [
        entry for entry in (*ENTRIES, *FAULTS_OF_OUR_OWN) if not any(quotes(entry, message) for message in messages)
    ]
    assert stale == []


def test_entries_are_given_once():
    assert len(ENTRIES) == len(set(ENTRIES))


def test_entries_say_enough_to_be_recognised():
    assert [entry for entry in ENTRIES if len(re.findall(r"\w+", entry)) < 3] == []


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda model: FATRViTConfig(keep_ratio=1.5), id="keep ratio"),
        pytest.param(lambda model: FATRViTConfig(keep_ration=0.5), id="misspelt field"),
        pytest.param(lambda model: model.from_pretrained("./nowhere"), id="no checkpoint"),
        pytest.param(lambda model: model.set_reduction(reweight_attention=False), id="field that cannot be changed"),
        pytest.param(lambda model: model.set_reduction(dc_windows=2), id="lacking parameters"),
        pytest.param(lambda model: model(torch.zeros(1, 3, 32, 32), attention_mask=torch.ones(1, 65)), id="mask"),
        pytest.param(lambda model: parse_size("X"), id="size"),
        pytest.param(lambda model: load_image_data("./nowhere"), id="no data"),
    ],
)
def test_what_a_reader_sees_is_on_the_page(make_fatr, call):
    with pytest.raises((OSError, StrictDataclassError, ValueError)) as caught:
        call(make_fatr())
    assert any(quotes(entry, str(caught.value)) for entry in ENTRIES)
