"""Images to analyse: photographs that are there without a network, files, and batches of pixel values of any data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "camera", "coins", "moon", "retina", "hubble_deep_field")
"""Of scikit-image, in its own package; the first four are in colour and show things."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


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
    """(batch,) int64, class numbers."""


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

    A picture in a sub-folder has that folder's name as its label. Those of files are all opened once, so that a broken
    one is named before anything is computed, and again each time that they are asked for.

    Args:
        source: ``"photographs"``, a file or a folder.
        limit: take no more than so many: of a folder's pictures evenly spread ones, of the photographs the first.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without pictures, a file that is none, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1.")
    if source == "photographs":
        return photographs(PHOTOGRAPHS[:limit])
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{source!s} does not exist: give a picture, a folder of them, or 'photographs'.")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ValueError(f"{source!s} holds no pictures ({', '.join(SUFFIXES)}), nor do the folders in it.")
    if limit is not None and limit < len(files):
        files = [files[place * len(files) // limit] for place in range(limit)]
    pictures = PictureFiles([(file, None if path in (file, file.parent) else file.parent.name) for file in files])
    for _ in pictures:
        pass
    return pictures


class PictureFiles(Sequence[NamedImage]):
    """Pictures that are opened when they are asked for, so that many of them need no memory.

    Args:
        files: their paths and labels.
    """

    def __init__(self, files: Sequence[tuple[Path, str | None]]):
        self.files = files

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
    """A picture in RGB, turned as its camera says, named by its file.

    Raises:
        ValueError: a file that is no picture.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(file) as picture:
            return NamedImage(file.stem, PIL.ImageOps.exif_transpose(picture).convert("RGB"), label)
    except OSError as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error


def to_batch(images: Sequence[NamedImage], processor: Any, label2id: Mapping[str, int] | None = None) -> Batch:
    """Pixel values of pictures by a model's image processor, and class numbers where every label is a model's class.

    Args:
        images: at least one.
        processor: resizes and normalises, as it does in a pipeline. One that normalises a single channel gets grey
            pictures.
        label2id: the classes of the model's configuration.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("There are no images: give at least one.")
    mean = getattr(processor, "image_mean", None)
    grey = isinstance(mean, (list, tuple)) and len(mean) == 1
    pictures = [image.picture.convert("L" if grey else "RGB") for image in images]
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    known = [None if image.label is None or label2id is None else label2id.get(image.label) for image in images]
    labels = None if None in known else torch.tensor(known)
    return Batch(pixel_values, labels)


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
    """Single examples as a batch, with labels where all have one."""
    labels = [example.get("labels") for example in examples]
    pixel_values = torch.stack([torch.as_tensor(example["pixel_values"]) for example in examples])
    return Batch(pixel_values, None if None in labels else torch.as_tensor(labels))
