"""Files of figures: what can be written here, and written in whole or not at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..baselines.arguments import check_kind, described, is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

LEAST_DPI, MOST_DPI = 10, 2400
"""Pixels an inch that figures can have."""


def check_figure_file(path: str | Path, formats: Sequence[str] = FORMATS) -> None:
    """Checks, before anything is computed, that a figure can be written.

    Args:
        path: the file.
        formats: the suffixes that are allowed.

    Raises:
        ValueError: another format, a folder, or a file in one that does not exist.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"path must be the name of a file, not {described(path)}.")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder.")
    if path.suffix not in formats:
        raise ValueError(f"{path} cannot be written: its name must end in one of {', '.join(formats)}.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}.")
    check_matplotlib()


def check_resolution(dpi: float) -> None:
    """Raises a ValueError for pixels an inch with which no letter could be read, or no memory would suffice."""
    if not is_number(dpi) or not LEAST_DPI <= dpi <= MOST_DPI:
        raise ValueError(f"dpi={described(dpi)} must be a number of pixels an inch from {LEAST_DPI} to {MOST_DPI}.")


def check_matplotlib() -> None:
    """Raises an ImportError in words where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'fatr-hf[analysis]'.") from error


def save_figure(figure: "Figure", path: str | Path, dpi: float = 150) -> None:
    """Writes a figure as PNG, SVG or PDF; a file of that name is replaced when the new one is complete.

    Args:
        dpi: pixels an inch of a PNG, and of pictures inside an SVG or PDF.

    Raises:
        ValueError: what is no figure, a resolution out of range, or what ``check_figure_file`` refuses.
    """
    check_figure_file(path)
    from matplotlib.figure import Figure

    check_kind("figure", figure, Figure, "a matplotlib.figure.Figure")
    check_resolution(dpi)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Within a ``with`` block the path of an unfinished file, which then takes its name; after an error it is gone."""
    path = Path(path)
    # The folder's name is short: a long file name has no room for more.
    with TemporaryDirectory(dir=path.parent, prefix=".writing-") as workspace:
        unfinished = Path(workspace, path.name)
        yield unfinished
        unfinished.replace(path)
