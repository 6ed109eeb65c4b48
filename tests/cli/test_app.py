"""The command line as a whole: how it starts, and what it says of itself."""

import runpy
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fatr_hf.cli
from fatr_hf import __version__
from fatr_hf_cli import COMMANDS, app


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


def test_every_file_with_a_command_is_listed():
    files = sorted(Path(fatr_hf.cli.__file__).parent.glob("*.py"))
    assert [path.stem for path in files if "\nHELP = " in path.read_text()] == [*COMMANDS]


def test_help_waits_for_neither_torch_nor_transformers():
    script = "import sys, fatr_hf_cli; fatr_hf_cli.app(['--help'], standalone_mode=False); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "Commands:" in printed
    assert not {"torch", "transformers", "fatr_hf"} & set(printed.splitlines()[-1].split())


def test_an_unknown_command_is_refused_in_words(invoke):
    result = invoke("shrink")
    assert result.exit_code == 2
    assert "No such command 'shrink'" in result.stderr


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
