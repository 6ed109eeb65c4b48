"""The model that examples for serving are told to take, as it was saved or with another reduction; what it answers."""

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BaseImageProcessor

from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.hub.checkpoints import is_fatr, read_config
from fatr_hf.hub.load import check_has_processor, load_reduced
from fatr_hf.modeling.presets import PRESETS
from fatr_hf.modeling.reduction_classifier import mean_of_patches
from fatr_hf.modeling.reduction_config import UNREDUCED


class Answers(NamedTuple):
    """What a model says of images."""

    logits: Tensor | None
    """(batch, classes) float32; None of an encoder."""
    embedding: Tensor | None
    """(batch, hidden) float32: CLS after the last norm, or where there is none the mean of the patches; None if it was
    not asked for."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that choose a model."""
    parser.add_argument("--model", required=True, help="folder or Hub name of a FATR model or a stock one")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub name")
    parser.add_argument("--preset", choices=PRESETS, help="a reduction by name, of a model that is not reduced")
    parser.add_argument("--keep_ratio", type=float, nargs="+", help="one, or one for each reduction layer")
    parser.add_argument("--macs", type=float, help="the highest keep ratio within these multiply-accumulates an image")


def load_chosen(arguments: argparse.Namespace) -> tuple[Any, BaseImageProcessor]:
    """The model, in evaluation mode, and its image processor.

    A FATR model is reduced as it was saved, a stock one not at all, unless a preset, a keep ratio or a budget is given.
    The keep ratio and the budget override the preset's.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model of no family, a preset, a keep ratio or a budget that it cannot have, or no image
            processor.
    """
    if arguments.keep_ratio and arguments.macs is not None:
        raise ValueError("--keep_ratio and --macs both choose the keep ratio: give one of them.")
    reduction: dict[str, Any] = {}
    if arguments.preset:
        reduction["preset"] = arguments.preset
    if arguments.keep_ratio:
        reduction["keep_ratio"] = arguments.keep_ratio if len(arguments.keep_ratio) > 1 else arguments.keep_ratio[0]
    is_chosen = bool(reduction) or arguments.macs is not None
    if not is_chosen and not is_fatr(read_config(arguments.model, arguments.revision)):
        reduction = UNREDUCED
    model, processor = load_reduced(arguments.model, revision=arguments.revision, **reduction)
    return model if arguments.macs is None else model.for_budget(macs=arguments.macs), check_has_processor(processor)


@torch.inference_mode()
def answer(model: Any, pixel_values: Tensor, embedding: bool) -> Answers:
    """What a model, fused or not, says of pixel values (batch, channels, height, width).

    Args:
        embedding: whether a classifier gives its embedding too; an encoder always does.
    """
    pixel_values = pixel_values.to(model.device, model.dtype)
    if is_classifier(model) and not embedding:  # a fused copy then computes less
        return Answers(model(pixel_values).logits.float(), None)
    outputs = model.base_model(pixel_values, output_token_sizes=True)
    tokens, prefix = outputs.last_hidden_state, model.config.num_prefix_tokens
    pooled = tokens[:, 0] if prefix else mean_of_patches(tokens, outputs.token_sizes, 0)
    return Answers(model.classify(outputs).float() if is_classifier(model) else None, pooled.float())


def most_probable(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Probabilities and classes (batch, ``top_k``), best first; of equally probable classes the first come first."""
    ranked = logits.softmax(dim=1).sort(descending=True, stable=True)
    return ranked.values[:, :top_k], ranked.indices[:, :top_k]
