"""A video's way through a model, laid out as an image, so that all that draws images draws videos too."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..baselines.arguments import check_fatr
from ..baselines.rival import Rival
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import LayerPlan
from .image_trace import ImageTrace, PatchMap, patch_map, seen_pixels
from .trace import check_settled, trace_plan


def trace_video(
    model: ReductionModel | Rival,
    video: Tensor,
    processor: Any,
    name: str = "video",
    plan: Sequence[LayerPlan] | None = None,
) -> ImageTrace:
    """Runs a model on one video, which becomes a strip: the first frame of each tubelet, side by side.

    Args:
        model: a FATR model of videos or a rival of one, in evaluation mode.
        video: (frames, channels, height, width) as the processor gives them.
        processor: what made them; its rescaling and normalisation are undone.
        name: what pictures call it.
        plan: what every layer does; by default the model's own plan.

    Returns:
        Pixels (height, tubelets * width, 3), and maps of patches (rows, tubelets * columns).

    Raises:
        ValueError: a model of images, one that is in training or fused, a video that the model does not take, or a plan
            that was made for another.
    """
    reduced: Any = model.model if isinstance(model, Rival) else model
    check_fatr(reduced, "traced")
    if "frames" not in reduced.config.input_axes:
        raise ValueError(f"{reduced.config.model_type!r} takes images, not videos: use trace_image.")
    check_settled(model)
    pixel_values = video[None].to(model.device, model.dtype)
    plan = model.plan_for(pixel_values) if plan is None else reduced.plan_for(pixel_values, plan)
    layers = tuple(as_strip(patch_map(each)) for each in trace_plan(reduced, pixel_values, plan))
    frames = [seen_pixels(frame, processor) for frame in video[:: reduced.config.patch_sides[0]]]
    return ImageTrace(name, torch.cat(frames, dim=1), layers, frames=len(frames))


def frame_of(video: ImageTrace, number: int) -> ImageTrace:
    """One frame of a video's strip as an image; tokens that stand for patches of several frames are in each of them."""
    columns, width = video.grid[1] // video.frames, video.pixels.shape[1] // video.frames
    own = slice(number * columns, (number + 1) * columns)
    layers = tuple(
        each._replace(
            source=each.source[:, own],
            own=each.own[:, own],
            scores=None if each.scores is None else each.scores[:, own],
        )
        for each in video.layers
    )
    return ImageTrace(video.name, video.pixels[:, number * width : (number + 1) * width], layers)


def as_strip(patches: PatchMap) -> PatchMap:
    """A map (tubelets, rows, columns) with its tubelets side by side, (rows, tubelets * columns)."""
    source, own = (each.movedim(0, 1).flatten(1) for each in (patches.source, patches.own))
    scores = None if patches.scores is None else patches.scores.movedim(0, 1).flatten(1)
    return patches._replace(source=source, own=own, scores=scores)
