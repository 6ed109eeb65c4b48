"""What the tests of all commands need: running one, and checkpoints to run it on."""

import pytest
from typer.testing import CliRunner

from fatr_hf_cli import app


@pytest.fixture
def invoke():
    """Runs a command in this process; its result has exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def refused(invoke):
    """Checks that a command is refused in words, and returns them."""

    def refuse(*arguments):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        return result.stderr

    return refuse
