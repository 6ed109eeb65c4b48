"""Folders of labelled pictures: a sub-folder for each class, perhaps below one for each split, or a table of labels."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from .folders import Folder, counted, first_few, list_folder
from .names import printable

TRAIN_SPLITS = ("train", "training")
TEST_SPLITS = ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
SPLITS = (*TRAIN_SPLITS, *TEST_SPLITS)
"""Names of folders, in any case, that hold a part of the data and are no class."""

FILE_NAME = "file_name"
"""The column of a table that names the picture, relative to the table's folder."""

LABEL_COLUMNS = ("label", "labels", "fine_label")


class Split(NamedTuple):
    """The pictures of a part of the data, in the order of their paths or of the table's rows."""

    root: Path
    """The folder of the split."""
    files: list[Path]
    """Relative to the root."""
    columns: dict[str, list[Any]]
    """What is known of every picture: ``label``, its class folder's name or None, or the columns of a table."""
    table: Path | None = None

    def labels(self) -> list[str | None]:
        """The class name of every picture where a column of the usual name has one."""
        name = next((name for name in LABEL_COLUMNS if name in self.columns), None)
        values = [None] * len(self.files) if name is None else self.columns[name]
        return [None if value is None else str(value) for value in values]


class ClassFolder(NamedTuple):
    """The parts of a folder of labelled pictures."""

    splits: dict[str, Split]
    """By the names of their folders; one is called ``train`` where there are no such folders."""
    notes: list[str]
    """Sentences about what was left out, and about folders that may not be meant as they are read."""


def read_class_folder(path: Path, named: Collection[str] = ()) -> ClassFolder:
    """The labelled pictures below a folder.

    A folder with a name of ``SPLITS`` that holds further folders or a table is a split. In a split, or in the folder
    itself where there are none, a picture's class is the first folder on the way to it. A table is a file called
    ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` with a column ``file_name``; it stands for the class
    folders. A single folder that holds everything is looked into.

    Args:
        path: the folder.
        named: further names of splits.

    Raises:
        ValueError: a split without pictures, a table that cannot be read or names missing files.
        ImportError, OSError: as for ``list_folder``.
    """
    folder = list_folder(path)
    tops = folders_with_pictures(folder)
    splits = find_splits(folder, named)
    if not splits and len(tops) == 1 and not table_of(path) and is_nested(folder):
        return read_class_folder(path / tops[0], named)
    for name in splits:
        if name not in tops and not table_of(path / name):
            raise ValueError(f"{printable(path / name)} holds no images, and its name is that of a split.")
    places = {name: Path(name) for name in splits} or {TRAIN_SPLITS[0]: Path()}
    tables = {table.relative_to(path) for place in places.values() if (table := table_of(path / place))}
    left_out = folder._replace(others=[file for file in folder.others if file not in tables]).left_out()
    notes = [left_out] if left_out else []
    parts = {name: read_split(folder, place, notes) for name, place in places.items()}
    if not tables:
        notes += empty_classes(folder, splits)
    odd = [file for file in folder.pictures if splits and file.parts[0] not in splits]
    if odd:
        notes.append(
            f"{printable(path)}: {counted(odd)} outside of the splits {', '.join(splits)} left out: {first_few(odd)}."
        )
    return ClassFolder(parts, notes)


def is_nested(folder: Folder) -> bool:
    """Whether all pictures of a folder lie two folders down or deeper."""
    return all(len(file.parts) > 2 for file in folder.pictures)


def folders_with_pictures(folder: Folder) -> list[str]:
    """Names of the folders directly below a folder that hold pictures."""
    return sorted({file.parts[0] for file in folder.pictures if len(file.parts) > 1})


def find_splits(folder: Folder, named: Collection[str]) -> list[str]:
    """Names of the folders that are splits; none where the folders are classes."""
    known = [
        entry.name
        for entry in sorted(folder.path.iterdir())
        if entry.is_dir() and (entry.name.lower() in SPLITS or entry.name in named)
    ]
    divided = {file.parts[0] for file in folder.pictures if len(file.parts) > 2}
    are_splits = any(name in divided or name in named or table_of(folder.path / name) for name in known)
    # A class may have such a name; where all have one, they are splits whose class folders are missing.
    return known if are_splits or {*folders_with_pictures(folder)} <= {*known} else []


def read_split(folder: Folder, split: Path, notes: list[str]) -> Split:
    """The pictures below a split's folder, with their classes or the columns of its table; adds to the notes."""
    root = folder.path / split
    files = [file.relative_to(split) for file in folder.pictures if file.is_relative_to(split)]
    table = table_of(root)
    columns = {} if table is None else read_table(table)
    if table is not None and FILE_NAME in columns:
        return listed_pictures(root, table, columns, files, notes)
    labels = [printable(file.parts[0]) if len(file.parts) > 1 else None for file in files]
    if table is not None and not any(labels):
        raise ValueError(f"{printable(table)} has no column {FILE_NAME!r}, which names the picture of a row.")
    deeper = sorted({file.parent for file in files if len(file.parts) > 2})
    if deeper:
        notes.append(f"{printable(root)}: pictures below a class's folder are of that class: {first_few(deeper)}.")
    return Split(root, files, {"label": labels})


def empty_classes(folder: Folder, splits: Collection[str]) -> list[str]:
    """A note for each folder that would be a class, if any of its files were a picture that opens here."""
    place = 1 if splits else 0
    with_pictures = {file.parts[: place + 1] for file in folder.pictures}
    others = [file for file in folder.others if len(file.parts) > place + 1 and (not splits or file.parts[0] in splits)]
    empty = sorted({file.parts[: place + 1] for file in others} - with_pictures)
    return [f"{printable(Path(folder.path, *parts))} holds files and no picture that opens here." for parts in empty]


def odd_places(split: Split) -> list[Path]:
    """The files of a split that lie in no class folder, and the folders whose files lie at another depth than most."""
    depths = Counter(len(file.parts) for file in split.files if len(file.parts) > 1)
    usual = max(depths, key=lambda depth: (depths[depth], -depth), default=2)
    odd = [] if split.table else [file for file in split.files if len(file.parts) != usual]
    return sorted({file if len(file.parts) < usual else file.parent for file in odd})


def listed_pictures(
    root: Path, table: Path, columns: dict[str, list[Any]], files: list[Path], notes: list[str]
) -> Split:
    """The pictures that a table lists, in its order; adds a note about those that it does not.

    Raises:
        ValueError: rows without a file, or with one that is not there.
    """
    names = columns.pop(FILE_NAME)
    missing = [Path(str(name)) for name in names if name is None or not (root / str(name)).is_file()]
    if missing:
        raise ValueError(f"{printable(table)} lists {len(missing)} files that are not there: {first_few(missing)}.")
    unlisted = sorted({*files} - {Path(name) for name in names})
    if unlisted:
        notes.append(f"{printable(table)} does not list {counted(unlisted)}: {first_few(unlisted)}.")
    return Split(root, [Path(name) for name in names], columns, table)


def table_of(folder: Path) -> Path | None:
    """The table of labels that lies in a folder, or None."""
    paths = (folder / f"metadata{ending}" for ending in READERS)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> dict[str, list[Any]]:
    """The columns of a table, by name; numbers of a CSV file as integers where a whole column holds them.

    Raises:
        ValueError: a file that is no such table.
    """
    try:
        rows = READERS[path.suffix](path)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {name: [row.get(name) for row in rows] for name in names}
    except Exception as error:  # a file of any kind may have this name
        raise ValueError(f"{printable(path)} cannot be read as a table: {type(error).__name__}: {error}") from error


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a line of names."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file, strict=True))
    if any(None in row for row in rows):
        raise ValueError("a row has more fields than the first line has names")
    for name in rows[0] if rows else ():
        values = [row[name] or None for row in rows]
        if all(value is None or value.lstrip("-").isdecimal() for value in values):
            values = [None if value is None else int(value) for value in values]
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file with a JSON object in every line."""
    return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
"""Kinds of tables, by the endings of their names."""
