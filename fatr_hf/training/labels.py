"""Labels of a data set: the classes that they name, and choices of rows that leave no class out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value
from sklearn.model_selection import train_test_split

# More classes than any labelled image set has, few enough to name each: stops identifiers from being taken for labels.
MAX_CLASSES = 100_000

MAX_NAMED = 5


def read_labels(name: str, split: Dataset, column: str) -> list[str]:
    """The class name of each image; a number's is its digits.

    Raises:
        ValueError: missing labels, or values that name no class.
    """
    feature = split.features[column]
    labels = split.select_columns(column)[:][column]
    missing = [f"row {row}" for row, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(f"{len(missing)} of the labels in split {name!r} are missing: {first_few(missing)}")
    if isinstance(feature, ClassLabel):
        check_range(name, labels, len(feature.names))
        return [feature.names[label] for label in labels]
    if isinstance(feature, Value) and pa.types.is_integer(feature.pa_type):
        check_range(name, labels, MAX_CLASSES)
        return [str(label) for label in labels]
    if is_string(feature):
        return labels
    raise ValueError(
        f"label_column={column!r} must hold integers, strings or a ClassLabel, not {feature}: convert the column, for "
        "example to strings."
    )


def is_string(feature: Any) -> bool:
    """Whether a column holds text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def check_range(name: str, labels: list[int], num_classes: int) -> None:
    """Raises a ValueError for class numbers below 0 or from a number on."""
    outside = [f"{label} in row {row}" for row, label in enumerate(labels) if not 0 <= label < num_classes]
    if outside:
        raise ValueError(
            f"{len(outside)} of the labels in split {name!r} are out of range, which is 0 to {num_classes - 1} "
            f"(-1 often stands for a missing label): {first_few(outside)}"
        )


def class_label(feature: Any, train: list[str], test: list[str] | None = None) -> ClassLabel:
    """The classes of the class names ``train``, which were read from a column of type ``feature``.

    Those of a ``ClassLabel`` are the ones that it names, in its order. All others are the values that occur: text in
    the order of the alphabet, numbers by their size.

    Raises:
        ValueError: fewer than two classes, or classes in ``test`` alone.
    """
    classes = set(train)
    if len(classes) < 2:
        raise ValueError(f"the labels must be of two or more classes, but all {len(train)} are {train[0]!r}")
    check_trained(classes, set(test or ()))
    if isinstance(feature, ClassLabel):
        return ClassLabel(names=feature.names)
    is_number = not is_string(feature) and all(name.isdecimal() for name in classes)
    return ClassLabel(names=sorted(classes, key=int if is_number else None))


def check_trained(train: set[str], test: set[str]) -> None:
    """Raises a ValueError for classes that are tested and not trained."""
    unknown = sorted(test - train)
    if unknown:
        raise ValueError(f"{len(unknown)} of the classes to test on have no image to train on: {first_few(unknown)}")


def add_labels(images: Dataset, labels: list[str], classes: ClassLabel) -> Dataset:
    """Images with a column "labels" of class numbers."""
    # `cast_column` and `class_encode_column` would copy all images to a cache, in the folder of the data for some.
    numbers = {name: number for number, name in enumerate(classes.names)}
    return images.add_column("labels", [numbers[label] for label in labels], feature=classes)


def split_stratified(dataset: Dataset, labels: list[str], test_fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """A part to train on and one to test on, with the same mix of classes.

    Raises:
        ValueError: a class has too few images.
    """
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


def spread_rows(labels: Sequence[Any], number: int) -> list[int]:
    """Rows of so many labels, in order, spread over the classes as evenly as the classes are large enough.

    Raises:
        ValueError: a number below 1.
    """
    if number < 1:
        raise ValueError(f"number={number} of rows must be at least 1.")
    places: dict[Any, int] = defaultdict(int)
    turns = []
    for row, label in enumerate(labels):
        turns.append((places[label], row))
        places[label] += 1
    return sorted(row for _, row in sorted(turns)[:number])


def first_few(items: list[str]) -> str:
    """The first items of a list, for a message."""
    return ", ".join(items[:MAX_NAMED]) + (", ..." if len(items) > MAX_NAMED else "")
