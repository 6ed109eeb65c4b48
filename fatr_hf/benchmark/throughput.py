"""Images per second of several models on the same images, measured in turn so that drift hits all alike."""

import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn


def compare_throughput(
    models: Mapping[str, nn.Module], pixel_values: Tensor, repeats: int = 10, warmup: int = 2
) -> dict[str, float]:
    """Median images per second of each model in inference, in interleaved rounds.

    Args:
        models: models on the device of ``pixel_values``.
        pixel_values: (batch, channels, height, width).
        repeats: rounds that count; every round times each model once.
        warmup: rounds before them.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.eval()
    for turn in range(warmup + repeats):
        for name, model in models.items():
            seconds = time_once(model, pixel_values)
            if turn >= warmup:
                times[name].append(seconds)
    return {name: pixel_values.shape[0] / median(seconds) for name, seconds in times.items()}


@torch.inference_mode()
def time_once(model: nn.Module, pixel_values: Tensor) -> float:
    """Seconds of one forward pass, launches and execution."""
    synchronize(pixel_values.device)
    start = time.perf_counter()
    model(pixel_values)
    synchronize(pixel_values.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits for everything queued on an accelerator; the CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
