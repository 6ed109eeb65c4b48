"""Writes labelled images in every format that can be read."""

import gzip
import struct

import numpy as np
import PIL.Image
import skimage.data
from datasets import ClassLabel, Dataset, DatasetDict, Image
from sklearn.datasets import load_digits

PHOTOGRAPHS = {"astronaut": skimage.data.astronaut(), "cat": skimage.data.chelsea(), "coffee": skimage.data.coffee()}


def crop(name, number):
    """A small part of a photograph, another one for each number."""
    return PIL.Image.fromarray(PHOTOGRAPHS[name][8 * number : 8 * number + 24, 40:72])


def write_crops(folder, names=tuple(PHOTOGRAPHS), count=5, suffix="png"):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            crop(name, number).save(folder / name / f"test_{number}.{suffix}")
    return folder


def table(labels, *, image="image", label="label", feature=None, **others):
    """A data set with a part of a photograph for each label."""
    images = [crop("coffee", row) for row in range(len(labels))]
    data = Dataset.from_dict({image: images, label: labels, **others})
    return data.cast_column(label, feature) if feature else data


def save(path, **splits):
    DatasetDict(splits).save_to_disk(path)
    return str(path)


def write_idx(path, array, magic=None):
    header = magic or bytes([0, 0, 8, array.ndim])
    data = header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder, suffix="", prefixes=("train", "t10k")):
    digits = load_digits()
    for start, prefix in zip((0, 50), prefixes, strict=False):
        rows = slice(start, start + 50)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", digits.images[rows, :, 1:])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", digits.target[rows])
    return folder


def listing(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def assert_columns(data):
    for split in (data.train, data.test):
        assert split.column_names == ["image", "labels"]
        assert split.features["image"] == Image()
        assert split.features["labels"] == data.train.features["labels"]
        assert isinstance(split.features["labels"], ClassLabel)
        assert isinstance(split[0]["image"], PIL.Image.Image)


def labels_of(split):
    return split["labels"][:]
