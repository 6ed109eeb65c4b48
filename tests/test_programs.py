"""How programs end that cannot go on."""

import sys

import pytest
import torch

from fatr_hf import FATRViTConfig
from fatr_hf.benchmark import OutOfMemory
from fatr_hf.hub.errors import ProofError
from fatr_hf.programs import run_program


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no such size"), 2),
        (FileNotFoundError("no such size"), 2),
        (ImportError("no such size"), 2),
        (OutOfMemory("no such size"), 1),
        (torch.OutOfMemoryError("no such size"), 1),
        (FloatingPointError("no such size"), 1),
        (ProofError("no such size"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mistakes_and_failures_end_a_program_with_a_line(error, code, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py"])
    with pytest.raises(SystemExit) as ended:
        run_program(raising(error))
    assert ended.value.code == code
    assert capsys.readouterr() == ("", "Error: no such size\n")


def test_a_configurations_refusal_is_its_own_words(tiny, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py"])
    with pytest.raises(SystemExit):
        run_program(lambda: FATRViTConfig(**tiny, keep_ratio=3.0))
    assert capsys.readouterr().err.startswith("Error: keep_ratio=3.0 must lie in (0, 1]")


def test_other_errors_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py"])
    with pytest.raises(KeyError):
        run_program(raising(KeyError("a fault of the program")))


def test_the_traceback_is_there_for_those_who_ask(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py", "--traceback", "--limit", "3"])
    with pytest.raises(ValueError, match="no such size"):
        run_program(raising(ValueError("no such size")))
    assert sys.argv == ["program.py", "--limit", "3"]  # options of the program alone
