"""Image processors: the mode of the pictures that one takes, and whether it fits its model."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from .opening import import_pillow

MODES = {1: "L", 3: "RGB"}
"""Pillow's modes by the number of channels."""


def picture_mode(processor: Any) -> str:
    """``"L"`` for a processor that normalises a single channel, else ``"RGB"``.

    Raises:
        ValueError: a model or a name in place of a processor.
    """
    if isinstance(processor, (str, nn.Module)):
        raise ValueError(
            f"processor={type(processor).__name__} must be an image processor, such as "
            "AutoImageProcessor.from_pretrained(name) gives."
        )
    mean = getattr(processor, "image_mean", None)
    return MODES[1] if isinstance(mean, (list, tuple)) and len(mean) == 1 else MODES[3]


def check_processor(processor: Any, config: Any) -> None:
    """Compares what an image processor gives with what its model takes, by a blank picture of each shape.

    Args:
        processor: of any kind.
        config: of a model with ``image_size`` and ``num_channels``. A ``takes_any_size`` that is true says that it
            stretches its positions by itself; any other takes one size alone.

    Raises:
        ValueError: another size or number of channels.
    """
    if not hasattr(config, "num_channels"):
        raise ValueError(f"config={type(config).__name__} must be a model's configuration: give model.config.")
    if config.num_channels not in MODES:
        raise ValueError(
            f"num_channels={config.num_channels} must be one of {', '.join(map(str, MODES))}: pictures are grey or RGB."
        )
    size = config.image_size
    height, width = size if isinstance(size, Iterable) else (size, size)
    shapes = {processed_shape(processor, shape) for shape in ((48, 64), (64, 48))}
    if len(shapes) > 1:
        raise ValueError(
            f"The image processor gives pictures of a size that depends on the picture, and the model takes {height} x "
            f"{width} pixels: set its size to {{'height': {height}, 'width': {width}}}, or have it crop."
        )
    [(channels, *given)] = shapes
    if channels != config.num_channels:
        raise ValueError(
            f"The image processor gives {channels} channels, and the model takes {config.num_channels}: save one whose "
            f"image_mean and image_std have {config.num_channels} values beside the model."
        )
    if given != [height, width] and not getattr(config, "takes_any_size", False):
        raise ValueError(
            f"The image processor gives pictures of {given[0]} x {given[1]} pixels, and the model takes {height} x "
            f"{width}: load the model with image_size=({given[0]}, {given[1]}), which interpolates its position "
            "embeddings, or save a processor of the model's size beside it."
        )


def processed_shape(processor: Any, shape: tuple[int, int]) -> tuple[int, ...]:
    """Channels, height and width of what a processor makes of a picture of a height and width."""
    height, width = shape
    blank = import_pillow().Image.new(picture_mode(processor), (width, height))
    return tuple(processor([blank], return_tensors="pt")["pixel_values"].shape[1:])


def resize_processor(processor: Any, image_size: int | tuple[int, int]) -> Any:
    """A copy of an image processor that gives pictures of another height and width, or side.

    A processor that crops what it has resized keeps the share that it crops.

    Raises:
        ValueError: a processor that cannot give this size.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    fields, changes = processor.to_dict(), {"size": {"height": height, "width": width}}
    if fields.get("do_center_crop") and fields.get("crop_size"):
        crop = fields["crop_size"]
        scale = max(height / crop["height"], width / crop["width"])
        sides = {side: max(1, round(scale * length)) for side, length in fields["size"].items()}
        changes = {"size": sides, "crop_size": {"height": height, "width": width}}
    resized = type(processor).from_dict(fields | changes)
    given = processed_shape(resized, (48, 64))[1:]
    if given != (height, width):
        raise ValueError(
            f"The image processor cannot give pictures of {height} x {width} pixels: it gives {given[0]} x {given[1]}."
        )
    return resized
