"""Files of figures: what can be written here, and written in whole or not at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def require_figure_file(path: str | Path, formats: Sequence[str] = FORMATS) -> None:
    """Checks, before anything is computed, that a figure can be written.

    Args:
        path: the file.
        formats: the suffixes that are allowed.

    Raises:
        ValueError: another format, or a folder that does not exist.
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix not in formats:
        raise ValueError(f"{path} cannot be written: its name must end in one of {', '.join(formats)}.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}.")
    require_matplotlib()


def require_matplotlib() -> None:
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
        ValueError: another format, or a folder that does not exist.
    """
    require_figure_file(path)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Within a ``with`` block the path of an unfinished file, which then takes its name; after an error it is gone."""
    path = Path(path)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as workspace:
        unfinished = Path(workspace, path.name)
        yield unfinished
        unfinished.replace(path)
