"""What the tests of all commands need: running one, and checkpoints to run it on."""

import pytest
from transformers import ViTImageProcessor
from typer.testing import CliRunner

from fatr_hf.cli import app


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


@pytest.fixture
def stock_folder(stock, tmp_path):
    """A stock ViT classifier with its image processor."""
    folder = tmp_path / "stock"
    stock.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def fatr_folder(make_fatr, tmp_path):
    """A FATR classifier."""
    make_fatr().save_pretrained(tmp_path / "fatr")
    return tmp_path / "fatr"
