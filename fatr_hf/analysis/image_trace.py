"""An image's way through a model, as pictures show it: which token stands for which patch after every layer.

``trace_image`` and ``trace_rivals`` run models on one image; the other functions turn what they give into pixels and
lines.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines.arguments import check_fatr, check_kind, described, several
from ..baselines.matched import matched_rivals, rival_names
from ..modeling.reduction_model import ReductionModel
from .images import NamedImage, to_batch
from .trace import LayerTrace, check_traceable, trace

RIVALS = {"random": "random", "evit": "EViT", "tome": "ToMe", "pooling": "pooling"}
"""Names of ``matched_rivals`` that reduce, and how pictures name them."""

LEAST_STRENGTH = 0.35
"""How much of a colour is left at least of a token that many patches share; the rest is white."""

Lines = list[list[tuple[int, int]]]
"""Line segments, two points ``(x, y)`` each, in patches from the upper left corner."""


class PatchMap(NamedTuple):
    """What one layer does with an image's patches."""

    layer: int
    """Counted from 0."""
    tokens_in: int
    tokens_out: int
    source: Tensor
    """(rows, columns) int64: which place of the leaving sequence stands for each patch; -1 for a dropped one."""
    own: Tensor
    """(rows, columns) bool: whether a patch leaves as a token of its own."""
    scores: Tensor | None
    """(rows, columns): the attention that each entering patch gets, as a multiple of the uniform share ``1/N``;
    not-a-number for patches without a token of their own. None without attention maps."""


class ImageTrace(NamedTuple):
    """An image's way through a model."""

    name: str
    """What pictures call it: the image, or the model where several are compared."""
    pixels: Tensor
    """(height, width, 3) float32 in [0, 1]: the picture as the model gets it, resized by its processor."""
    layers: tuple[PatchMap, ...]
    frames: int = 1
    """Of a video, which is a strip of so many frames side by side (see ``trace_video``)."""

    @property
    def tokens(self) -> int:
        """Tokens that enter the first layer."""
        return self.layers[0].tokens_in

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.layers[0].source.shape
        return rows, columns


def trace_image(model: PreTrainedModel, image: NamedImage, processor: Any) -> ImageTrace:
    """Runs a model on one image.

    Args:
        model: as for ``trace.trace``; scores need ``attn_implementation="eager"``.
        image: a picture of any size.
        processor: the model's image processor.

    Raises:
        ValueError: a model that cannot be traced, a picture without a name, or what is no image processor.
    """
    check_traceable(model)
    check_kind("image", image, NamedImage, "a NamedImage, such as load_images(path)[0]")
    if not callable(processor) or isinstance(processor, torch.nn.Module):
        raise ValueError(f"processor must be the model's image processor, not {described(processor)}.")
    pixel_values = to_batch([image], processor).pixel_values
    layers = trace(model, pixel_values.to(model.device, model.dtype))
    return ImageTrace(image.name, seen_pixels(pixel_values[0], processor), tuple(patch_map(each) for each in layers))


def trace_rivals(
    model: ReductionModel, image: NamedImage, processor: Any, names: Sequence[str] | None = None
) -> list[ImageTrace]:
    """``trace_image`` of a FATR model and of its rivals at about the same cost, each under the model's name.

    Args:
        names: of ``RIVALS``; by default all that there are of the model's family.

    Raises:
        ValueError: an unknown name, or a model that cannot be traced.
    """
    check_fatr(model, "given rivals")
    if names is None:
        names = [name for name in RIVALS if name in rival_names(model.config)]
    for name in several("names", names):
        if name not in RIVALS:
            raise ValueError(f"Unknown rival {name!r}: choose from {', '.join(RIVALS)}.")
    models = {"FATR": model} | {RIVALS[name]: rival for name, rival in matched_rivals(model, names).items()}
    return [trace_image(each, image._replace(name=label), processor) for label, each in models.items()]


def patch_map(layer: LayerTrace) -> PatchMap:
    """Of the first image of a batch."""
    tokens_in, leaving = layer.entering.tokens.shape[1], layer.leaving
    scores = None
    if layer.attention is not None:
        scores = (layer.patch_scores[0] * tokens_in).float().view(leaving.grid).cpu()
    source, own = (each[0].view(leaving.grid).cpu() for each in (leaving.source, leaving.own))
    return PatchMap(layer.layer, tokens_in, leaving.tokens.shape[1], source, own, scores)


def seen_pixels(pixel_values: Tensor, processor: Any) -> Tensor:
    """The picture that pixel values were made from, after resizing and cropping.

    Args:
        pixel_values: (channels, height, width), 1 or 3 channels.
        processor: the image processor that made them; its rescaling and normalisation are undone.

    Returns:
        (height, width, 3) float32 in [0, 1].

    Raises:
        ValueError: what is no picture's pixel values.
    """
    if not isinstance(pixel_values, Tensor) or pixel_values.dim() != 3:
        found = tuple(pixel_values.shape) if isinstance(pixel_values, Tensor) else described(pixel_values)
        raise ValueError(f"pixel_values must be a tensor (channels, height, width), not {found}.")
    pixels = pixel_values.float().movedim(0, 2)
    if getattr(processor, "do_normalize", False):
        pixels = pixels * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)
    factor = processor.rescale_factor if getattr(processor, "do_rescale", False) else 1
    return (pixels / (255 * factor)).clamp(0, 1).expand(-1, -1, 3)


def reduced_pixels(pixels: Tensor, patches: PatchMap) -> Tensor:
    """The picture as its tokens tell it: patches with a token of their own as they are, the others flat.

    Patches that share one token take their mean colour, mixed with white: of ``n`` patches ``1/sqrt(n)`` of the colour
    is left, and ``LEAST_STRENGTH`` at least. Dropped patches are white.

    Args:
        pixels: (height, width, 3) in [0, 1].
        patches: of that picture.

    Returns:
        (height, width, 3) in [0, 1].

    Raises:
        ValueError: pixels of another shape, or that do not divide into the patches.
    """
    rows, columns = patches.source.shape
    if pixels.dim() != 3 or pixels.shape[2] != 3 or pixels.shape[0] % rows or pixels.shape[1] % columns:
        raise ValueError(
            f"pixels of the shape {tuple(pixels.shape)} must be (height, width, 3), divisible into {rows} x {columns} "
            "patches."
        )
    detail = pixels.unflatten(1, (columns, -1)).unflatten(0, (rows, -1)).transpose(1, 2)
    colours = detail.mean(dim=(2, 3)).flatten(0, 1)
    place = patches.source.flatten() + 1  # 0 is that of dropped patches
    counts = torch.bincount(place)
    sums = colours.new_zeros(len(counts), 3).index_add(0, place, colours)
    strength = counts.rsqrt().clamp(LEAST_STRENGTH, 1)[:, None]
    flat = 1 + strength * (sums / counts.clamp(min=1)[:, None] - 1)
    flat[0] = 1
    mixed = torch.where(patches.own[:, :, None, None, None], detail, flat[place].view(rows, columns, 1, 1, 3))
    return mixed.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def boundaries(labels: Tensor) -> Lines:
    """The lines between neighbouring patches with different labels.

    Args:
        labels: (rows, columns).

    Returns:
        One segment for each pair.
    """
    upright = (labels[:, 1:] != labels[:, :-1]).nonzero().tolist()
    level = (labels[1:] != labels[:-1]).nonzero().tolist()
    lines = [[(column + 1, row), (column + 1, row + 1)] for row, column in upright]
    return lines + [[(column, row + 1), (column + 1, row + 1)] for row, column in level]


def hatching(patches: PatchMap) -> Lines:
    """A diagonal through every patch without a token of its own."""
    return [[(column, row + 1), (column + 1, row)] for row, column in (~patches.own).nonzero().tolist()]


def token_boundaries(patches: PatchMap) -> Lines:
    """The ``boundaries`` between tokens, without those between two patches that both have a token of their own."""
    return boundaries(patches.source.masked_fill(patches.own, -2))
