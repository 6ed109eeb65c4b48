"""The pictures that serve.py classifies: each in its place, opened one by one, a broken one described in words."""

import glob
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import pyarrow as pa
import torch
from datasets import Dataset, Features, Image, load_dataset
from datasets.exceptions import DatasetGenerationError
from torch import Tensor

from fatr_hf.analysis.images import SUFFIXES, NamedImage, to_batch
from fatr_hf.analysis.schedule_search.study import digest
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


class Batch(NamedTuple):
    """Pictures in a row as a model takes them, and what is known of those that it cannot take."""

    places: Sequence[int]
    """Of every picture in the input."""
    names: Sequence[str | None]
    """Path or name of every picture, where it has one."""
    errors: Sequence[str | None]
    """Why a picture cannot be read, None for one that can."""
    pixel_values: Tensor | None
    """(pictures without an error, channels, height, width), None where all are broken."""


class PreparedImages(torch.utils.data.Dataset[Batch]):
    """Batches by the places of their pictures, for a data loader without batches of its own.

    Args:
        images: of ``open_images``.
        processor: resizes and normalises.
    """

    def __init__(self, images: Images, processor: Any):
        self.images = images
        self.processor = processor

    def __getitem__(self, places: Sequence[int]) -> Batch:
        stored = [self.images.rows[place]["image"] or {"path": None, "bytes": None} for place in places]
        prepared = [self.prepare(picture) for picture in stored]
        pixel_values = [each for each in prepared if isinstance(each, Tensor)]
        return Batch(
            list(places),
            [picture["path"] for picture in stored],
            [each if isinstance(each, str) else None for each in prepared],
            torch.cat(pixel_values) if pixel_values else None,
        )

    def prepare(self, stored: dict[str, Any]) -> Tensor | str:
        """Pixel values (1, channels, height, width) of a picture, or the words of what is wrong with it."""
        path, content = stored["path"], stored["bytes"]
        try:
            if content is None and path is not None:
                content = (self.images.folder / path).read_bytes()
            picture = Image().decode_example({"path": path, "bytes": content})
            return to_batch([NamedImage("", picture)], self.processor).pixel_values
        except PIL.UnidentifiedImageError:
            return "it is no picture of a known format"
        except Exception as error:  # noqa: BLE001 - the decoders of Pillow raise errors of many kinds
            return f"{type(error).__name__}: {error}"


def open_images(source: str, column: str | None = None) -> Images:
    """Pictures of a folder in the order of their paths, of parquet files, or of ``read_images``.

    Args:
        source: a picture or a folder of them, a parquet file or a folder of them (which ``datasets`` converts once, in
            its own cache), a folder of idx files, ``photographs`` or ``digits``.
        column: of the parquet files; by default the only one that holds pictures.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no pictures, broken parquet files, or a column that does not hold pictures.
    """
    path = Path(source).expanduser()
    if source in ("photographs", "digits") or is_idx_folder(path):
        return pictures_in_memory(read_images(source))
    if not path.exists():
        raise FileNotFoundError(f"--images {source} does not exist: give a folder of pictures or of parquet files.")
    folder = path.parent if path.is_file() else path
    names, fingerprint = files_below(path, folder, SUFFIXES)
    if names:
        rows = Dataset(pa.table({"image": names})).cast_column("image", Image(decode=False))
        return Images(rows, folder, fingerprint)
    names, fingerprint = files_below(path, folder, (".parquet",))
    if not names:
        raise ValueError(f"--images {source} holds neither pictures ({', '.join(SUFFIXES)}) nor parquet files.")
    files = [glob.escape(str((folder / name).resolve())) for name in names]
    try:
        rows = load_dataset("parquet", data_files=files, split="train")
    except DatasetGenerationError as error:
        raise ValueError(f"--images {source} holds no rows, or files that are broken: {error.__cause__}") from error
    return Images(pictures_of_rows(rows, column), Path(), digest([fingerprint, str(column)]))


def files_below(path: Path, folder: Path, suffixes: Collection[str]) -> tuple[list[str], str]:
    """Paths of files by their suffixes, relative to a folder and in order, and a digest of them and of their sizes.

    A link that leads nowhere is among them.

    Args:
        path: a file, or where to look for files, in the folders below too.
    """
    found = [path] if path.is_file() else path.rglob("*")
    files = (file for file in found if file.suffix.lower() in suffixes and not file.is_dir())
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    sizes = ((folder / name).stat().st_size if (folder / name).exists() else None for name in names)
    return names, digest(f"{name} {size}\n" for name, size in zip(names, sizes, strict=True))


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
