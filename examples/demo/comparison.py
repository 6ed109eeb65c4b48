"""One picture in a model and in the same model reduced: predictions, cost, time, and what is left of the picture."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from loaded_model import LoadedModel, Settings, with_reduction
from torch import Tensor

from fatr_hf import images
from fatr_hf.analysis.image_trace import PatchMap, seen_pixels
from fatr_hf.analysis.images import NamedImage, to_batch
from fatr_hf.benchmark.machine import device_name
from fatr_hf.benchmark.timing import time_in_turn
from fatr_hf.modeling.budget import schedule_macs
from fatr_hf.modeling.reduction_classifier import ReductionClassifier
from fatr_hf.modeling.token_plan import LayerPlan

TOP = 5
"""Predictions of each model."""

ROUNDS, WARMUP, SAMPLE_MILLISECONDS = 5, 1, 30.0
"""Timed rounds of both models, those before them that do not count, and the least that a model takes in a round."""

MAX_PIXELS = 50_000_000
"""Pictures with more are refused before they are decoded."""


class Pair(NamedTuple):
    """A picture, and the two models that are to see it."""

    picture_size: tuple[int, int]
    """Width and height as it was given, in pixels."""
    pixel_values: Tensor
    """(1, channels, height, width), on the models' device."""
    pixels: Tensor
    """(height, width, 3) float32 in [0, 1]: the same as one can look at it."""
    unreduced: ReductionClassifier
    reduced: ReductionClassifier


class Prediction(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


class Answer(NamedTuple):
    """What one model says to a picture, and what that costs."""

    predictions: tuple[Prediction, ...]
    """The ``TOP`` most probable ones in descending order."""
    schedule: tuple[LayerPlan, ...]
    """Tokens in and out of every layer."""
    macs: int
    """Multiply-accumulates (see ``schedule_macs``)."""
    patches: tuple[PatchMap, ...]
    """What is left of the picture, one for each layer that reduces."""


class Comparison(NamedTuple):
    """What both models say to a picture."""

    picture_size: tuple[int, int]
    """Width and height as it was given, in pixels."""
    pixels: Tensor
    """(height, width, 3) float32 in [0, 1]: the picture as the models get it."""
    unreduced: Answer
    reduced: Answer


class Times(NamedTuple):
    """Median milliseconds of a forward pass over one picture."""

    unreduced: float
    reduced: float
    device: str
    """The name of what computed."""


def open_picture(path: str | Path) -> PIL.Image.Image:
    """A picture in RGB, turned as its camera says; of an animation the first one. Transparency is left out.

    Raises:
        ValueError: a file that is no picture, or a picture of more than ``MAX_PIXELS``.
    """
    name = Path(path).name
    try:
        return images.open_picture({"path": name, "bytes": Path(path).read_bytes()}, "RGB", MAX_PIXELS)
    except images.TooManyPixels:
        raise
    except images.PictureError as error:
        raise ValueError(f"{name} cannot be read as a picture. Choose another file, such as a JPEG or PNG.") from error


def pair_models(loaded: LoadedModel, picture: PIL.Image.Image, settings: Settings) -> Pair:
    """A picture as the model's image processor makes it, and the model with and without the reduction.

    Args:
        loaded: the model, which stays as it is.
        picture: of any size.
        settings: of the reduction.

    Raises:
        ValueError: settings that the model does not allow, or that shorten no sequence.
    """
    pixel_values = to_batch([NamedImage("picture", picture)], loaded.processor).pixel_values
    return Pair(
        picture.size,
        pixel_values.to(loaded.model.device, loaded.model.dtype),
        seen_pixels(pixel_values[0], loaded.processor),
        loaded.unreduced,
        with_reduction(loaded.model, **settings._asdict()),
    )


def compare(pair: Pair) -> Comparison:
    """Runs both models once.

    Raises:
        ValueError: a picture whose sides are no multiples of the models' patches, or one with too few of them.
    """
    answers = (answer(model, pair.pixel_values) for model in (pair.unreduced, pair.reduced))
    return Comparison(pair.picture_size, pair.pixels, *answers)


@torch.inference_mode()
def answer(model: ReductionClassifier, pixel_values: Tensor) -> Answer:
    """One forward pass over one picture."""
    size = pixel_values.shape[-2:]
    schedule = model.config.plan(size)
    # Some processors keep the picture's shape, and so make other sizes than the configured one.
    outputs = model(pixel_values, interpolate_pos_encoding=True, output_token_sources=True)
    probabilities = outputs.logits[0].float().softmax(dim=0)
    top = probabilities.topk(min(TOP, len(probabilities)))
    labels: Any = model.config.id2label
    reducing = [tokens for tokens in schedule if tokens.reduces]
    sources = [source[0].view(model.config.patch_grid(size)).cpu() for source in outputs.token_sources]
    return Answer(
        tuple(Prediction(labels[place], share) for share, place in zip(*map(Tensor.tolist, top), strict=True)),
        tuple(schedule),
        schedule_macs(model.config, size),
        tuple(patch_map(tokens, source) for tokens, source in zip(reducing, sources, strict=True)),
    )


def patch_map(tokens: LayerPlan, source: Tensor) -> PatchMap:
    """What a layer that reduces leaves; ``source`` (rows, columns) says which place stands for each patch."""
    own = (source >= 0) & (source < tokens.prefix + tokens.patches_out)
    return PatchMap(tokens.layer, tokens.tokens_in, tokens.tokens_out, source, own, scores=None)


@torch.inference_mode()
def measure(pair: Pair) -> Times:
    """Times both models in turn; see ``ROUNDS`` and ``time_in_turn``."""
    device = pair.pixel_values.device
    tasks = {
        name: partial(model, pair.pixel_values, interpolate_pos_encoding=True)
        for name, model in (("unreduced", pair.unreduced), ("reduced", pair.reduced))
    }
    timings = time_in_turn(tasks, device, ROUNDS, WARMUP, SAMPLE_MILLISECONDS)
    return Times(timings["unreduced"].median, timings["reduced"].median, device_name(device))
