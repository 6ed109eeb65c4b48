"""Reading folders of idx files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value

_PREFIXES = {"train": "train", "test": "t10k"}
_UINT8 = 0x08


def is_idx_folder(folder: Path) -> bool:
    """Whether `folder` holds any of the four idx files of an MNIST-like data set, gzipped or not."""
    return any(_find(folder, name) for prefix in _PREFIXES.values() for name in _file_names(prefix))


def read_idx_folder(folder: Path) -> dict[str, Dataset]:
    """Read the idx files of an MNIST-like data set.

    Returns:
        The split "train" and, where the folder has t10k files, the split "test", each with the columns "image" (grey
        images) and "label" (integers).

    Raises:
        FileNotFoundError: the images or the labels of a split are missing.
        ValueError: a file is no idx file of the expected shape, or a split has not one label for each image.
    """
    has_test = any(_find(folder, name) for name in _file_names(_PREFIXES["test"]))
    return {split: _read_split(folder, _PREFIXES[split]) for split in ("train", "test") if split == "train" or has_test}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or not, as a uint8 array of `ndim` dimensions.

    Raises:
        ValueError: the file is damaged, no idx file of unsigned bytes, or of another number of dimensions.
    """
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged or truncated gzip file: {error}") from error
    start = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, _UINT8, ndim]) or len(data) < start:
        raise ValueError(
            f"{path} is no idx file of unsigned bytes in {ndim} dimensions: it starts with {data[:4].hex(' ')}, "
            f"not with {bytes([0, 0, _UINT8, ndim]).hex(' ')} and {ndim} sizes"
        )
    shape = struct.unpack(f">{ndim}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: sizes {shape} take {math.prod(shape)} bytes, it has {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _file_names(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_split(folder: Path, prefix: str) -> Dataset:
    paths = []
    for name in _file_names(prefix):
        path = _find(folder, name)
        if path is None:
            raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz")
        paths.append(path)
    images, labels = read_idx(paths[0], ndim=3), read_idx(paths[1], ndim=1)
    if len(images) != len(labels):
        raise ValueError(f"{paths[0]} holds {len(images)} images, but {paths[1]} holds {len(labels)} labels")
    return Dataset.from_dict(
        {"image": [_to_pgm(image) for image in images], "label": labels},
        features=Features({"image": Image(), "label": Value("uint8")}),
    )


def _to_pgm(image: np.ndarray) -> bytes:
    """Encode a grey image of shape (height, width) as binary PGM: a header and the pixels, far cheaper than PNG."""
    height, width = image.shape
    return b"P5 %d %d 255\n" % (width, height) + image.tobytes()
