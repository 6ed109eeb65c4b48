"""What commands share: errors in words, progress."""

import io
import sys

import pytest
import torch
import typer

from fatr_hf import FATRViTConfig
from fatr_hf.benchmark import OutOfMemory
from fatr_hf.cli.common import progress, refusals


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no such size"), 2),
        (FileNotFoundError("no such size"), 2),
        (ImportError("no such size"), 2),
        (OutOfMemory("no such size"), 1),
        (torch.OutOfMemoryError("no such size"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_end_the_program_in_words(error, code, capsys):
    with pytest.raises(typer.Exit) as ended, refusals():
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == "Error: no such size\n"


def test_a_configurations_refusal_is_its_own_words(tiny, capsys):
    with pytest.raises(typer.Exit), refusals():
        FATRViTConfig(**tiny, keep_ratio=3.0)
    assert capsys.readouterr().err.startswith("Error: keep_ratio=3.0 must lie in (0, 1]")


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "no-terminal"])
def test_progress_shows_on_a_terminal_alone(is_terminal, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress("Measuring", total=3) as advance:
        for _ in range(3):
            advance()
    assert ("Measuring" in stream.getvalue()) == is_terminal
    assert ("100%" in stream.getvalue()) == is_terminal
