"""What a model says of images, and how close that is to what another one says."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ..modeling.token_plan import LayerPlan
from .images import Batch
from .measures import widened
from .model_inputs import check_pixels, class_numbers, is_classifier

RESAMPLES, RESAMPLED = 10_000, 2**22
"""Draws of ``resampled_interval``, and about how many groups are drawn at a time."""


@torch.no_grad()
def model_output(model: PreTrainedModel, pixel_values: Tensor, plan: Sequence[LayerPlan] | None = None) -> Tensor:
    """Logits of a classifier; else the pooled output, or where there is none the last hidden state of the first token.

    Args:
        pixel_values: (batch, channels, height, width); brought to the model's device and dtype.
        plan: what a FATR model does in place of its configuration's plan.

    Returns:
        (batch, features), in float32 or better.

    Raises:
        ValueError: what is no tensor of pixel values for this model.
    """
    check_pixels(model, pixel_values)
    options = {} if plan is None else {"plan": plan}
    outputs: Any = model(pixel_values.to(model.device, model.dtype), **options)
    for name in ("logits", "pooler_output"):
        output = getattr(outputs, name, None)
        if output is not None:
            return widened(output)
    return widened(outputs.last_hidden_state[:, 0])


def faithfulness(output: Tensor, reference: Tensor, classifies: bool) -> Mapping[str, Tensor]:
    """How close outputs are to those of a reference, image by image.

    Args:
        output, reference: (batch, features).
        classifies: whether these are logits.

    Returns:
        ``cosine`` (batch,); of logits also ``divergence``, the Kullback-Leibler divergence in nats of the reference's
        class probabilities from the output's, and ``agreement``, 1 where both name the same class, else 0.
        Not-a-number where an output is not finite.
    """
    result = {"cosine": functional.cosine_similarity(output, reference, dim=1)}
    if classifies:
        logs, reference_logs = output.log_softmax(dim=1), reference.log_softmax(dim=1)
        result["divergence"] = (reference_logs.exp() * (reference_logs - logs)).sum(dim=1)
        # Not-a-number would name a class, too.
        finite = (output + reference).isfinite().all(dim=1)
        result["agreement"] = (output.argmax(dim=1) == reference.argmax(dim=1)).float().where(finite, torch.nan)
    return result


def judge(model: PreTrainedModel, batch: Batch, output: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """``faithfulness`` of a model's outputs, and where there are labels their ``accuracy``: (batch,) each.

    Accuracy is 1 or 0, and not-a-number for an image that has no class of the model, or whose output is not finite.

    Raises:
        ValueError: labels that are no classes of the model.
    """
    result = dict(faithfulness(output, reference, is_classifier(model)))
    labels = class_numbers(model, batch)
    if labels is not None:
        labels = labels.to(output.device)
        counts = (labels >= 0) & output.isfinite().all(dim=1)
        result["accuracy"] = (output.argmax(dim=1) == labels).float().where(counts, torch.nan)
    return result


def resampled_interval(values: Tensor, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """The 95% interval of a mean, from ``RESAMPLES`` draws of whole groups with replacement (percentile bootstrap).

    Args:
        values: (images,), such as differences of two models on the same images.
        groups: the group of each image; by default each is one.
    """
    names = list(map(str, range(len(values)))) if groups is None else groups
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    number = len(places)
    members = torch.tensor([places[name] for name in names])
    sums = torch.zeros(number, dtype=torch.float64).index_add(0, members, values.double())
    counts = torch.bincount(members, minlength=number)
    generator, means = torch.Generator().manual_seed(0), []
    for draws in torch.arange(RESAMPLES).split(max(1, RESAMPLED // number)):  # many images would fill the memory
        drawn = torch.randint(number, (len(draws), number), generator=generator)
        means.append(sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1))
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
