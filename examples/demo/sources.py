"""What visitors show the models: sample photographs, their own pictures and videos, and a clip that is drawn here."""

from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from fatr_hf import images
from fatr_hf.analysis import photographs
from fatr_hf.images.opening import too_many_pixels

MAX_PIXELS = 50_000_000
"""Pictures and frames with more are refused before they are decoded."""

MAX_RATIO = 20
"""Of the longer side to the shorter one: processors that scale the shorter side would make huge pictures of strips."""

MAX_FRAMES = 300
"""Frames of a video that are read; the rest of it is left out."""

CLIP_SIDE = 240
"""Pixels of a side of the drawn clip."""


def sample_photograph(name: str | None) -> PIL.Image.Image:
    """One of scikit-image's photographs.

    Raises:
        ValueError: none was chosen.
    """
    if name is None:
        raise ValueError("Choose a sample photograph, or a picture of your own.")
    [photograph] = photographs([name])
    picture: PIL.Image.Image = photograph.picture
    return picture


def open_picture(path: str | Path) -> PIL.Image.Image:
    """A picture in RGB, turned as its camera says; of an animation the first one. Transparency is left out.

    Raises:
        ValueError: a file that is gone or is no picture, a picture of more than ``MAX_PIXELS``, or one whose sides
            differ by more than ``MAX_RATIO``.
    """
    name = Path(path).name
    try:
        picture: PIL.Image.Image = images.open_picture({"path": name, "bytes": read_upload(path)}, "RGB", MAX_PIXELS)
    except images.TooManyPixels:
        raise
    except images.PictureError as error:
        raise ValueError(f"{name} cannot be read as a picture. Choose another file, such as a JPEG or PNG.") from error
    check_ratio(name, picture.size)
    return picture


def read_upload(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: it is gone.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{Path(path).name} is no longer here: upload it again.") from error


def check_ratio(name: str, size: tuple[int, int]) -> None:
    """Raises a ValueError for a picture that is too long for its width."""
    if max(size) > MAX_RATIO * min(size):
        raise ValueError(
            f"{name} has {size[0]} x {size[1]} pixels: a side may be {MAX_RATIO} times as long as the other at most."
        )


def read_video(path: str | Path, count: int) -> list[PIL.Image.Image]:
    """Frames of a video, evenly spread over its first ``MAX_FRAMES``; those of a shorter one come more than once.

    Args:
        path: a file that PyAV reads; an animated GIF is one.
        count: of the frames.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: a file that is gone or is no video, or frames as ``open_picture`` refuses them.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading videos needs PyAV: pip install 'fatr-hf[demo]'.") from error
    name = Path(path).name
    read_upload(path)
    try:
        with av.open(str(path)) as container:
            [stream, *_] = container.streams.video
            if stream.width * stream.height > MAX_PIXELS:
                raise too_many_pixels(name, MAX_PIXELS)
            length = sum(1 for _ in islice(container.decode(stream), MAX_FRAMES))
        chosen = np.linspace(0, length - 1, count).round().astype(int).tolist()
        with av.open(str(path)) as container:
            frames = {
                place: frame.to_image().rotate(frame.rotation, expand=True)
                for place, frame in enumerate(islice(container.decode(video=0), length))
                if place in chosen
            }
        pictures = [frames[place] for place in chosen]
    except images.TooManyPixels:
        raise
    except (av.FFmpegError, LookupError, OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a video. Choose another file, such as an MP4 or GIF.") from error
    check_ratio(name, pictures[0].size)
    return pictures


def draw_clip(count: int) -> list[PIL.Image.Image]:
    """A clip of so many frames: the astronaut's face, cut out as a disc, passes a drifting cup of coffee."""
    side, disc = CLIP_SIDE, CLIP_SIDE * 2 // 5
    face = sample_photograph("astronaut").crop((160, 20, 290, 150)).resize((disc, disc))
    mask = PIL.Image.new("L", (disc, disc))
    PIL.ImageDraw.Draw(mask).ellipse((0, 0, disc - 1, disc - 1), fill=255)
    table = sample_photograph("coffee")
    table = table.resize((side * table.width // table.height, side))
    frames = []
    for moment in np.linspace(0, 1, count):
        left = round((table.width - side) * (0.5 + 0.1 * float(moment)))
        frame = table.crop((left, 0, left + side, side))
        frame.paste(face, (round(0.05 * side + 0.5 * side * float(moment)), side // 8), mask)
        frames.append(frame)
    return frames
