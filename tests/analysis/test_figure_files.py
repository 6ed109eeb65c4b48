import sys

import pytest
from matplotlib.figure import Figure

from fatr_hf.analysis.figure_files import check_figure_file, save_figure, whole_file

FIRST_BYTES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2])
    return figure


@pytest.mark.parametrize("suffix", FIRST_BYTES)
def test_figures_are_written(figure, tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    path.write_text("earlier")
    save_figure(figure, str(path))
    assert path.read_bytes().startswith(FIRST_BYTES[suffix])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_failure_leaves_the_earlier_file_alone(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("earlier")
    with pytest.raises(OSError, match="half"), whole_file(path) as unfinished:
        unfinished.with_name("half.png").read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["figure.png"]
    assert path.read_text() == "earlier"


@pytest.mark.parametrize(
    ("name", "words"),
    [("figure.jpeg", "must end in one of .png, .svg, .pdf"), ("missing/figure.png", "there is no folder")],
)
def test_what_cannot_be_written_is_refused(figure, tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        save_figure(figure, tmp_path / name)


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fatr-hf\[analysis\]'"):
        check_figure_file(tmp_path / "figure.png")
