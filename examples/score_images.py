"""The pictures that score.py takes: each in its place, opened one by one, a broken one described."""

import glob
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from datasets import Dataset, Features, Image, config, load_dataset
from datasets.exceptions import DatasetGenerationError
from torch import Tensor
from transformers import BaseImageProcessor

from fatr_hf.analysis.images import NamedImage, to_batch
from fatr_hf.analysis.schedule_search.study import digest
from fatr_hf.images import Folder, PictureError, list_folder, open_picture, picture_mode, printable
from fatr_hf.training.data import read_images
from fatr_hf.training.idx import is_idx_folder


class Images(NamedTuple):
    """Pictures as they are stored; of those in files memory holds the names alone."""

    rows: Dataset
    """One column, "image", of pictures that are not decoded: their path, and their bytes where they are no files."""
    folder: Path
    """What the paths are relative to."""
    fingerprint: str
    """A digest of names and sizes."""
    note: str | None = None
    """What was left out of the folder."""


class Reader:
    """Reads pictures by their places.

    Args:
        images: of ``open_images``.
        processor: resizes and normalises.
    """

    def __init__(self, images: Images, processor: BaseImageProcessor):
        self.images = images
        self.processor = processor

    def __call__(self, places: Sequence[int]) -> pa.Table:
        """A row for each picture: its ``index``, ``name``, ``error`` (None if it can be read) and ``pixel_values``.

        These are (channels, height, width), of any values where there is an error.
        """
        stored = [self.images.rows[place]["image"] or {"path": None, "bytes": None} for place in places]
        prepared = [self.prepare(picture) for picture in stored]
        readable = [each for each in prepared if isinstance(each, Tensor)]
        blank = torch.zeros_like(readable[0]) if readable else torch.zeros(1, 1, 1, 1)
        pixel_values = torch.cat([each if isinstance(each, Tensor) else blank for each in prepared])
        columns = {
            "index": pa.array(places, pa.int64()),
            "name": pa.array([picture["path"] for picture in stored], pa.string()),
            "error": pa.array([each if isinstance(each, str) else None for each in prepared], pa.string()),
            "pixel_values": pa.FixedShapeTensorArray.from_numpy_ndarray(pixel_values.numpy()),
        }
        return pa.table(columns)

    def prepare(self, stored: dict[str, Any]) -> Tensor | str:
        """Pixel values (1, channels, height, width) of a picture, or the words of what is wrong with it."""
        if stored["bytes"] is None and stored["path"] is not None:
            stored = {**stored, "path": str(self.images.folder / stored["path"])}
        try:
            picture = open_picture(stored, picture_mode(self.processor))
            return to_batch([NamedImage("", picture)], self.processor).pixel_values
        except PictureError as error:
            return error.reason
        except Exception as error:  # noqa: BLE001 - a processor can fail on a picture of an odd shape
            return f"{type(error).__name__}: {error}"


def open_images(source: str, column: str | None = None, split: str | None = None) -> Images:
    """Pictures of a folder in the order of their paths, of parquet files, of ``read_images``, or of a data set.

    Args:
        source: a picture or a folder of them, a parquet file or a folder of them (which ``datasets`` converts once, in
            its own cache), a folder of idx files, ``photographs`` or ``digits``; with a split a data set's name on the
            Hub, or a folder that ``datasets.load_dataset`` takes.
        column: of parquet files and data sets; by default the only one that holds pictures.
        split: of a data set.

    Raises:
        FileNotFoundError: there is no such file, folder or data set.
        ValueError: no pictures, broken parquet files, no such split, or a column that does not hold pictures.
    """
    path = Path(source).expanduser().absolute()
    if split is not None:
        return open_rows(source, column, path=str(path) if path.exists() else source, split=split)
    if source in ("photographs", "digits") or is_idx_folder(path):
        return pictures_in_memory(read_images(source))
    if not path.exists():
        raise FileNotFoundError(
            f"--images {source} does not exist: give a folder of pictures or parquet files, or --split."
        )
    folder = path.parent if path.is_file() else path
    found = list_folder(path) if path.is_dir() else Folder(folder, [], [Path(path.name)], [])
    tables = [file for file in found.others if file.suffix.lower() == ".parquet"]
    pictures = found.pictures if tables or path.is_dir() else found.others
    if pictures:
        rows = rows_of_files(folder, pictures)
        return Images(rows, folder, fingerprint_of(folder, pictures), found.left_out() if path.is_dir() else None)
    if not tables:
        raise ValueError(f"--images {printable(source)} holds neither pictures nor parquet files.")
    files = [glob.escape(str((folder / name).resolve())) for name in tables]
    images = open_rows(source, column, path="parquet", data_files=files, split="train")
    return images._replace(fingerprint=digest([fingerprint_of(folder, tables), str(column)]))


def open_rows(source: str, column: str | None, **options: Any) -> Images:
    """Pictures of what ``datasets.load_dataset`` loads with these options."""
    try:
        rows = load_dataset(**options)
    except DatasetGenerationError as error:
        raise ValueError(f"--images {source} holds no rows, or files that are broken: {error.__cause__}") from error
    # The folders in the cache are named by the data set and its commit, or by its files.
    cached = [str(Path(file["filename"]).relative_to(config.HF_DATASETS_CACHE)) for file in rows.cache_files]
    return Images(pictures_of_rows(rows, column), Path(), digest([*cached, str(column)]))


def rows_of_files(folder: Path, names: Iterable[Path]) -> Dataset:
    """A row for each file; one whose name is not UTF-8, which Arrow cannot hold, has its bytes and a readable name."""
    rows = []
    for name in names:
        shown, is_there = printable(name.as_posix()), (folder / name).is_file()
        content = (folder / name).read_bytes() if shown != name.as_posix() and is_there else None
        rows.append({"path": shown, "bytes": content})
    return Dataset.from_dict({"image": rows}).cast_column("image", Image(decode=False))


def fingerprint_of(folder: Path, names: Iterable[Path]) -> str:
    """A digest of files and of their sizes; a link that leads nowhere has none."""
    sizes = ((name, (folder / name).stat().st_size if (folder / name).exists() else None) for name in names)
    return digest(f"{printable(name.as_posix())} {size}\n" for name, size in sizes)


def pictures_of_rows(rows: Dataset, column: str | None) -> Dataset:
    """The column "image" of undecoded pictures, whatever its name was; None for the only one that holds pictures."""
    if column is None:
        columns = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
        if len(columns) != 1:
            raise ValueError(
                f"--column must be one of {', '.join(rows.features)}: {len(columns)} of them are pictures."
            )
        [column] = columns
    if column not in rows.features:
        raise ValueError(f"--column {column} must be one of {', '.join(rows.features)}.")
    try:
        pictures = rows.select_columns(column).cast_column(column, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"--column {column} must hold pictures, not {rows.features[column]}.") from error
    return pictures if column == "image" else pictures.rename_column(column, "image")


def pictures_in_memory(pictures: Sequence[NamedImage]) -> Images:
    """Pictures that are open already, by their names."""
    rows = [{"path": each.name, "bytes": Image().encode_example(each.picture)["bytes"]} for each in pictures]
    fingerprint = digest(f"{row['path']} {zlib.crc32(row['bytes'])}\n" for row in rows)
    return Images(Dataset.from_dict({"image": rows}, Features({"image": Image(decode=False)})), Path(), fingerprint)
