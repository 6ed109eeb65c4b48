# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Budget by input: easy images run with few tokens, hard ones with many.

All images share the layers up to the attention of the first reduction layer. Its column means say how many patches
carry most of the attention's mass, and every image goes on with the schedule of the keep ratio that this calls for.
Images of one keep ratio form a bucket: shapes inside are static but for the number of images, nothing is padded.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .budget import is_admissible, schedule_macs, with_keep_ratio
from .configuration_fatr_vit import FATRViTConfig
from .token_reduction import TokenLayout
from .token_schedule import LayerTokens, per_layer


class InputBudgetOutput(NamedTuple):
    """What ``forward_by_mass`` gives, in the order of the images."""

    logits: Tensor
    """(batch, classes)."""
    keep_ratios: Tensor
    """(batch,) float64 on the CPU, the keep ratio of every image."""
    macs: Tensor
    """(batch,) int64 on the CPU, its multiply-accumulates."""


def run_by_mass(
    model: Any,
    pixel_values: Tensor,
    selection_mass: float,
    keep_ratios: Sequence[float],
    interpolate_pos_encoding: bool | None = None,
) -> InputBudgetOutput:
    """``FATRViTForImageClassification.forward_by_mass``."""
    image_size = tuple(pixel_values.shape[-2:])
    refuse_unfit_model(model)
    refuse_bad_choice(model.config, selection_mass, keep_ratios, image_size)
    configs = [with_keep_ratio(model.config, ratio) for ratio in keep_ratios]
    schedules = [config.token_schedule(image_size) for config in configs]
    encoder, first = model.base_model, next(tokens.layer for tokens in schedules[0] if tokens.reduces)

    hidden_states, layout = encoder.embed(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
    for layer, tokens in zip(encoder.layers[:first], schedules[0][:first], strict=True):
        hidden_states, layout = layer(hidden_states, layout, tokens)
    hidden_states, _, scores = encoder.layers[first].attend(hidden_states, layout, schedules[0][first])

    patches = slice(layout.num_prefix, layout.num_prefix + layout.num_patches)
    buckets = choose_buckets(scores[:, patches], [each[first].patches_out for each in schedules], selection_mass)
    logits = hidden_states.new_empty(len(hidden_states), model.num_labels)
    for bucket in buckets.unique().tolist():
        chosen = (buckets == bucket).nonzero().flatten()
        parts = layout._replace(positions=layout.positions[chosen], dc_counts=layout.dc_counts[chosen])
        logits[chosen] = finish(model, hidden_states[chosen], scores[chosen], parts, schedules[bucket][first:])
    macs = torch.tensor([schedule_macs(config, image_size) for config in configs])
    ratios = torch.tensor([float(ratio) for ratio in keep_ratios], dtype=torch.float64)
    return InputBudgetOutput(logits, ratios[buckets.cpu()], macs[buckets.cpu()])


def choose_buckets(scores: Tensor, kept: Sequence[int], selection_mass: float) -> Tensor:
    """The first number of kept patches whose highest scores hold the selection mass, the last where none does.

    Args:
        scores: (batch, patches), column means.
        kept: patches kept, increasing.
        selection_mass: share of the sum of scores.

    Returns:
        (batch,) int64, indices into ``kept``.
    """
    held = scores.sort(dim=1, descending=True).values.cumsum(dim=1)
    shares = held[:, [number - 1 for number in kept]] / held[:, -1:]
    return (shares < selection_mass).sum(dim=1).clamp(max=len(kept) - 1)


def finish(
    model: Any, hidden_states: Tensor, scores: Tensor, layout: TokenLayout, schedule: Sequence[LayerTokens]
) -> Tensor:
    """Logits (batch, classes), from the attention of the layer with which the schedule begins."""
    encoder, first = model.base_model, schedule[0].layer
    layer = encoder.layers[first]
    hidden_states, layout = layer.reduction(hidden_states, scores, layout, schedule[0])
    hidden_states = layer.mix(hidden_states)
    for layer, tokens in zip(encoder.layers[first + 1 :], schedule[1:], strict=True):
        hidden_states, layout = layer(hidden_states, layout, tokens)
    logits: Tensor = model.classifier(encoder.layernorm(hidden_states)[:, 0])
    return logits


def refuse_unfit_model(model: Any) -> None:
    """Raises a ValueError for a model that does not reduce by column means, or is in training."""
    if model.training:
        raise ValueError("forward_by_mass is for evaluation: call model.eval() first.")
    if not model.base_model.reduction_enabled or not any(each.reduces for each in model.config.token_schedule()):
        raise ValueError("forward_by_mass needs a model that reduces: its reduction is off, or keeps every token.")
    if model.config.selection != "high_frequency":
        raise ValueError(
            f"forward_by_mass needs selection='high_frequency', whose scores are column means, not "
            f"{model.config.selection!r}."
        )


def refuse_bad_choice(
    config: FATRViTConfig, selection_mass: float, keep_ratios: Sequence[float], image_size: tuple[int, ...]
) -> None:
    """Raises a ValueError for a mass out of range, or keep ratios that do not increase or cannot be had."""
    if not 0 < selection_mass <= 1:
        raise ValueError(f"selection_mass={selection_mass!r} must lie in (0, 1].")
    if not keep_ratios or any(low >= high for low, high in pairwise(keep_ratios)):
        raise ValueError(f"keep_ratios={list(keep_ratios)} must be one or more increasing numbers.")
    if 1 in per_layer("keep_ratio", config.keep_ratio, config.reduction_layers or ()):
        raise ValueError(
            f"forward_by_mass reduces in all of the layers {config.reduction_layers}, of which keep_ratio="
            f"{config.keep_ratio} leaves some ordinary: these may lack parameters. Use set_reduction first."
        )
    for ratio in keep_ratios:
        if ratio == 1 or not is_admissible(config, ratio, image_size):
            raise ValueError(
                f"keep_ratios={list(keep_ratios)}: {ratio!r} gives no reduction that shortens the sequence in all of "
                f"the layers {config.reduction_layers}. See admissible_keep_ratios(config)."
            )
