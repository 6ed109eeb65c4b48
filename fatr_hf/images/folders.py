"""Which files of a folder are pictures: those that end like a format that Pillow opens here, but for hidden ones."""

import os
from collections import Counter
from collections.abc import Iterator, Sized
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .names import printable
from .opening import import_pillow

NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow recognises but does not decode by itself."""

HIDDEN = (".", "__")
"""How the names of hidden files and folders begin: ``._cat.png``, ``.ipynb_checkpoints``, ``__MACOSX``."""

_NAMED = 5


class Folder(NamedTuple):
    """The files below a folder."""

    path: Path
    pictures: list[Path]
    """Relative to the folder, in the order of their paths. A link that leads nowhere is among them."""
    others: list[Path]
    """Files of other kinds, alike."""
    hidden: list[Path]
    """Hidden files and folders, alike; what such a folder holds is not looked at."""

    def left_out(self) -> str | None:
        """A sentence about the files that are no pictures; None where there are none."""
        parts = []
        if self.hidden:
            parts.append(f"{len(self.hidden)} hidden ({first_few(self.hidden)})")
        if self.others:
            kinds = Counter(path.suffix.lower() or "no ending" for path in self.others)
            counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(_NAMED))
            parts.append(f"{len(self.others)} of other kinds ({counts}{', ...' if len(kinds) > _NAMED else ''})")
        if not parts:
            return None
        return f"{printable(self.path)}: {counted(self.pictures)}; files left out: {', '.join(parts)}."


@cache
def picture_endings() -> frozenset[str]:
    """Endings of file names, such as ``.png``, of all formats that Pillow opens here."""
    image = import_pillow().Image
    endings = image.registered_extensions()
    return frozenset(end for end, name in endings.items() if name in image.OPEN and name not in NO_PICTURES)


def list_folder(path: str | os.PathLike[str]) -> Folder:
    """Every file below a folder, links to files and folders followed.

    Raises:
        ImportError: pillow is not installed.
        OSError: a folder that cannot be read.
    """
    folder = Folder(Path(path), [], [], [])
    for file in walk(folder.path, folder.path, folder.hidden, ()):
        (folder.pictures if file.suffix.lower() in picture_endings() else folder.others).append(file)
    for files in (folder.pictures, folder.others):
        files.sort()
    return folder


def walk(path: Path, root: Path, hidden: list[Path], above: tuple[Path, ...]) -> Iterator[Path]:
    """Files below a folder, relative to the root; fills in the list of hidden ones.

    Args:
        above: the real paths of the folders on the way, into which no link leads back.
    """
    above = (*above, path.resolve())
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(HIDDEN):
            hidden.append(entry.relative_to(root))
        elif not entry.is_dir():
            yield entry.relative_to(root)
        elif entry.resolve() not in above:
            yield from walk(entry, root, hidden, above)


def first_few(paths: list[Path]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(printable(path) for path in paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")


def counted(files: Sized) -> str:
    """How many pictures there are, with the noun."""
    return f"{len(files)} picture{'' if len(files) == 1 else 's'}"
