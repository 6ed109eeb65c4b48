"""Labelled images for training and testing, from scikit-learn, local files or the Hugging Face Hub."""

import glob
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from fatr_hf.analysis.images import NamedImage, load_images
from fatr_hf.training.idx import is_idx_folder, read_idx_folder

try:
    import PIL.Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    raise ImportError("Reading images needs pillow and scikit-learn: pip install 'fatr-hf[training]'.") from error

_SOURCES = (
    '"digits" (the handwritten digits of scikit-learn), a local folder of idx files (MNIST format), a local folder '
    "of images (one folder per class), local parquet or arrow files or a folder written by save_to_disk, "
    "or the name of a data set on the Hugging Face Hub"
)
_TEST_SPLITS = ("test", "validation", "val", "valid")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
# More classes than any labelled image set has, few enough to name each: stops identifiers from being taken for labels.
_MAX_CLASSES = 100_000
_MAX_NAMED = 5
_EMPTY_SPLIT_ERRORS = ("corresponds to no data", "list index out of range", "BatchSize must be greater than 0")


@dataclass(frozen=True)
class ImageData:
    """Labelled images, split for training and testing.

    Attributes:
        name: what to call the data set on a model card.
        train: the images to train on, with the columns "image" (`datasets.Image`, decoded to PIL images of any mode
            and size) and "labels" (`datasets.ClassLabel`).
        test: the images to test on, with the same columns and the same class labels.
    """

    name: str
    train: Dataset
    test: Dataset

    @property
    def label_names(self) -> list[str]:
        """The name of each class, in the order of the class numbers."""
        return self.train.features["labels"].names


def load_image_data(
    source: str,
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
        train_split: the split to train on; by default "train" or the only split.
        test_split: the split to test on; by default the first of "test", "validation", "val" and "valid". Where there
            is only one split, `test_fraction` of it is taken out, with the same mix of classes.
        image_column: the column of images; by default the only `datasets.Image` column.
        label_column: the column of labels: integers from 0, strings or a `ClassLabel`; by default "label", "labels",
            "fine_label" or the only `ClassLabel` column.
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
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} must lie between 0 and 2**32 - 1")
    splits = _choose_splits(_read_splits(source, config_name, revision), train_split, test_split)
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
    labels = [_read_labels(name, split, label_column) for name, split in splits.items()]
    class_label = _class_label(features[label_column], *labels)
    labelled = [_add_labels(*pair, class_label) for pair in zip(images.values(), labels, strict=True)]
    train, test = labelled if len(labelled) == 2 else _split_stratified(labelled[0], labels[0], test_fraction, seed)
    return ImageData(_display_name(source), train, test)


def read_images(source: str, limit: int | None = None) -> Sequence[NamedImage]:
    """Pictures of ``load_images``, or the test images of scikit-learn's digits or of a folder of idx files.

    Args:
        source: a picture, a folder, ``photographs`` or ``digits``.
        limit: take no more than so many, evenly spread over all of them.

    Raises:
        FileNotFoundError, ValueError: as ``load_images`` and ``load_image_data``.
    """
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


def _read_splits(source: str, config_name: str | None, revision: str | None) -> dict[str, Dataset]:
    path = Path(source).expanduser()
    is_digits = source == "digits"
    if not source or (source.startswith((".", "/", "~")) and not path.exists()):
        raise FileNotFoundError(f"source={source!r} does not exist. It can be {_SOURCES}")
    if not is_digits and not path.exists():
        return _read_from_hub(source, config_name, revision)
    for argument, value in (("config_name", config_name), ("revision", revision)):
        if value is not None:
            raise ValueError(f"{argument}={value!r} is for data sets on the Hub only, but source={source!r} is local")
    try:
        return {"train": _read_digits()} if is_digits else _read_local(path)
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


def _read_local(path: Path) -> dict[str, Dataset]:
    if path.is_file():
        if path.suffix not in (".parquet", ".arrow"):
            raise ValueError(f"a file must end in .parquet or .arrow. A source can be {_SOURCES}")
        return _as_dict(load_dataset(path.suffix[1:], data_files=glob.escape(str(path.resolve()))))
    if is_idx_folder(path):
        return read_idx_folder(path)
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _as_dict(load_from_disk(str(path)).with_format(None))
    if _has_files(path, (".parquet", ".arrow")):
        return _as_dict(load_dataset(str(path.resolve())))
    return _read_image_folder(path.resolve())


def _read_image_folder(folder: Path) -> dict[str, Dataset]:
    # `datasets` would also take file names such as "test_3.png" for the names of splits, and leave out all others.
    folders = _subfolders(folder)
    has_splits = any(_subfolders(subfolder) or any(subfolder.glob("metadata.*")) for subfolder in folders)
    splits = {subfolder.name: subfolder for subfolder in folders} if has_splits else {"train": folder}
    for split in splits.values():
        if not _has_files(split, PIL.Image.registered_extensions()):
            raise ValueError(f"{split} holds no images, nor parquet, arrow or idx files. A source can be {_SOURCES}")
    dataset = load_dataset("imagefolder", data_files={name: _patterns(split) for name, split in splits.items()})
    if all(split.column_names == ["image"] for split in dataset.values()):
        raise ValueError(
            f"its images must lie in one folder per class, for two or more classes, in {[*splits]} all at one depth"
        )
    return _as_dict(dataset)


def _patterns(folder: Path) -> list[str]:
    """Patterns of all files in `folder`, also those in linked folders, into which `**` does not lead."""
    links = [subfolder for subfolder in _subfolders(folder) if subfolder.is_symlink()]
    return [glob.escape(str(path)) + "/**" for path in (folder, *links)]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _has_files(folder: Path, suffixes: Container[str]) -> bool:
    # Unlike `Path.rglob`, this follows links to folders, as `datasets` does.
    names = glob.iglob("**", root_dir=folder, recursive=True)
    return any(Path(name).suffix.lower() in suffixes for name in names)


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
        train_split = next(iter(splits)) if len(splits) == 1 else "train"
        if train_split not in splits:
            raise ValueError(f"train_split must name one of the splits {[*splits]}, as none of them is 'train'")
    if test_split is None and len(splits) > 1:
        test_split = next((name for name in _TEST_SPLITS if name in splits and name != train_split), None)
        if test_split is None:
            raise ValueError(f"test_split must name one of the splits {[*splits]}, as there is none of {_TEST_SPLITS}")
    if test_split == train_split:
        raise ValueError(f"train_split={train_split!r} and test_split={test_split!r} must differ")
    return {name: splits[name] for name in (train_split, test_split) if name is not None}


def _find_image_column(features: Features) -> str:
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) != 1:
        raise ValueError(f"image_column must name one of the columns {[*features]}: {len(columns)} of them are images")
    return columns[0]


def _find_label_column(features: Features) -> str:
    columns = [name for name in _LABEL_COLUMNS if name in features][:1]
    columns = columns or [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(columns) != 1:
        raise ValueError(
            f"label_column must name one of the columns {[*features]}: none is called {', '.join(_LABEL_COLUMNS)}, "
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
        images = split.select_columns(column).cast_column(column, Image())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"image_column={column!r} must hold images, not {split.features[column]}") from error
    return images.rename_columns({column: "image"})


def _check_images(name: str, images: Dataset) -> None:
    files = images.cast_column("image", Image(decode=False))
    unreadable = [
        f"row {row} ({file['path']})" if file and file["path"] else f"row {row}"
        for row, file in enumerate(file for batch in files.iter(batch_size=1000) for file in batch["image"])
        if not _is_readable(file)
    ]
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of the {len(images)} images of split {name!r} cannot be read, "
            f"repair or remove them: {_first_few(unreadable)}"
        )


def _is_readable(file: dict[str, Any] | None) -> bool:
    if file is None:
        return False
    try:
        with PIL.Image.open(file["path"] if file["bytes"] is None else BytesIO(file["bytes"])) as image:
            if image.format == "PNG":
                image.verify()
            else:  # formats without checksums have to be decoded, a JPEG at a fraction of its size
                image.draft(None, (1, 1))
                image.load()
    except Exception:  # noqa: BLE001 - the decoders of Pillow raise errors of many kinds
        return False
    return True


def _read_labels(name: str, split: Dataset, column: str) -> list[str]:
    """The class name of each image."""
    feature = split.features[column]
    labels = split.select_columns(column)[:][column]
    missing = [f"row {row}" for row, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(f"{len(missing)} of the labels in split {name!r} are missing: {_first_few(missing)}")
    if isinstance(feature, ClassLabel):
        _check_range(name, labels, len(feature.names))
        return [feature.names[label] for label in labels]
    if isinstance(feature, Value) and pa.types.is_integer(feature.pa_type):
        _check_range(name, labels, _MAX_CLASSES)
        return [str(label) for label in labels]
    if _is_string(feature):
        return labels
    raise ValueError(f"label_column={column!r} must hold integers, strings or a ClassLabel, not {feature}")


def _is_string(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _check_range(name: str, labels: list[int], num_classes: int) -> None:
    outside = [f"{label} in row {row}" for row, label in enumerate(labels) if not 0 <= label < num_classes]
    if outside:
        raise ValueError(
            f"{len(outside)} of the labels in split {name!r} are out of range, which is 0 to {num_classes - 1} "
            f"(-1 often stands for a missing label): {_first_few(outside)}"
        )


def _class_label(feature: Any, train: list[str], test: list[str] | None = None) -> ClassLabel:
    """The classes of the class names `train`, which were read from a column of type `feature`."""
    classes = set(train)
    if len(classes) < 2:
        raise ValueError(f"the labels must be of two or more classes, but all {len(train)} are {train[0]!r}")
    unknown = sorted(set(test or ()) - classes)
    if unknown:
        raise ValueError(f"{len(unknown)} of the classes to test on have no image to train on: {_first_few(unknown)}")
    if isinstance(feature, ClassLabel):
        return ClassLabel(names=feature.names)
    return ClassLabel(names=sorted(classes)) if _is_string(feature) else ClassLabel(max(map(int, classes)) + 1)


def _add_labels(images: Dataset, labels: list[str], class_label: ClassLabel) -> Dataset:
    # `cast_column` and `class_encode_column` would copy all images to a cache, in the folder of the data for some.
    numbers = {name: number for number, name in enumerate(class_label.names)}
    return images.add_column("labels", [numbers[label] for label in labels], feature=class_label)


def _split_stratified(dataset: Dataset, labels: list[str], test_fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    # `Dataset.train_test_split` would cache row numbers in the folder of the data, for those that lie on disk.
    try:
        train_rows, test_rows = train_test_split(
            np.arange(len(dataset)), test_size=test_fraction, stratify=labels, random_state=seed
        )
        if {labels[row] for row in test_rows} - {labels[row] for row in train_rows}:
            raise ValueError("a class has no image left to train on")
    except ValueError as error:
        rarest, count = Counter(labels).most_common()[-1]
        raise ValueError(
            f"too few images per class to test on test_fraction={test_fraction} of {len(dataset)} images: "
            f"the rarest class, {rarest!r}, has {count} ({error})"
        ) from error
    return dataset.select(train_rows), dataset.select(test_rows)


def _first_few(items: list[str]) -> str:
    return ", ".join(items[:_MAX_NAMED]) + (", ..." if len(items) > _MAX_NAMED else "")
