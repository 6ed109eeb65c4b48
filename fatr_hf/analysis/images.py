"""Images to analyse: photographs that are there without a network, files, and batches of pixel values of any data."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from ..images import open_picture, picture_endings, picture_mode, printable, read_class_folder

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "camera", "coins", "moon", "retina", "hubble_deep_field")
"""Of scikit-image, in its own package; the first four are in colour and show things."""

NO_CLASS = -1
"""The label of a picture that is of no class of the model."""


class NamedImage(NamedTuple):
    """A picture with its name, and its class where that is known."""

    name: str
    picture: Any
    """A PIL image in RGB."""
    label: str | None = None


class Batch(NamedTuple):
    """Images as a model takes them."""

    pixel_values: Tensor
    """(batch, channels, height, width)."""
    labels: Tensor | None = None
    """(batch,) int64, class numbers, ``NO_CLASS`` for a picture of none; None where nothing is known of any."""


def photographs(names: Sequence[str] = PHOTOGRAPHS) -> list[NamedImage]:
    """Photographs of scikit-image; none is fetched.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        import PIL.Image
        import skimage.data
    except ImportError as error:
        raise ImportError("The photographs need scikit-image: pip install 'fatr-hf[analysis]'.") from error
    return [NamedImage(name, PIL.Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in names]


def load_images(source: str | Path, limit: int | None = None) -> Sequence[NamedImage]:
    """Pictures by the word ``photographs``, by a file's path, or all below a folder, ordered by their paths.

    Which files of a folder are pictures, and of which class each is, is what training reads too
    (``fatr_hf.images.read_class_folder``). All are opened once, so that a broken one is named before anything is
    computed, and again each time that they are asked for.

    Args:
        source: ``"photographs"``, a file or a folder.
        limit: take no more than so many: of a folder's pictures evenly spread ones, of the photographs the first.

    Returns:
        A list for the photographs, else ``PictureFiles``, whose ``notes`` say what was left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without pictures, a file that is none, or a limit below 1.
    """
    check_limit(limit)
    if not isinstance(source, (str, Path)):
        raise ValueError(f"source={source!r} must be a path or 'photographs'.")
    if source == "photographs":
        return photographs(PHOTOGRAPHS[:limit])
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{source!s} does not exist: give a picture, a folder of them, or 'photographs'.")
    files, notes = labelled_files(path) if path.is_dir() else ([(path, None)], [])
    if not files:
        endings = ", ".join(sorted(picture_endings()))
        raise ValueError(f"{printable(source)} holds no pictures, nor do the folders in it: no file ends in {endings}.")
    if limit is not None and limit < len(files):
        files = [files[place * len(files) // limit] for place in range(limit)]
    pictures = PictureFiles(files, notes)
    for _ in pictures:
        pass
    return pictures


def check_limit(limit: int | None) -> None:
    """Raises a ValueError for a number of pictures that is no integer above 0."""
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r} must be at least 1, an integer.")


def labelled_files(folder: Path) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """Paths and class names of all pictures below a folder, in the order of the paths, and notes about them."""
    found = read_class_folder(folder)
    files = {
        split.root / file: label
        for split in found.splits.values()
        for file, label in zip(split.files, split.labels(), strict=True)
    }
    return sorted(files.items()), found.notes


class PictureFiles(Sequence[NamedImage]):
    """Pictures that are opened when they are asked for, so that many of them need no memory.

    Args:
        files: their paths and labels.
        notes: sentences about what was left out.
    """

    def __init__(self, files: Sequence[tuple[Path, str | None]], notes: Sequence[str] = ()):
        self.files = files
        self.notes = notes

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, place: int) -> NamedImage: ...

    @overload
    def __getitem__(self, place: slice) -> list[NamedImage]: ...

    def __getitem__(self, place: int | slice) -> NamedImage | list[NamedImage]:
        if isinstance(place, slice):
            return [read_picture(*file) for file in self.files[place]]
        return read_picture(*self.files[place])


def read_picture(file: Path, label: str | None = None) -> NamedImage:
    """A picture in RGB as ``fatr_hf.images.open_picture`` opens it, named by its file.

    Raises:
        ValueError: a file that is no picture.
    """
    return NamedImage(printable(file.stem), open_picture(file, "RGB"), label)


def class_numbers(config: Any) -> dict[str, int]:
    """The number of each class name of a model. A name that two classes have tells neither, and is left out."""
    names = Counter(str(name) for name in config.id2label.values())
    return {str(name): int(number) for number, name in config.id2label.items() if names[str(name)] == 1}


def to_batch(images: Sequence[NamedImage], processor: Any, label2id: Mapping[str, int] | None = None) -> Batch:
    """Pixel values of pictures by a model's image processor, and the class number of each.

    Args:
        images: at least one.
        processor: resizes and normalises, as it does in a pipeline. One that normalises a single channel gets grey
            pictures.
        label2id: number of each class name of the model (see ``class_numbers``).

    Raises:
        ValueError: no images, or arguments of another kind.
    """
    if not images:
        raise ValueError("There are no images: give at least one.")
    if not all(isinstance(image, NamedImage) for image in images):
        raise ValueError("images must be a list of NamedImage, such as load_images gives.")
    if label2id is not None and not isinstance(label2id, Mapping):
        raise ValueError(f"label2id={label2id!r} must map class names to numbers.")
    mode = picture_mode(processor)
    pictures = [open_picture(image.picture, mode) for image in images]
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    if label2id is None or all(image.label is None for image in images):
        return Batch(pixel_values)
    numbers = [NO_CLASS if image.label is None else int(label2id.get(image.label, NO_CLASS)) for image in images]
    return Batch(pixel_values, torch.tensor(numbers))


class PictureBatches:
    """Pictures in batches, as often as they are gone through; ``to_batch`` of ``batch_size`` pictures at a time.

    Args:
        images, processor, label2id: as for ``to_batch``.
        batch_size: pictures at a time.
    """

    def __init__(
        self,
        images: Sequence[NamedImage],
        processor: Any,
        label2id: Mapping[str, int] | None = None,
        batch_size: int = 32,
    ):
        self.images = images
        self.processor = processor
        self.label2id = label2id
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.images), self.batch_size):
            yield to_batch(self.images[first : first + self.batch_size], self.processor, self.label2id)


def batches(data: Any, batch_size: int = 32) -> Iterator[Batch]:
    """Any data as batches, one after the other.

    Args:
        data: a ``Batch``; a tensor of pixel values (images, channels, height, width); or an iterable, such as a data
            loader or a data set, of ``Batch``es, or of batches or single examples that are mappings with
            ``pixel_values`` and perhaps ``labels``.
        batch_size: images at a time; batches of an iterable stay as they are.

    Raises:
        ValueError: no images, a batch size below 1, or data of another kind.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if isinstance(data, Tensor):
        data = Batch(data)
    parts = split(data, batch_size) if isinstance(data, Batch) else gather(data, batch_size)
    empty = True
    for batch in parts:
        if batch.pixel_values.dim() != 4:
            shape = tuple(batch.pixel_values.shape)
            raise ValueError(f"pixel_values of the shape {shape} must be (images, channels, height, width).")
        empty = False
        yield batch
    if empty:
        raise ValueError("There are no images: the data hold none, or an iterator of them was used up.")


def split(data: Batch, batch_size: int) -> Iterator[Batch]:
    """A batch in parts of ``batch_size`` images, the last one smaller where they do not divide."""
    for first in range(0, len(data.pixel_values), batch_size):
        part = slice(first, first + batch_size)
        yield Batch(data.pixel_values[part], None if data.labels is None else data.labels[part])


def gather(data: Any, batch_size: int) -> Iterator[Batch]:
    """Batches of an iterable, single examples put together.

    Raises:
        ValueError: no iterable, or items that are no mappings with pixel values.
    """
    items = examples_of(data)
    for first in items:
        if isinstance(first, Batch):
            yield first
            continue
        if not isinstance(first, Mapping) or "pixel_values" not in first:
            raise ValueError(
                f"Data must be a tensor of pixel values or give mappings with pixel_values, not {type(first).__name__}."
            )
        if torch.as_tensor(first["pixel_values"]).dim() == 3:
            yield stack([first, *islice(items, batch_size - 1)])
        else:
            labels = first.get("labels")
            yield Batch(torch.as_tensor(first["pixel_values"]), None if labels is None else torch.as_tensor(labels))


def examples_of(data: Any) -> Iterator[Any]:
    """The items of an iterable, or of a data set of PyTorch's, which tells its end by its length alone.

    Raises:
        ValueError: data of another kind.
    """
    if isinstance(data, Iterable):
        return iter(data)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(f"Data must be a tensor of pixel values, a data set or another iterable, not {data!r}.")
    return (data[place] for place in range(len(data)))


def stack(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Single examples as a batch; an example without a label is of no class."""
    labels = [example.get("labels") for example in examples]
    pixel_values = torch.stack([torch.as_tensor(example["pixel_values"]) for example in examples])
    if all(label is None for label in labels):
        return Batch(pixel_values)
    return Batch(pixel_values, torch.as_tensor([NO_CLASS if label is None else label for label in labels]))
