"""Opening a picture: any file that Pillow reads, as 8 bits a channel, upright."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from transformers.utils import logging

from .names import printable

logger = logging.get_logger(__name__)

Picture = Any
"""A PIL image; pillow is an extra, so nothing here imports it before it is needed."""

DARK_SHARE = 1 / 16
"""A deep picture whose highest value is below this share of its range is nearly black once it has 8 bits."""


class PictureError(ValueError):
    """A picture that cannot be read.

    Args:
        name: of the picture.
        reason: why.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} cannot be read as a picture: {self.reason}"


class TooManyPixels(PictureError):
    """A picture that is larger than what is decoded.

    Args:
        name: of the picture.
        reason: the limit, in words.
    """

    def __str__(self) -> str:
        return f"{self.name} {self.reason.removeprefix('it ')}"


def too_many_pixels(name: str, max_pixels: int) -> TooManyPixels:
    """The error for a picture of more pixels."""
    limit = f"{max_pixels / 1e6:.0f} megapixels that are taken ({max_pixels} pixels)"
    return TooManyPixels(name, f"it has more than the {limit}: make it smaller.")


def import_pillow() -> Any:
    """The module ``PIL`` with what is used of it.

    Raises:
        ImportError: pillow is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError("Reading pictures needs pillow: pip install 'fatr-hf[analysis]'.") from error
    return PIL


def open_picture(source: Any, mode: str | None = None, max_pixels: int | None = None) -> Picture:
    """A picture of 8 bits a channel, turned as its camera says.

    Grey of 16 bits is divided by 257. Grey of 32 bits, integer or float, does not say its range: a highest value of at
    most 1 (floats alone), 255 or 65535 tells it, and any other is refused. The first picture of an animation or of a
    stack is taken. Metadata that cannot be read leave a picture as it lies, with a warning.

    Args:
        source: a path, the bytes of a file, a mapping with ``path`` and ``bytes`` as ``datasets`` stores pictures, or
            an open PIL image.
        mode: ``"RGB"`` or ``"L"``; None leaves a mode of 8 bits as it is.
        max_pixels: refuse a picture of more before it is decoded; Pillow's own limit holds in any case.

    Raises:
        ImportError: pillow is not installed.
        ValueError: another mode.
        PictureError: the picture cannot be read; a ValueError too.
        TooManyPixels: the picture is larger than that; a PictureError too.
    """
    pil = import_pillow()
    if mode not in (None, "RGB", "L"):
        raise ValueError(f"mode={mode!r} must be 'RGB', 'L' or None.")
    name, file = describe(source)
    with naming_errors(name):
        if isinstance(file, pil.Image.Image):
            return prepare(file, mode, name)
        with pil.Image.open(file, formats=picture_formats()) as picture:
            if max_pixels is not None and picture.width * picture.height > max_pixels:
                raise too_many_pixels(name, max_pixels)
            return prepare(picture, mode, name)


def picture_formats() -> list[str]:
    """The formats that are opened: all of Pillow's but PostScript, for which it starts the program Ghostscript."""
    image = import_pillow().Image
    image.init()
    return [name for name in image.ID if name != "EPS"]


def describe(source: Any) -> tuple[str, Any]:
    """What to call a picture in a message, and what Pillow opens: a path, a stream or an open image.

    Raises:
        PictureError: a mapping without a picture.
    """
    if isinstance(source, Mapping):
        path, content = source.get("path"), source.get("bytes")
        if path is None and content is None:
            raise PictureError("an empty row", "it has neither a path nor bytes.")
        return "a picture" if path is None else printable(path), path if content is None else io.BytesIO(content)
    if isinstance(source, bytes):
        return "a picture", io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return printable(os.fspath(source)), source
    if not isinstance(source, import_pillow().Image.Image):
        raise PictureError(type(source).__name__, "give a path, bytes or an open PIL image")
    return printable(getattr(source, "filename", "") or "a picture"), source


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Within a ``with`` block whatever a decoder raises becomes a ``PictureError`` that names the picture."""
    pil = import_pillow()
    try:
        yield
    except PictureError:
        raise
    except pil.Image.DecompressionBombWarning as error:  # where warnings are errors
        raise too_many_pixels(name, pil.Image.MAX_IMAGE_PIXELS) from error
    except pil.Image.DecompressionBombError as error:
        raise too_many_pixels(name, 2 * pil.Image.MAX_IMAGE_PIXELS) from error
    except pil.UnidentifiedImageError as error:
        raise PictureError(name, "it is no picture of a known format") from error
    except Exception as error:  # the decoders of Pillow raise errors of many kinds
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise PictureError(name, reason) from error


def prepare(picture: Picture, mode: str | None, name: str) -> Picture:
    """An open picture, decoded, upright, of 8 bits a channel and in a mode."""
    largest = largest_value(picture)  # which only the file knows, and a turned copy does not
    picture = to_8_bits(upright(picture, name), largest, name)
    if mode is None or picture.mode == mode:
        return picture
    if "transparency" in picture.info:  # of a palette, which Pillow else warns of
        picture = picture.convert("RGBA")
    return picture.convert(mode)


def upright(picture: Picture, name: str) -> Picture:
    """A copy, turned as the metadata say if they can be read."""
    picture.load()
    try:
        return import_pillow().ImageOps.exif_transpose(picture)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the metadata, the pixels are whole
        logger.warning_once(f"{name} is used as it lies: its EXIF metadata cannot be read ({error}).")
        whole = picture.copy()
        whole.info.pop("exif", None)  # it is not to be read again
        return whole


def largest_value(picture: Picture) -> int | None:
    """The value of white in a picture of more than 8 bits a channel, None where the file does not say."""
    if picture.format == "TIFF" and picture.mode.startswith("I;16"):
        return int(2 ** picture.tag_v2.get(258, (16,))[0] - 1)  # BitsPerSample, 12 or 16
    # Pillow scales these formats to 16 bits; some of its versions say "I".
    is_16_bits = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    return 65535 if is_16_bits else None


def to_8_bits(picture: Picture, largest: int | None, name: str) -> Picture:
    """A picture scaled to 8 bits where it has more; ``convert`` would clip it at 255.

    Args:
        largest: the value of white, None where the highest value must tell it.

    Raises:
        PictureError: values that are NaN, infinite or negative, or too high to tell their range.
    """
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError(name, "it holds values that are NaN or infinite")
    low, high = values.min(), values.max()
    ranges = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
    largest = next((each for each in ranges if high <= each), None) if largest is None else largest
    if low < 0 or largest is None:
        raise PictureError(
            name,
            f"its values reach from {low:g} to {high:g}, and a picture of 32 bits must have them from 0 to "
            f"{' or '.join(map(str, ranges))}. Rescale it.",
        )
    if 0 < high < DARK_SHARE * largest:
        logger.warning_once(f"{name} is nearly black: its highest value is {high:g}, and white is {largest}.")
    return import_pillow().Image.fromarray(np.rint(values * (255 / largest)).clip(0, 255).astype(np.uint8))
