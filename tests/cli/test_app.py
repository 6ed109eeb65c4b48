"""The command line as a whole: how it starts, and what it says of itself."""

import runpy
import sys
from importlib.metadata import entry_points

import pytest

from fatr_hf import __version__
from fatr_hf.cli import app

COMMANDS = ("analyze", "bench", "card", "compare", "convert", "diagnose", "search", "verify", "visualize")


def test_the_installed_command_is_this_one():
    [script] = entry_points(group="console_scripts", name="fatr-hf")
    assert script.load() is app


def test_version(invoke):
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"fatr-hf {__version__}\n"


def test_help_lists_every_command(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines()[1:]] == [*COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_examples(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.count(f"  fatr-hf {command}") >= 3
    assert "--json" in result.stdout


def test_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cli", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fatr_hf.cli", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("fatr-hf ")
