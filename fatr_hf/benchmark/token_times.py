"""Times the two halves of a layer, attention and MLP, over token counts near those of a schedule."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer

from ..baselines.arguments import check_kind
from ..modeling import LayerPlan
from .compare import Protocol
from .contestants import seeded
from .settings import Setting, check_support
from .timing import Timing, time_in_turn
from .token_multiple import NEARBY, LayerTimes, Suggestion, suggest

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Candidates for ``token_multiple``."""


def suggest_multiple(setting: Setting, device: torch.device, protocol: Protocol) -> Suggestion:
    """Measures a device and says which ``token_multiple`` suits it, in inference and eager execution.

    Args:
        setting: gives the backbone, batch size, number format and reduction.
        device: what is measured.
        protocol: how often; the counts are timed in turn.

    Raises:
        ValueError: the device does not support the setting, or arguments of other kinds.
    """
    check_support(setting, device)
    check_kind("protocol", protocol, Protocol, "a Protocol, such as default_protocol(device)")
    schedules = feasible_schedules(setting)
    return suggest(schedules, time_layers(setting, counts_to_time(schedules), device, protocol))


def feasible_schedules(setting: Setting) -> dict[int, list[LayerPlan]]:
    """The token schedule with each of ``MULTIPLES`` that can be met; those alike once, under the smallest."""
    config = setting.fatr_config(token_multiple=1)
    schedules: dict[int, list[LayerPlan]] = {}
    for multiple in MULTIPLES:
        config.token_multiple = multiple
        try:
            schedule = config.plan()
        except ValueError:
            continue
        if schedule not in schedules.values():
            schedules[multiple] = schedule
    return schedules


def counts_to_time(schedules: Mapping[int, Sequence[LayerPlan]]) -> list[int]:
    """All counts of the schedules, and near them the multiples of 8 and one more than these, where steps show."""
    scheduled = {
        count for plan in schedules.values() for layer in plan for count in (layer.tokens_in, layer.tokens_out)
    }
    least = int(min(layer.tokens_out for layer in schedules[1]) * (1 - NEARBY))
    edges = {count + more for count in range(8, max(scheduled), 8) for more in (0, 1)}
    return sorted(scheduled | {count for count in edges if least <= count <= max(scheduled)})


def time_layers(
    setting: Setting, counts: Sequence[int], device: torch.device, protocol: Protocol
) -> dict[int, LayerTimes]:
    """Times the halves of one layer of a stock ViT in inference, over token counts.

    Raises:
        ValueError: the device does not support the setting.
    """
    check_support(setting, device)
    config = ViTConfig(**setting.size.fields)
    config._attn_implementation = "sdpa"
    with seeded(setting, device):
        with torch.device(device):
            layer = ViTLayer(config).to(setting.torch_dtype).eval()
        batch, hidden, dtype = setting.batch_size, setting.size.hidden_size, setting.torch_dtype
        inputs = {count: torch.randn(batch, count, hidden, device=device, dtype=dtype) for count in counts}
    attention = nn.Sequential(layer.layernorm_before, layer.attention)
    mlp = nn.Sequential(layer.layernorm_after, layer.mlp)
    tasks = {}
    for count, hidden_states in inputs.items():
        tasks[f"attention {count}"] = partial(attention, hidden_states)
        tasks[f"mlp {count}"] = partial(mlp, hidden_states)
    with torch.inference_mode():
        timings = time_in_turn(tasks, device, protocol.rounds, protocol.warmup, protocol.sample_milliseconds)
    return {count: layer_times(timings[f"attention {count}"], timings[f"mlp {count}"]) for count in counts}


def layer_times(attention: Timing, mlp: Timing) -> LayerTimes:
    """Two timings in one value."""
    noise = (attention.spread + mlp.spread) / (attention.median + mlp.median)
    return LayerTimes(attention.median, mlp.median, noise)
