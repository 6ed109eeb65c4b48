"""A picture or video in a model and in its reduced versions: what they keep, how alike they answer, and their times.

Answers come first, times after them: a visitor sees the former while the latter are measured.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import PIL.Image
import torch
from loaded_model import Contestant, LoadedModel
from torch import Tensor

from fatr_hf.analysis import NamedImage, to_batch, trace_video
from fatr_hf.analysis.image_trace import ImageTrace, PatchMap, patch_map, seen_pixels
from fatr_hf.analysis.model_inputs import check_finite
from fatr_hf.analysis.trace import trace_plan
from fatr_hf.benchmark.frontier import outputs_of
from fatr_hf.benchmark.machine import device_name
from fatr_hf.benchmark.timing import time_in_turn
from fatr_hf.modeling.reduction_model import ReductionModel

TOP = 3
"""Predictions of each contestant."""

SECONDS = 4.0
"""That the timed rounds are to take."""

ROUNDS = (5, 15)
"""Fewest and most timed rounds."""

COLOURED = 3
"""Principal components that are shown: red, green and blue."""


class Input(NamedTuple):
    """A picture or a video as a model takes it."""

    size: tuple[int, int]
    """Width and height as it was given, in pixels."""
    pixel_values: Tensor
    """(1, channels, height, width), of videos (1, frames, channels, height, width), on the model's device."""


class Prediction(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


class Answer(NamedTuple):
    """What one contestant makes of a picture or video."""

    label: str
    macs: float
    """Share of the unreduced model's multiply-accumulates."""
    predictions: tuple[Prediction, ...]
    """The ``TOP`` most probable ones in descending order; none of an encoder."""
    pooled: float | None
    """Cosine of the pooled output, or of CLS, to the unreduced model's; None where the model has neither."""
    patches: float
    """Cosine of a patch to the unreduced model's, each restored from the token that stands for it; their mean."""
    layers: tuple[PatchMap, ...]
    """What is left after every layer that reduces; of videos a strip."""
    colours: Tensor
    """(rows, columns, 3) float32 in [0, 1]: principal components of the patches; of videos a strip."""


class Comparison(NamedTuple):
    """What all contestants make of a picture or video; the first does not reduce."""

    size: tuple[int, int]
    """Width and height as it was given, in pixels."""
    seen: ImageTrace
    """As the model gets it, with the layers of the unreduced model."""
    pooled_name: str
    """What ``Answer.pooled`` is of."""
    answers: tuple[Answer, ...]


class Times(NamedTuple):
    """Median milliseconds of a forward pass over one picture or video by every contestant."""

    milliseconds: tuple[float, ...]
    rounds: int
    device: str
    """The name of what computed."""


def picture_input(loaded: LoadedModel, picture: PIL.Image.Image) -> Input:
    """A picture as the model's image processor makes it."""
    pixel_values = to_batch([NamedImage("picture", picture)], loaded.processor).pixel_values
    return Input(picture.size, pixel_values.to(loaded.model.device, loaded.model.dtype))


def video_input(loaded: LoadedModel, frames: Sequence[PIL.Image.Image]) -> Input:
    """As many frames as the model takes, as its image processor makes them."""
    pixel_values = loaded.processor(list(frames), return_tensors="pt")["pixel_values"]
    return Input(frames[0].size, pixel_values.to(loaded.model.device, loaded.model.dtype))


@torch.inference_mode()
def compare(loaded: LoadedModel, given: Input, contestants: Sequence[Contestant]) -> Comparison:
    """Runs all contestants; the first is the reference of the others.

    Raises:
        ValueError: outputs that are NaN or infinite, or an input that the model does not take.
    """
    outputs = [outputs_of(each.model, given.pixel_values, each.plan) for each in contestants]
    for each in outputs:
        check_finite(loaded.model, each.patches)
    grid = tuple(loaded.model.config.patch_grid())
    colours = [as_picture(each, grid) for each in principal_colours([each.patches[0].cpu() for each in outputs])]
    traces = [trace_of(loaded, given, each) for each in contestants]
    reference, name = outputs[0], pooled_name(loaded.model)
    answers = [
        Answer(
            each.label,
            each.macs,
            () if output.logits is None else top_predictions(output.logits[0], loaded.model.config.id2label),
            torch.cosine_similarity(output.pooled, reference.pooled).item() if name else None,
            torch.cosine_similarity(output.patches, reference.patches, dim=2).mean().item(),
            tuple(layer for layer, step in zip(trace.layers, each.plan, strict=True) if step.reduces),
            colour,
        )
        for each, output, trace, colour in zip(contestants, outputs, traces, colours, strict=True)
    ]
    return Comparison(given.size, traces[0], name, tuple(answers))


def pooled_name(model: ReductionModel) -> str:
    """What ``Outputs.pooled`` of a model is; nothing where it is only the first patch."""
    encoder: Any = model.base_model
    if getattr(encoder, "pooler", None) is not None or getattr(encoder, "use_head", False):
        return "pooled output"
    return "CLS token" if model.config.num_prefix_tokens else ""


def trace_of(loaded: LoadedModel, given: Input, contestant: Contestant) -> ImageTrace:
    """A contestant's way through its layers; of a video as a strip."""
    pixels = given.pixel_values[0].cpu()
    if loaded.is_for_videos:
        return trace_video(contestant.model, pixels, loaded.processor, plan=contestant.plan)
    layers = tuple(patch_map(each) for each in trace_plan(contestant.model, given.pixel_values, contestant.plan))
    return ImageTrace("picture", seen_pixels(pixels, loaded.processor), layers)


def top_predictions(logits: Tensor, labels: Any) -> tuple[Prediction, ...]:
    """The most probable classes of logits (classes,)."""
    probabilities = logits.softmax(dim=0)
    top = probabilities.topk(min(TOP, len(probabilities)))
    return tuple(Prediction(str(labels[place]), share) for share, place in zip(*map(Tensor.tolist, top), strict=True))


def principal_colours(patches: Sequence[Tensor]) -> list[Tensor]:
    """The first three principal components of patches as colours, those of the first tensor for all.

    The 1st and 99th percentiles of the first tensor's components are the ends of the scale.

    Args:
        patches: (patches, hidden) each.

    Returns:
        (patches, 3) float32 in [0, 1] each.
    """
    first = patches[0].double()
    middle = first.mean(dim=0)
    directions = torch.linalg.svd(first - middle, full_matrices=False).Vh[:COLOURED]
    # The sign of a component is arbitrary: its largest entry is positive.
    directions = directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    missing = (0, COLOURED - len(directions))
    components = [torch.nn.functional.pad((each.double() - middle) @ directions.T, missing) for each in patches]
    low, high = components[0].quantile(torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
    return [((each - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float() for each in components]


def as_picture(colours: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Colours (patches, 3) on their grid (rows, columns, 3), of a video its tubelets side by side."""
    on_grid = colours.view(*grid, 3)
    return on_grid if len(grid) == 2 else on_grid.movedim(0, 1).flatten(1, 2)


@torch.inference_mode()
def measure(given: Input, contestants: Sequence[Contestant]) -> Times:
    """Times fused copies of all contestants in turn, in as many rounds as about ``SECONDS`` allow."""
    tasks = {each.label: partial(each.runner, given.pixel_values, plan=each.plan) for each in contestants}
    device = given.pixel_values.device
    start = time.perf_counter()
    time_in_turn(tasks, device, rounds=1, warmup=0)
    taken = time.perf_counter() - start
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(SECONDS / taken)))
    timings = time_in_turn(tasks, device, rounds, warmup=1)
    return Times(tuple(timings[each.label].median for each in contestants), rounds, device_name(device))
