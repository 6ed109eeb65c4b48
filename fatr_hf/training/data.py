"""Labelled images for training and testing, from scikit-learn, local files or the Hugging Face Hub."""

import glob
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from fatr_hf.analysis.images import NamedImage, check_limit, load_images
from fatr_hf.images import PictureError, open_picture, printable, read_class_folder
from fatr_hf.images.class_folders import LABEL_COLUMNS, TEST_SPLITS, TRAIN_SPLITS, ClassFolder, Split, odd_places
from fatr_hf.training.idx import is_idx_folder, read_idx_folder
from fatr_hf.training.labels import MAX_NAMED, add_labels, class_label, first_few, read_labels, split_stratified

try:
    import PIL.Image
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError("Reading images needs pillow and scikit-learn: pip install 'fatr-hf[training]'.") from error

_SOURCES = (
    '"digits" (the handwritten digits of scikit-learn), a local folder of idx files (MNIST format), a local folder '
    "of images (one folder per class), local parquet or arrow files or a folder written by save_to_disk, "
    "or the name of a data set on the Hugging Face Hub"
)
_CHECKED_AT_A_TIME = 256
_EMPTY_SPLIT_ERRORS = ("corresponds to no data", "list index out of range", "BatchSize must be greater than 0")


class PictureColumn(Image):
    """A column of pictures that are decoded as `open_picture` does, everywhere in this package."""

    def decode_example(self, value: dict[str, Any], token_per_repo_id: Any = None) -> PIL.Image.Image:
        return open_picture(value)

    # What is stored is the same, and data sets are joined where their columns are.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.decode == other.decode

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ImageData:
    """Labelled images, split for training and testing.

    Attributes:
        name: what to call the data set on a model card.
        train: the images to train on, with the columns "image" (`PictureColumn`, decoded to PIL images of any size
            and of any mode of 8 bits a channel) and "labels" (`datasets.ClassLabel`).
        test: the images to test on, with the same columns and the same class labels.
        notes: sentences about what was left out of the source, and about what may not be meant as it was read.
    """

    name: str
    train: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    @property
    def label_names(self) -> list[str]:
        """The name of each class, in the order of the class numbers."""
        return self.train.features["labels"].names


def load_image_data(
    source: str | Path,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    check_images: bool = True,
) -> ImageData:
    """Load labelled images from any of five kinds of source.

    Nothing is written beside local data; `datasets` keeps what it converts in its own cache. (Calling `map` on data
    from a folder written by `save_to_disk` would cache there, as `datasets` does; `with_transform` does not.)

    Args:
        source: "digits" (the handwritten digits of scikit-learn; write "./digits" for a folder of that name), a local
            folder of idx files (MNIST format), a local folder of images (one folder per class, the splits above them
            if there are any), a local parquet or arrow file, a folder of them or one written by `save_to_disk`, or
            the name of a data set on the Hugging Face Hub.
        config_name: the configuration of a data set on the Hub.
        revision: the branch, tag or commit of a data set on the Hub.
        train_split: the split to train on; by default "train", "training" or the only split.
        test_split: the split to test on; by default the first of `TEST_SPLITS`. Where there is only one split,
            `test_fraction` of it is taken out, with the same mix of classes.
        image_column: the column of images; by default the only `datasets.Image` column.
        label_column: the column of labels: integers, strings or a `ClassLabel`; by default "label",
            "labels", "fine_label" or the only `ClassLabel` column. The classes are those of the `ClassLabel`, or the
            values that occur.
        test_fraction: the share of the images to test on, between 0 and 1, where there is only one split.
        seed: decides which images these are.
        check_images: whether to decode every image once, so that training cannot fail on an unreadable one.

    Raises:
        FileNotFoundError: `source` looks like a local path, but there is nothing.
        ConnectionError: the Hub cannot be reached.
        ValueError: an argument is not allowed, or the data are unfit: unreadable files or images, an empty split,
            missing columns, unusable labels, only one class, or too few images of a class.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction!r} must lie between 0 and 1, both excluded")
    if not isinstance(source, (str, Path)):
        raise ValueError(f"source={source!r} must be a name or a path. It can be {_SOURCES}")
    source = str(source)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} must lie between 0 and 2**32 - 1, an integer")
    named = [split for split in (train_split, test_split) if split is not None]
    found, notes = _read_splits(source, config_name, revision, named)
    splits = _choose_splits(found, train_split, test_split)
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"source={source!r} holds no images: its split {name!r} is empty")
    features = next(iter(splits.values())).features
    image_column = _find_image_column(features) if image_column is None else image_column
    label_column = _find_label_column(features) if label_column is None else label_column
    for name, split in splits.items():
        _check_columns(name, split, image_column=image_column, label_column=label_column)

    images = {name: _select_images(split, image_column) for name, split in splits.items()}
    if check_images:
        for name, split in images.items():
            _check_images(name, split)
    labels = [read_labels(name, split, label_column) for name, split in splits.items()]
    classes = class_label(features[label_column], *labels)
    labelled = [add_labels(*pair, classes) for pair in zip(images.values(), labels, strict=True)]
    train, test = labelled if len(labelled) == 2 else split_stratified(labelled[0], labels[0], test_fraction, seed)
    return ImageData(_display_name(source), train, test, tuple(notes))


def read_images(source: str | Path, limit: int | None = None) -> Sequence[NamedImage]:
    """Pictures of ``load_images``, or the test images of scikit-learn's digits or of a folder of idx files.

    Args:
        source: a picture, a folder, ``photographs`` or ``digits``.
        limit: take no more than so many, evenly spread over all of them.

    Raises:
        FileNotFoundError, ValueError: as ``load_images`` and ``load_image_data``.
    """
    check_limit(limit)
    if source != "digits" and not is_idx_folder(Path(source)):
        return load_images(source, limit)
    data = load_image_data(source)
    test, names = data.test, data.label_names
    number = len(test) if limit is None else min(limit, len(test))
    chosen = [place * len(test) // number for place in range(number)]
    return [
        NamedImage(f"{place:05d}", example["image"].convert("RGB"), names[example["labels"]])
        for place, example in zip(chosen, test.select(chosen), strict=True)
    ]


def _read_splits(
    source: str, config_name: str | None, revision: str | None, named: Sequence[str]
) -> tuple[dict[str, Dataset], Sequence[str]]:
    """The splits of a source by name, and notes about them."""
    path = Path(source).expanduser()
    is_digits = source == "digits"
    if not source or (source.startswith((".", "/", "~")) and not path.exists()):
        raise FileNotFoundError(f"source={source!r} does not exist. It can be {_SOURCES}")
    if not is_digits and not path.exists():
        return _read_from_hub(source, config_name, revision), ()
    for argument, value in (("config_name", config_name), ("revision", revision)):
        if value is not None:
            raise ValueError(f"{argument}={value!r} is for data sets on the Hub only, but source={source!r} is local")
    try:
        return ({"train": _read_digits()}, ()) if is_digits else _read_local(path, named)
    except Exception as error:  # files can be broken in more ways than `datasets` documents
        raise ValueError(f"source={source!r} cannot be read: {_reason(error)}") from error


def _read_from_hub(source: str, config_name: str | None, revision: str | None) -> dict[str, Dataset]:
    try:
        return _as_dict(load_dataset(source, name=config_name, revision=revision))
    except Exception as error:  # from the network, the Hub, its data set or `datasets`
        kind = ConnectionError if isinstance(error, ConnectionError) else ValueError
        raise kind(
            f"source={source!r} is not a local path, and with config_name={config_name!r} and revision={revision!r} "
            f"it cannot be loaded from the Hub: {_reason(error)}. It can be {_SOURCES}"
        ) from error


def _reason(error: Exception) -> str:
    reason = str(error.__cause__ if isinstance(error, DatasetGenerationError) else error)
    is_empty = any(words in reason for words in _EMPTY_SPLIT_ERRORS)
    return f"{reason} (which is what `datasets` says of an empty split)" if is_empty else reason


def _read_digits() -> Dataset:
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    return Dataset.from_dict(
        {"image": [PIL.Image.fromarray(image).convert("RGB") for image in pixels], "label": digits.target},
        features=Features({"image": Image(), "label": Value("int64")}),
    )


def _read_local(path: Path, named: Sequence[str]) -> tuple[dict[str, Dataset], Sequence[str]]:
    if path.is_file():
        if path.suffix not in (".parquet", ".arrow"):
            raise ValueError(f"a file must end in .parquet or .arrow. A source can be {_SOURCES}")
        return _as_dict(load_dataset(path.suffix[1:], data_files=glob.escape(str(path.resolve())))), ()
    if is_idx_folder(path):
        return read_idx_folder(path), ()
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _as_dict(load_from_disk(str(path)).with_format(None)), ()
    if _has_tables(path):
        return _as_dict(load_dataset(str(path.resolve()))), ()
    return _read_image_folder(path.resolve(), named)


def _read_image_folder(folder: Path, named: Sequence[str]) -> tuple[dict[str, Dataset], Sequence[str]]:
    # `datasets` takes file names such as "test_3.png" for the names of splits, and knows other formats than Pillow.
    found = read_class_folder(folder, named)
    if not any(split.files for split in found.splits.values()):
        raise ValueError(f"{printable(folder)} holds no images, nor parquet, arrow or idx files. It can be {_SOURCES}")
    _check_class_folders(found)
    return {name: _as_rows(split) for name, split in found.splits.items()}, found.notes


def _check_class_folders(found: ClassFolder) -> None:
    """Raises a ValueError for pictures that are in no class folder, or at another depth than the others."""
    fault = _fault_of_class_folders(found)
    if fault is not None:
        splits = [*found.splits]
        raise ValueError(
            "its images must lie in one folder per class, for two or more classes, in "
            f"{splits} all at one depth: {fault}"
        )


def _fault_of_class_folders(found: ClassFolder) -> str | None:
    for name, split in found.splits.items():
        if not split.table and not any(split.labels()):
            return f"{name!r} has no folder of a class, such as CLASS/PICTURE"
        odd = odd_places(split)
        if odd:
            return f"move or remove {first_few([printable(split.root / file) for file in odd])}"
    classes = {label for split in found.splits.values() for label in split.labels()}
    if len(classes) < 2 and not any(split.table for split in found.splits.values()):
        return f"there is only {', '.join(map(repr, classes))}"
    return None


def _as_rows(split: Split) -> Dataset:
    """The pictures of a split with its columns."""
    images = [_stored(split.root / file) for file in split.files]
    return Dataset.from_dict({**split.columns, "image": images}).cast_column("image", PictureColumn())


def _stored(file: Path) -> dict[str, Any]:
    """A picture as `datasets` stores it: its path or, since Arrow holds UTF-8 alone, its bytes and a readable name."""
    name = printable(file)
    return {"path": str(file), "bytes": None} if name == str(file) else {"path": name, "bytes": file.read_bytes()}


def _has_tables(folder: Path) -> bool:
    """Whether a folder holds parquet or arrow files, those that describe its pictures apart."""
    # Unlike `Path.rglob`, this follows links to folders, as `datasets` does.
    names = (Path(name) for name in glob.iglob("**", root_dir=folder, recursive=True))
    return any(name.suffix.lower() in (".parquet", ".arrow") and name.stem != "metadata" for name in names)


def _as_dict(loaded: Dataset | DatasetDict) -> dict[str, Dataset]:
    return {"train": loaded} if isinstance(loaded, Dataset) else {str(name): split for name, split in loaded.items()}


def _display_name(source: str) -> str:
    path = Path(source).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else source


def _choose_splits(splits: dict[str, Dataset], train_split: str | None, test_split: str | None) -> dict[str, Dataset]:
    """The split to train on, followed by the split to test on unless there is only one."""
    for argument, name in (("train_split", train_split), ("test_split", test_split)):
        if name is not None and name not in splits:
            raise ValueError(f"{argument}={name!r} must be one of the splits {[*splits]}")
    if train_split is None:
        train_split = next(iter(splits)) if len(splits) == 1 else _first_named(splits, TRAIN_SPLITS)
        if train_split is None:
            raise ValueError(f"train_split must name one of the splits {[*splits]}, as none of them is 'train'")
    if test_split is None and len(splits) > 1:
        others = {name: split for name, split in splits.items() if name != train_split}
        test_split = _first_named(others, TEST_SPLITS)
        if test_split is None:
            raise ValueError(f"test_split must name one of the splits {[*splits]}, as there is none of {TEST_SPLITS}")
    if test_split == train_split:
        raise ValueError(f"train_split={train_split!r} and test_split={test_split!r} must differ")
    return {name: splits[name] for name in (train_split, test_split) if name is not None}


def _first_named(splits: dict[str, Dataset], names: Sequence[str]) -> str | None:
    """The split that is called by the first of these names, in any case."""
    return next((split for name in names for split in splits if split.lower() == name), None)


def _find_image_column(features: Features) -> str:
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) != 1:
        raise ValueError(f"image_column must name one of the columns {[*features]}: {len(columns)} of them are images")
    return columns[0]


def _find_label_column(features: Features) -> str:
    columns = [name for name in LABEL_COLUMNS if name in features][:1]
    columns = columns or [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(columns) != 1:
        raise ValueError(
            f"label_column must name one of the columns {[*features]}: none is called {', '.join(LABEL_COLUMNS)}, "
            f"and {len(columns)} are a ClassLabel"
        )
    return columns[0]


def _check_columns(name: str, split: Dataset, **columns: str) -> None:
    for argument, column in columns.items():
        if column not in split.column_names:
            raise ValueError(f"{argument}={column!r} must be one of the columns {split.column_names} of split {name!r}")


def _select_images(split: Dataset, column: str) -> Dataset:
    """The images of `split` alone, as a decoded column "image"."""
    try:
        images = split.select_columns(column).cast_column(column, PictureColumn())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"image_column={column!r} must hold images, not {split.features[column]}") from error
    return images.rename_columns({column: "image"})


def _check_images(name: str, images: Dataset) -> None:
    """Opens every picture as training does, on all processors.

    Raises:
        ValueError: pictures that cannot be read; names the first of them, and the reason of the first.
    """
    files = images.cast_column("image", Image(decode=False))
    reasons = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for first, batch in enumerate(files.iter(_CHECKED_AT_A_TIME)):
            for place, reason in enumerate(threads.map(_why_unreadable, batch["image"])):
                if reason:
                    reasons[first * _CHECKED_AT_A_TIME + place] = reason
    if reasons:
        stored = [(row, files[row]["image"] or {}) for row in list(reasons)[: MAX_NAMED + 1]]
        named = [f"row {row} ({file['path']})" if file.get("path") else f"row {row}" for row, file in stored]
        raise ValueError(
            f"{len(reasons)} of the {len(images)} images of split {name!r} cannot be read, repair or remove them "
            f"(the first: {next(iter(reasons.values()))}): {first_few(named)}"
        )


def _why_unreadable(file: dict[str, Any] | None) -> str | None:
    """What is wrong with a stored picture; None where it opens."""
    try:
        open_picture(file or {}, "RGB")
    except PictureError as error:
        return str(error)
    return None
