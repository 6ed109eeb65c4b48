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

from ..modeling.budget import is_admissible, schedule_macs, with_keep_ratio
from ..modeling.encoder import run_layers
from ..modeling.frequency_attention import Evidence
from ..modeling.positions import Positions, add_positions, rotary_rows
from ..modeling.reduction_config import ReductionConfig
from ..modeling.reduction_model import sides_of
from ..modeling.token_plan import LayerPlan, per_layer
from ..modeling.token_reduction import TokenLayout, token_sizes


class InputBudgetOutput(NamedTuple):
    """What ``classify_by_mass`` gives, in the order of the images."""

    logits: Tensor
    """(batch, classes)."""
    keep_ratios: Tensor
    """(batch,) float64 on the CPU, the keep ratio of every image."""
    macs: Tensor
    """(batch,) int64 on the CPU, its multiply-accumulates."""


@torch.no_grad()
def classify_by_mass(
    model: Any,
    pixel_values: Tensor,
    selection_mass: float = 0.9,
    keep_ratios: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    interpolate_pos_encoding: bool | None = None,
) -> InputBudgetOutput:
    """Classifies every image with as few tokens as hold ``selection_mass`` of the attention.

    Args:
        model: a FATR classifier in evaluation mode, or its fused copy.
        pixel_values: (batch, channels, height, width).
        selection_mass: share of the patches' column mass that the kept ones must carry, in (0, 1].
        keep_ratios: increasing; an image gets the first at which they do, or else the last.
        interpolate_pos_encoding: allow an image size other than the configured one.

    Raises:
        ValueError: values that are not allowed, or a model that is in training, switched off or ranks otherwise.
    """
    image_size = sides_of(pixel_values)
    check_model_fits(model)
    check_choice(model.config, selection_mass, keep_ratios, image_size)
    configs = [with_keep_ratio(model.config, ratio) for ratio in keep_ratios]
    plans = [config.plan(image_size) for config in configs]
    encoder, first = model.base_model, next(step.layer for step in plans[0] if step.reduces)

    stretches = bool(interpolate_pos_encoding)
    hidden_states, layout, positions = encoder.start(pixel_values, interpolate_pos_encoding=stretches)
    shared = run_layers(encoder.layers[:first], hidden_states, layout, plans[0][:first], positions)
    hidden_states, layout = add_positions(shared.hidden_states, layout, positions, first)
    rows = rotary_rows(layout, positions.rotary)
    hidden_states, _, evidence = encoder.layers[first].attention_block(hidden_states, layout, plans[0][first], rows)

    scores, patches = evidence.scores, slice(layout.num_prefix, layout.num_prefix + layout.num_patches)
    buckets = choose_buckets(scores[:, patches], [each[first].patches_out for each in plans], selection_mass)
    logits = hidden_states.new_empty(len(hidden_states), model.num_labels)
    for bucket in buckets.unique().tolist():
        chosen = (buckets == bucket).nonzero().flatten()
        parts = layout._replace(positions=layout.positions[chosen], dc_counts=layout.dc_counts[chosen])
        logits[chosen] = finish(model, hidden_states[chosen], scores[chosen], parts, plans[bucket][first:], positions)
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
    model: Any,
    hidden_states: Tensor,
    scores: Tensor,
    layout: TokenLayout,
    plan: Sequence[LayerPlan],
    positions: Positions,
) -> Tensor:
    """Logits (batch, classes), from the attention of the layer with which the plan begins."""
    encoder, first = model.base_model, plan[0].layer
    layer = encoder.layers[first]
    hidden_states, layout = layer.reduction(hidden_states, Evidence(scores), layout, plan[0])
    encoded = run_layers(encoder.layers[first + 1 :], layer.mlp_block(hidden_states), layout, plan[1:], positions)
    outputs = encoder.read_out(encoded)
    outputs.token_sizes = token_sizes(encoded.layout) if encoded.layout.is_reduced else None
    logits: Tensor = model.classify(outputs)
    return logits


def check_model_fits(model: Any) -> None:
    """Raises a ValueError for a model that does not reduce by column means, or is in training."""
    if model.training:
        raise ValueError("classify_by_mass is for evaluation: call model.eval() first.")
    if not model.reduction_enabled or not any(step.reduces for step in model.config.plan()):
        raise ValueError("classify_by_mass needs a model that reduces: its reduction is off, or keeps every token.")
    if model.config.selection != "high_frequency":
        raise ValueError(
            f"classify_by_mass needs selection='high_frequency', whose scores are column means, not "
            f"{model.config.selection!r}."
        )


def check_choice(
    config: ReductionConfig, selection_mass: float, keep_ratios: Sequence[float], image_size: tuple[int, ...]
) -> None:
    """Raises a ValueError for a mass out of range, or keep ratios that do not increase or cannot be had."""
    if not 0 < selection_mass <= 1:
        raise ValueError(f"selection_mass={selection_mass!r} must lie in (0, 1].")
    if not keep_ratios or any(low >= high for low, high in pairwise(keep_ratios)):
        raise ValueError(f"keep_ratios={list(keep_ratios)} must be one or more increasing numbers.")
    if 1 in per_layer("keep_ratio", config.keep_ratio, config.reduction_layers or ()):
        raise ValueError(
            f"classify_by_mass reduces in all of the layers {config.reduction_layers}, of which keep_ratio="
            f"{config.keep_ratio} leaves some ordinary: these may lack parameters. Use set_reduction first."
        )
    for ratio in keep_ratios:
        if ratio == 1 or not is_admissible(config, ratio, image_size):
            raise ValueError(
                f"keep_ratios={list(keep_ratios)}: {ratio!r} gives no reduction that shortens the sequence in all of "
                f"the layers {config.reduction_layers}. See admissible_keep_ratios(config)."
            )
