"""What a model says of images, and how close that is to what another one says."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from .images import Batch
from .measures import widened


@torch.no_grad()
def model_output(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits of a classifier; else the pooled output, or where there is none the last hidden state of the first token.

    Args:
        pixel_values: (batch, channels, height, width); brought to the model's device and dtype.

    Returns:
        (batch, features), in float32 or better.
    """
    outputs: Any = model(pixel_values.to(model.device, model.dtype))
    for name in ("logits", "pooler_output"):
        output = getattr(outputs, name, None)
        if output is not None:
            return widened(output)
    return widened(outputs.last_hidden_state[:, 0])


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether a model's output is logits of its classes."""
    return hasattr(model, "classifier") and bool(model.config.num_labels)


def faithfulness(output: Tensor, reference: Tensor, classifies: bool) -> Mapping[str, Tensor]:
    """How close outputs are to those of a reference, image by image.

    Args:
        output, reference: (batch, features).
        classifies: whether these are logits.

    Returns:
        ``cosine`` (batch,); of logits also ``divergence``, the Kullback-Leibler divergence in nats of the reference's
        class probabilities from the output's, and ``agreement``, 1 where both name the same class, else 0.
    """
    result = {"cosine": functional.cosine_similarity(output, reference, dim=1)}
    if classifies:
        logs, reference_logs = output.log_softmax(dim=1), reference.log_softmax(dim=1)
        result["divergence"] = (reference_logs.exp() * (reference_logs - logs)).sum(dim=1)
        result["agreement"] = (output.argmax(dim=1) == reference.argmax(dim=1)).float()
    return result


def judge(model: PreTrainedModel, batch: Batch, output: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """``faithfulness`` of a model's outputs, and where there are labels their ``accuracy``, 1 or 0: (batch,) each."""
    result = dict(faithfulness(output, reference, is_classifier(model)))
    if batch.labels is not None and is_classifier(model):
        result["accuracy"] = (output.argmax(dim=1) == batch.labels.to(output.device)).float()
    return result
