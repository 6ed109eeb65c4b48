"""The images of finetune.py: read, cut to the numbers that were asked for, and described."""

from dataclasses import replace

from datasets import Dataset
from finetune_arguments import DataArguments

from fatr_hf.training.data import ImageData, load_image_data
from fatr_hf.training.labels import first_few, spread_rows


def load_data(options: DataArguments, seed: int) -> ImageData:
    """Reads the images; where a number is given, takes as many, spread over the classes.

    Raises:
        ValueError: as for ``load_image_data``, or classes that the chosen images leave without training or testing.
    """
    for name, least in (("max_train_samples", 1), ("max_test_samples", 1), ("verify_samples", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value} must be at least {least}.")
    data = load_image_data(
        options.dataset,
        config_name=options.dataset_config,
        revision=options.dataset_revision,
        train_split=options.train_split,
        test_split=options.test_split,
        image_column=options.image_column,
        label_column=options.label_column,
        test_fraction=options.test_fraction,
        seed=seed,
        check_images=options.check_images,
    )
    train, test = some_of(data.train, options.max_train_samples), some_of(data.test, options.max_test_samples)
    names, trained, tested = data.label_names, {*train["labels"]}, {*test["labels"]}
    if len(trained) < 2 or tested - trained:
        lacking = first_few([names[label] for label in sorted({*range(len(names))} - trained)])
        raise ValueError(
            f"--max_train_samples {options.max_train_samples} leaves classes without a training image: {lacking}. Give "
            f"at least {len(names)}."
        )
    chosen = replace(data, train=train, test=test)
    if not options.allow_untested_classes:
        check_tested_classes(chosen)
    return chosen


def some_of(split: Dataset, number: int | None) -> Dataset:
    """So many images of a split, spread over its classes; all of them by default."""
    return split if number is None or number >= len(split) else split.select(spread_rows(split["labels"], number))


def describe(data: ImageData) -> str:
    """What was read, and what was left out of it."""
    names = data.label_names
    read = f"{data.name}: {len(data.train)} images to train on and {len(data.test)} to test on, of {len(names)} classes"
    return "\n".join([f"{read} ({first_few(names)}).", *(f"Note: {note}" for note in data.notes)])


def check_tested_classes(data: ImageData) -> None:
    """Raises a ValueError for classes that are trained on and not tested."""
    untested = sorted({*data.train["labels"]} - {*data.test["labels"]})
    if untested:
        names = ", ".join(repr(data.label_names[label]) for label in untested[:5])
        raise ValueError(
            f"There are training images and no test images of {len(untested)} classes, such as {names}: the accuracy "
            "would not tell of them. Choose another --test_split or more --max_test_samples, or say "
            "--allow_untested_classes true."
        )
