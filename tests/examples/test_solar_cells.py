"""Photographs of solar cells as folders of classes; the package that holds them is stood in for."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("solar_cells")


@pytest.fixture
def package(monkeypatch):
    """16 cells of two kinds and two probabilities; every pixel of the n-th is n."""
    utils = ModuleType("elpv_dataset.utils")
    pixels = np.arange(16, dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(6, 2)
    utils.load_dataset = lambda: (pixels, np.tile([0.0, 1.0], 8), np.repeat(["mono", "poly"], 8))
    monkeypatch.setitem(sys.modules, "elpv_dataset", ModuleType("elpv_dataset"))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", utils)


def test_every_cell_is_written_once_and_each_group_is_split_alike(program, package, monkeypatch, tmp_path, capsys):
    output = tmp_path / "cells"
    monkeypatch.setattr(sys, "argv", ["solar_cells.py", str(output)])
    program.main()
    files = {path.relative_to(output).as_posix() for path in output.rglob("*.png")}
    assert len(files) == 16
    assert {name for name in files if name.startswith("test/")} == {
        "test/functional/0006-mono.png",
        "test/defective/0007-mono.png",
        "test/functional/0014-poly.png",
        "test/defective/0015-poly.png",
    }
    for name in files:
        number = int(Path(name).name[:4])
        assert ("defective" in name) == (number % 2 == 1)
        assert np.asarray(PIL.Image.open(output / name)).tolist() == [[number] * 6] * 6
    assert "16 cells" in capsys.readouterr().out


def test_without_the_package_it_says_how_to_get_it(program, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    monkeypatch.setattr(sys, "argv", ["solar_cells.py", str(tmp_path / "cells")])
    with pytest.raises(ImportError, match="pip install elpv-dataset"):
        program.main()
    assert not (tmp_path / "cells").exists()
