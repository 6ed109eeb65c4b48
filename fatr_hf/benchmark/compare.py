"""Measures contestants under one setting: builds them, looks at their memory, and times them in turn."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from ..baselines.arguments import check_kind
from .contestants import KINDS, build_contestants, check_known
from .machine import check_device
from .memory import peak_memory
from .results import Comparison, Measurement
from .settings import Setting, check_support
from .steps import Images, Step, build_step
from .timing import check_rounds, time_in_turn


class OutOfMemory(RuntimeError):
    """The device's memory does not hold a contestant; says which and at what batch size."""


@dataclass(frozen=True)
class Protocol:
    """How often things are timed.

    Args:
        rounds: rounds that count; each times every contestant.
        warmup: rounds before them.
        sample_milliseconds: a round repeats a step until it has taken about this long, and counts the mean.

    Raises:
        ValueError: fewer than one round, or values that are no such numbers.
    """

    rounds: int
    warmup: int
    sample_milliseconds: float

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup, self.sample_milliseconds)


def default_protocol(device: torch.device) -> Protocol:
    """More and longer rounds where a step takes milliseconds than where it takes a second."""
    check_device(device)
    return Protocol(30, 10, 10.0) if device.type == "cuda" else Protocol(8, 1, 0.0)


def compare(setting: Setting, names: Sequence[str], device: torch.device, protocol: Protocol) -> Comparison:
    """Measures contestants under a setting.

    Args:
        setting: what they do.
        names: contestants, from ``KINDS``.
        device: where they run.
        protocol: how often.

    Raises:
        ValueError: an unknown contestant, or a setting that the device or a model refuses.
        OutOfMemory: the device's memory does not suffice.
    """
    names = check_known(names)
    check_kind("protocol", protocol, Protocol, "a Protocol, such as default_protocol(device)")
    check_support(setting, device)
    try:
        with memory_in_words("Building the contestants", setting):
            contestants = build_contestants(names, setting, device)
            images = Images(setting, device)
        steps = {contestant.name: build_step(contestant, images, setting) for contestant in contestants}
        tasks = {name: partial(run_step, step, KINDS[name].label, setting) for name, step in steps.items()}
        notes = {name: first_calls(task, setting) for name, task in tasks.items()}
        memory = {name: memory_of(step, tasks[name], setting, device) for name, step in steps.items()}
        timings = time_in_turn(tasks, device, protocol.rounds, protocol.warmup, protocol.sample_milliseconds)
        measurements = tuple(
            Measurement(each.name, each.label, timings[each.name].samples, each.macs, memory[each.name], note)
            for each, note in zip(contestants, notes.values(), strict=True)
        )
    finally:
        steps, tasks, contestants = {}, {}, []
        release(setting, device)
    tokens = tuple(layer.tokens_out for layer in setting.fatr_config().plan())
    return Comparison(setting, measurements, tokens)


def run_step(step: Step, label: str, setting: Setting) -> None:
    """Calls a step; what it lacks memory for is said in words."""
    with memory_in_words(label, setting):
        step()


@contextmanager
def memory_in_words(label: str, setting: Setting) -> Iterator[None]:
    """Turns a lack of memory within a ``with`` block into an ``OutOfMemory`` that says whose."""
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no class of its own for it.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise OutOfMemory(f"{label} ran out of memory ({setting.label}): give a smaller batch size.") from error
        raise


def first_calls(task: Callable[[], object], setting: Setting) -> str:
    """Calls a task as often as it takes until all is compiled and recorded; a note where CUDA graphs were given up."""
    if setting.execution == "eager":
        task()
        return ""
    counters = torch._dynamo.utils.counters["inductor"]
    before = counters["cudagraph_skips"]
    for _ in range(3):
        task()
    return "torch gave up CUDA graphs for it" if counters["cudagraph_skips"] > before else ""


def memory_of(step: Step, task: Callable[[], object], setting: Setting, device: torch.device) -> int | None:
    """Peak memory of a step in bytes, where it can be told."""
    return None if setting.execution == "cudagraphs" else peak_memory(task, step.held, device)


def release(setting: Setting, device: torch.device) -> None:
    """Gives back compiled graphs and memory that no model holds any more."""
    if setting.execution != "eager":
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
