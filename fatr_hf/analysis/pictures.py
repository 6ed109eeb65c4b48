"""Pictures of where a model keeps its tokens, layer by layer: kept patches over the image, and heat maps of scores.

Every function that plots takes what ``image_trace.trace_image`` gave and returns a ``matplotlib.figure.Figure``, for
``figure_files.save_figure``.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..baselines.arguments import check_kind, check_layers, described
from ..images import printable
from .figure_files import check_matplotlib
from .image_trace import ImageTrace, Lines, PatchMap, boundaries, hatching, reduced_pixels, token_boundaries
from .names import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SCORE = 1 / 16
"""Scores below are shown as if they were this: a logarithmic scale has no zero."""

PANEL_INCHES = 2.3
"""Longer side of a panel, unless the shorter one then lacks room for the titles above it or the scale beside it."""
LEAST_WIDTH, LEAST_HEIGHT = 1.5, 1.2
"""Of a panel, in inches."""
COLUMNS = 4
"""Panels side by side, where the panels of one image flow; the strip of a video is as wide as all of them."""
FRAME_GAP = 4
"""Between the frames of a video, in points."""
FULL_LINES = 1 / 6
"""Patches of so many inches have lines of full width."""
NAME_DENSITY = 10
"""Characters of an image's name that an inch has room for; the rest of it is left out."""

KEPT_CAPTION = (
    "In detail: patches with a token of their own. Flat and hatched: patches that share one, in their mean colour, "
    "paler the more there are."
)
SCORES_CAPTION = (
    "Attention received; grey: patches that enter without a token of their own. Lines surround those that keep theirs."
)
TICKS = 5
"""On the scale of scores at most."""


def choose_layers(images: Sequence[ImageTrace], layers: Sequence[int] | None) -> list[int]:
    """The layers to show: those that were named, or by default those that reduce in the first image's model.

    Raises:
        ValueError: no images, what is no trace of one, a layer that a model does not have, or no layers.
    """
    if not images:
        raise ValueError("There are no images to show: give at least one.")
    if isinstance(images, ImageTrace) or not isinstance(images, Sequence):
        raise ValueError(f"images must be a list, not {described(images)}: put a single image into brackets.")
    for image in images:
        check_kind("an image", image, ImageTrace, "what trace_image gave, or one of what trace_rivals gave")
    if layers is None:
        layers = [each.layer for each in images[0].layers if each.tokens_out < each.tokens_in]
        if not layers:
            raise ValueError("No layer of this model reduces its tokens: name the layers to show.")
    depth = min(len(image.layers) for image in images)
    return list(check_layers("layers", layers, depth))


def plot_kept(image: ImageTrace, layers: Sequence[int] | None = None) -> "Figure":
    """The picture as the model gets it, and what is left of it after each of some layers.

    Patches with a token of their own are shown in detail. Patches that share a token (a DC token, EViT's fused token,
    merged ones) are flat and hatched (see ``reduced_pixels``), and lines part those of different tokens.

    Args:
        image: what ``trace_image`` gave.
        layers: counted from 0; by default those that reduce.

    Raises:
        ValueError: a layer that the model does not have, or no layer that reduces.
        ImportError: matplotlib is not installed.
    """
    numbers = choose_layers([image], layers)
    figure, panels = flowing_panels(image, 1 + len(numbers), KEPT_CAPTION)
    draw_input(panels[0], image)
    for axes, layer in zip(panels[1:], numbers, strict=True):
        draw_kept(axes, image, image.layers[layer])
    return figure


def plot_grid(images: Sequence[ImageTrace], layers: Sequence[int] | None = None) -> "Figure":
    """``plot_kept`` of several images in one model or of one image in several models, a row for each.

    Args:
        images: what ``trace_image`` gave of each, or ``trace_rivals``.
        layers: counted from 0; by default those that reduce in the first row.

    Raises:
        ValueError: no images, a layer that a model does not have, or no layer that reduces.
        ImportError: matplotlib is not installed.
    """
    numbers = choose_layers(images, layers)
    figure, rows = new_panels(images, 1 + len(numbers), KEPT_CAPTION)
    for image, panels in zip(images, rows, strict=True):
        draw_input(panels[0], image)
        for axes, layer in zip(panels[1:], numbers, strict=True):
            draw_kept(axes, image, image.layers[layer])
    return figure


def plot_scores(image: ImageTrace, layers: Sequence[int] | None = None) -> "Figure":
    """The picture as the model gets it, and a heat map of the scores in each of some layers.

    Scores are column means of the attention map as multiples of the uniform share ``1/N``, on a logarithmic scale that
    all layers share. Lines surround the patches that leave a layer as tokens of their own.

    Args:
        image: what ``trace_image`` gave, of a model with ``attn_implementation="eager"``.
        layers: counted from 0; by default those that reduce.

    Raises:
        ValueError: no scores, a layer that the model does not have, or no layer that reduces.
        ImportError: matplotlib is not installed.
    """
    chosen = [image.layers[layer] for layer in choose_layers([image], layers)]
    maps = [patches.scores.clamp(min=LEAST_SCORE) for patches in chosen if patches.scores is not None]
    if len(maps) < len(chosen):
        raise ValueError("There are no attention maps: load the model with attn_implementation='eager'.")
    figure, panels = flowing_panels(image, 1 + len(chosen), SCORES_CAPTION)
    scale = score_scale(torch.cat([scores[~scores.isnan()] for scores in maps]))
    draw_input(panels[0], image)
    for axes, patches, scores in zip(panels[1:], chosen, maps, strict=True):
        heat_map = draw_patches(axes, image, scores, f"layer {patches.layer}:\n{patches.tokens_in} tokens")
        heat_map.set(norm=scale, cmap="viridis")
        axes.set_facecolor("lightgrey")
        draw_boundaries(axes, image, boundaries(patches.own))
    draw_colour_bar(figure, panels[:COLUMNS], heat_map)
    return figure


def score_scale(scores: Tensor) -> Any:
    """A logarithmic scale that holds all scores.

    It reaches to half and twice the uniform share at least, so that near-uniform attention does not look like contrast.
    """
    from matplotlib.colors import LogNorm

    return LogNorm(min(0.5, float(scores.min())), max(2.0, float(scores.max())))


def draw_colour_bar(figure: "Figure", panels: Sequence["Axes"], heat_map: Any) -> None:
    """The scale of scores, right of the panels, with powers of two."""
    least, most = (math.log2(limit) for limit in heat_map.get_clim())
    step = math.ceil((most - least) / TICKS)
    powers = range(step * math.ceil(least / step), math.floor(most) + 1, step)
    figure.set_figwidth(figure.get_figwidth() + 0.8)
    bar = figure.colorbar(heat_map, ax=panels, ticks=[2.0**power for power in powers], aspect=30, pad=0.01)
    bar.ax.set_yticklabels([f"{2.0**power:g}" for power in powers], fontsize="small")
    bar.ax.minorticks_off()
    bar.set_label("times the uniform\nshare 1/N", fontsize="small")


def draw_input(axes: "Axes", image: ImageTrace) -> None:
    """The picture as the model gets it, with its name at the side."""
    draw_patches(axes, image, image.pixels, f"input:\n{image.tokens} tokens")
    room = int(NAME_DENSITY * panel_size(image)[0])
    name = printable(image.name)
    name = name if len(name) <= room else name[: room - 1] + "…"
    axes.set_ylabel(figure_text(name), fontsize="medium", fontweight="bold")


def draw_kept(axes: "Axes", image: ImageTrace, patches: PatchMap, content: Tensor | None = None) -> None:
    """What is left of a picture after a layer; ``content`` by default is its ``reduced_pixels``."""
    content = reduced_pixels(image.pixels, patches) if content is None else content
    draw_patches(axes, image, content, kept_title(image, patches))
    draw_lines(axes, hatching(patches), width=0.4, edge=0.8, opacity=0.35)
    draw_boundaries(axes, image, token_boundaries(patches))


def kept_title(image: ImageTrace, patches: PatchMap) -> str:
    """Says which layer a panel shows, and how many tokens are left."""
    return f"after layer {patches.layer}:\n{patches.tokens_out} of {image.tokens} tokens"


def draw_patches(axes: "Axes", image: ImageTrace, content: Tensor, title: str) -> Any:
    """Pixels or one number for each patch, in patches from the upper left corner."""
    height, width = image.pixels.shape[:2]
    rows, columns = image.grid
    axes.set_title(title, fontsize="small")
    axes.set_xticks([])
    axes.set_yticks([])
    for number in range(1, image.frames):
        place = columns * number / image.frames
        axes.vlines(place, 0, rows, colors="white", linewidth=FRAME_GAP, zorder=3)  # above the lines between patches
    return axes.imshow(
        content.numpy(),
        extent=(0, columns, rows, 0),
        aspect=height / rows / (width / columns),
        interpolation="nearest",
    )


def draw_boundaries(axes: "Axes", image: ImageTrace, lines: Lines) -> None:
    """Lines between patches, thinner where patches are smaller than ``FULL_LINES``."""
    patch = min(inches / patches for inches, patches in zip(panel_size(image), image.grid, strict=True))
    thinner = min(1, patch / FULL_LINES)
    draw_lines(axes, lines, width=0.9 * thinner, edge=0.65 * thinner)


def draw_lines(axes: "Axes", lines: Lines, width: float, edge: float, opacity: float = 1) -> None:
    """Black lines with white edges, which stand out from any colour; width and edge in points."""
    from matplotlib.collections import LineCollection

    for colour, points in (("white", width + 2 * edge), ("black", width)):
        segments = LineCollection(lines, colors=colour, linewidths=points, alpha=opacity, capstyle="projecting")
        axes.add_collection(segments)


def flowing_panels(image: ImageTrace, number: int, caption: str) -> tuple["Figure", list["Axes"]]:
    """A figure with so many panels for one image, ``COLUMNS`` in a row."""
    columns = min(number, COLUMNS) if image.frames == 1 else 1
    figure, rows = new_panels([image] * -(-number // columns), columns, caption)
    panels = [axes for row in rows for axes in row]
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def new_panels(images: Sequence[ImageTrace], columns: int, caption: str) -> tuple["Figure", list[list["Axes"]]]:
    """A figure with a row of panels for each image, in its shape, and a caption below.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    sizes = [panel_size(image) for image in images]
    heights = [height for height, _ in sizes]
    width = (max(width for _, width in sizes) + 0.08) * columns + 0.3
    lines = math.ceil(len(caption) / (14 * width))
    height = sum(heights) + 0.45 * len(heights) + 0.17 * lines + 0.15
    figure = Figure(figsize=(width, height), layout="compressed")
    panels = figure.subplots(len(images), columns, squeeze=False, height_ratios=heights)
    figure.supxlabel(textwrap.fill(caption, len(caption) // lines + 10), fontsize="small")
    return figure, [list(row) for row in panels]


def panel_size(image: ImageTrace) -> tuple[float, float]:
    """Height and width of an image's panel in inches."""
    height, width = image.pixels.shape[:2]
    if image.frames > 1:
        return COLUMNS * PANEL_INCHES * height / width, COLUMNS * PANEL_INCHES
    scale = max(PANEL_INCHES / max(height, width), LEAST_HEIGHT / height, LEAST_WIDTH / width)
    return scale * height, scale * width
