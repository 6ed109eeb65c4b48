"""Animations of where a model keeps its tokens: from layer to layer, and of a video from frame to frame."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .figure_files import FORMATS as FIGURE_FORMATS
from .figure_files import check_figure_file, check_resolution, whole_file
from .image_trace import ImageTrace, PatchMap, reduced_pixels
from .pictures import KEPT_CAPTION, choose_layers, draw_input, draw_kept, draw_patches, flowing_panels, kept_title
from .video_trace import frame_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".gif", ".mp4")

FRAMES_PER_SECOND = 5
FADE_FRAMES = 3
"""Frames in which a layer takes effect; the last of them is what it leaves."""
TUBELET_FRAMES = 2
"""Frames for each tubelet of a video."""
HOLD_FRAMES = 5
"""Frames for which that, and the input, stay; the last one stays twice as long."""


def check_animation_file(path: str | Path) -> None:
    """Checks, before anything is computed, that an animation can be written.

    Raises:
        ValueError: what ``check_figure_file`` refuses, or an MP4 without ffmpeg.
        ImportError: matplotlib is not installed.
    """
    check_figure_file(path, FORMATS)
    from matplotlib.animation import FFMpegWriter

    if Path(path).suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise ValueError(f"{path} cannot be written: the program ffmpeg is not installed. A .gif needs none.")


def check_picture_file(path: str | Path) -> None:
    """Checks, before anything is computed, that a figure or an animation can be written; raises as those checks do."""
    if Path(path).suffix in FORMATS:
        check_animation_file(path)
    else:
        check_figure_file(path, (*FIGURE_FORMATS, *FORMATS))


def save_animation(
    images: Sequence[ImageTrace], path: str | Path, layers: Sequence[int] | None = None, dpi: float = 150
) -> None:
    """Writes an animation through the layers, the images side by side; it starts again at its end.

    Args:
        images: what ``trace_image`` gave of each, or ``trace_rivals``.
        path: a GIF, or where ffmpeg is installed an MP4; replaced when it is complete.
        layers: counted from 0, of all images; by default those that reduce in the first.
        dpi: pixels an inch; a panel's longer side is about 2.3 inches.

    Raises:
        ValueError, ImportError: as for ``check_animation_file`` and ``pictures.plot_grid``; a resolution out of
            range.
    """
    check_animation_file(path)
    check_resolution(dpi)
    numbers = choose_layers(images, layers)
    figure, panels = flowing_panels(images[0], len(images), KEPT_CAPTION)
    for axes, image in zip(panels, images, strict=True):
        draw_input(axes, image)
    with recording(figure, path, dpi) as writer:
        hold(writer)
        for step, layer in enumerate(numbers):
            for frame in range(1, FADE_FRAMES + 1):
                for axes, image in zip(panels, images, strict=True):
                    before = image.layers[numbers[step - 1]] if step else None
                    draw_fading(axes, image, before, image.layers[layer], frame / FADE_FRAMES)
                writer.grab_frame()
            hold(writer)
        hold(writer)


def save_video(video: ImageTrace, path: str | Path, layers: Sequence[int] | None = None, dpi: float = 150) -> None:
    """Writes an animation of a video over time, beside what layers leave of it; it starts again at its end.

    It shows the first frame of each tubelet. A token that stands for patches of several frames has its mean colour over
    all of them.

    Args:
        video: what ``trace_video`` gave.
        path, layers, dpi: as for ``save_animation``.

    Raises:
        ValueError, ImportError: as for ``save_animation``; the trace of an image.
    """
    check_animation_file(path)
    check_resolution(dpi)
    numbers = choose_layers([video], layers)
    if video.frames == 1:
        raise ValueError(f"{video.name!r} is a single frame, which nothing moves in: use save_animation.")
    contents = [reduced_pixels(video.pixels, video.layers[layer]).chunk(video.frames, dim=1) for layer in numbers]
    frames = [frame_of(video, number) for number in range(video.frames)]
    figure, panels = flowing_panels(frames[0], 1 + len(numbers), KEPT_CAPTION)

    def draw(number: int) -> None:
        draw_input(panels[0], frames[number])
        for axes, layer, content in zip(panels[1:], numbers, contents, strict=True):
            draw_kept(axes, frames[number], frames[number].layers[layer], content[number])

    draw(0)
    with recording(figure, path, dpi) as writer:
        for number in range(video.frames):
            for axes in panels:
                clear(axes)
            draw(number)
            for _ in range(TUBELET_FRAMES):
                writer.grab_frame()


@contextmanager
def recording(figure: "Figure", path: str | Path, dpi: float) -> Iterator[Any]:
    """What takes a figure's frames within a ``with`` block; the file is there when that ends."""
    from matplotlib.animation import FFMpegWriter, PillowWriter

    # Laid out once, so that nothing moves but the patches.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    writer: Any = (PillowWriter if Path(path).suffix == ".gif" else FFMpegWriter)(FRAMES_PER_SECOND)
    with whole_file(path) as unfinished, writer.saving(figure, str(unfinished), dpi):
        yield writer


def hold(writer: Any) -> None:
    """Shows the figure as it is for a while."""
    for _ in range(HOLD_FRAMES):
        writer.grab_frame()


def draw_fading(axes: "Axes", image: ImageTrace, before: PatchMap | None, after: PatchMap, share: float) -> None:
    """Draws the way between two layers, or from the picture itself; at its end share is 1."""
    clear(axes)
    if share == 1:
        draw_kept(axes, image, after)
        return
    start = image.pixels if before is None else reduced_pixels(image.pixels, before)
    content = torch.lerp(start, reduced_pixels(image.pixels, after), share)
    draw_patches(axes, image, content, kept_title(image, after))


def clear(axes: "Axes") -> None:
    """Removes what was drawn, so that frames do not pile up."""
    for artist in (*axes.images, *axes.collections):
        artist.remove()
