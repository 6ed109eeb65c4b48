"""Time of several tasks, measured in turn so that drift hits all alike: the one timing function of the package."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..baselines.arguments import check_integer, check_kind, described, is_number
from .machine import check_device


class Timing(NamedTuple):
    """Times of one task."""

    samples: tuple[float, ...]
    """Milliseconds of a call, one for each round."""

    @property
    def median(self) -> float:
        """In milliseconds."""
        return median(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range, in milliseconds; 0 for a single round."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return high - low


def time_in_turn(
    tasks: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int = 10,
    warmup: int = 2,
    sample_milliseconds: float = 0.0,
) -> dict[str, Timing]:
    """Times of several tasks in interleaved rounds, every other round in the opposite order.

    Args:
        tasks: what to call.
        device: where they work; on CUDA its events are the clock, elsewhere ``time.perf_counter``.
        rounds: rounds that count.
        warmup: rounds before them.
        sample_milliseconds: a round calls a task as often as it takes to last this long, judged by the last round of
            the warm-up, and counts the mean. 0 calls it once.

    Raises:
        ValueError: fewer than one round, or what are no functions by name, no device or no numbers.
    """
    check_rounds(rounds, warmup, sample_milliseconds)
    check_kind("tasks", tasks, Mapping, "a mapping from names to functions")
    if not tasks or not all(map(callable, tasks.values())):
        raise ValueError(f"tasks must hold at least one function, each by its name, not {dict(tasks)}.")
    check_device(device)
    measure = time_on_cuda if device.type == "cuda" else time_on_host
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    calls = dict.fromkeys(tasks, 1)
    with no_collection():
        for turn in range(-warmup, rounds):
            names = list(tasks) if turn % 2 == 0 else list(tasks)[::-1]
            for name in names:
                milliseconds = measure(device, tasks[name], calls[name])
                if turn >= 0:
                    samples[name].append(milliseconds)
                elif turn == -1 and sample_milliseconds:
                    calls[name] = max(1, math.ceil(sample_milliseconds / max(milliseconds, 1e-3)))
    return {name: Timing(tuple(times)) for name, times in samples.items()}


def check_rounds(rounds: int, warmup: int, sample_milliseconds: float) -> None:
    """Raises a ValueError for fewer than one round, or values that are no such numbers."""
    check_integer("rounds", rounds, least=1)
    check_integer("warmup", warmup, least=0)
    if not is_number(sample_milliseconds) or sample_milliseconds < 0:
        raise ValueError(f"sample_milliseconds={described(sample_milliseconds)} must be a finite number of at least 0.")


def time_on_cuda(device: torch.device, task: Callable[[], object], calls: int) -> float:
    """Milliseconds of a call by the events of a CUDA device that is idle before and after."""
    with torch.cuda.device(device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            task()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / calls


def time_on_host(device: torch.device, task: Callable[[], object], calls: int) -> float:
    """Milliseconds of a call by the host's clock."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        task()
    synchronize(device)
    return (time.perf_counter() - start) * 1e3 / calls


def synchronize(device: torch.device) -> None:
    """Waits for everything queued on an accelerator; the CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector from running within a ``with`` block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Computes on so many CPU threads within a ``with`` block; None leaves their number as it is.

    Raises:
        ValueError: fewer than one thread.
    """
    before = torch.get_num_threads()
    if number is not None:
        check_integer("threads", number, least=1)
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluation_mode(models: Iterable[nn.Module]) -> Iterator[None]:
    """Within a ``with`` block models are in evaluation mode; afterwards every part of them is in its own again."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def compare_throughput(
    models: Mapping[str, nn.Module], pixel_values: Tensor, repeats: int = 10, warmup: int = 2
) -> dict[str, float]:
    """Median images per second of each model in inference, in interleaved rounds.

    Args:
        models: models by name on the device of ``pixel_values``; timed in evaluation mode, and left in theirs.
        pixel_values: (batch, channels, height, width).
        repeats: rounds that count; every round times each model once.
        warmup: rounds before them.

    Raises:
        ValueError: no models, pixel values that are no batch of images, or fewer than one round.
    """
    check_kind("models", models, Mapping, "a mapping from names to models, such as {'FATR': model}")
    for model in models.values():
        check_kind("a model", model, nn.Module, "a torch.nn.Module")
    check_kind("pixel_values", pixel_values, Tensor, "a tensor (images, channels, height, width)")
    if pixel_values.dim() != 4 or not len(pixel_values):
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values of the shape {shape} must be (images, channels, height, width), at least one.")
    tasks = {name: partial(model, pixel_values) for name, model in models.items()}
    with torch.inference_mode(), evaluation_mode(models.values()):
        timings = time_in_turn(tasks, pixel_values.device, repeats, warmup)
    return {name: 1e3 * pixel_values.shape[0] / timing.median for name, timing in timings.items()}
