"""Many forward passes of one model whose inputs and reduction keep changing: does memory stay as it is?

``python tests/benchmark/soak.py [PASSES]`` runs them on the CPU and prints what was in use after every tenth of them.
"""

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fatr_hf.analysis.input_budget import classify_by_mass
from fatr_hf.modeling import FATRViTConfig, FATRViTForImageClassification, schedule_macs

IMAGE_SIZES, BATCH_SIZES, KEEP_RATIOS = (32, 48, 64), (1, 2, 3, 4), (0.5, 0.7, 0.9)


class InUse(NamedTuple):
    """What is in use after some passes."""

    passes: int
    resident: int | None
    """Bytes of the process that are in memory; None where the system does not say."""
    python: int
    """Bytes that Python has allocated since the start."""
    objects: int
    """Objects that Python's garbage collector knows."""
    tensors: int
    """Those of them that are tensors."""


def soak_model() -> FATRViTForImageClassification:
    """A small model with random weights, 8 x 8 patches at its own image size."""
    config = FATRViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=4,
    )
    return FATRViTForImageClassification(config).eval()


def reduced(model: FATRViTForImageClassification, pixel_values: Tensor, keep_ratio: float) -> None:
    """Another keep ratio, and the way back to the grid."""
    model.set_reduction(keep_ratio=keep_ratio)
    model(pixel_values, interpolate_pos_encoding=True, output_token_sources=True)


def unreduced(model: FATRViTForImageClassification, pixel_values: Tensor, keep_ratio: float) -> None:
    """No reduction."""
    with model.reduction(False):
        model(pixel_values, interpolate_pos_encoding=True)


def fused(model: FATRViTForImageClassification, pixel_values: Tensor, keep_ratio: float) -> None:
    """A fused copy that is used once."""
    model.set_reduction(keep_ratio=keep_ratio)
    model.fuse()(pixel_values, interpolate_pos_encoding=True)


def reduced_by_image(model: FATRViTForImageClassification, pixel_values: Tensor, keep_ratio: float) -> None:
    """A keep ratio for each image."""
    classify_by_mass(model, pixel_values, keep_ratio, KEEP_RATIOS, interpolate_pos_encoding=True)


def within_budget(model: FATRViTForImageClassification, pixel_values: Tensor, keep_ratio: float) -> None:
    """The keep ratio that a budget of multiply-accumulates allows."""
    image_size = pixel_values.shape[-2:]
    macs = schedule_macs(model.config, image_size)
    model.for_budget(macs=macs, image_size=image_size)
    model(pixel_values, interpolate_pos_encoding=True)


CHANGES = (reduced, unreduced, fused, reduced_by_image, within_budget)


def soak(model: FATRViTForImageClassification, passes: int, readings: int = 10) -> list[InUse]:
    """What is in use after every ``passes / readings`` forward passes; from one pass to the next everything changes.

    Args:
        model: takes images of ``IMAGE_SIZES``; in evaluation mode. Its keep ratio is another one afterwards.
        passes: in all; a multiple of ``readings``.
    """
    changes = cycle(product(IMAGE_SIZES, BATCH_SIZES, KEEP_RATIOS, CHANGES))
    found: list[InUse] = []
    with torch.inference_mode(), tracing():
        for reading in range(1, readings + 1):
            for image_size, batch_size, keep_ratio, change in islice(changes, passes // readings):
                change(model, torch.zeros(batch_size, model.config.num_channels, image_size, image_size), keep_ratio)
            found.append(read_memory(reading * passes // readings))
    return found


@contextmanager
def tracing() -> Iterator[None]:
    """Within a ``with`` block Python keeps account of what it allocates."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def read_memory(passes: int) -> InUse:
    """What is in use now."""
    gc.collect()
    objects = gc.get_objects()
    return InUse(
        passes=passes,
        resident=resident_bytes(),
        python=tracemalloc.get_traced_memory()[0],
        objects=len(objects),
        tensors=sum(issubclass(type(each), torch.Tensor) for each in objects),
    )


def resident_bytes() -> int | None:
    """Bytes of this process in memory as Linux tells them, or None."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def soak_table(found: list[InUse]) -> str:
    """The readings as a Markdown table."""
    lines = ["| passes | resident | by Python | objects | tensors |", "|---|---|---|---|---|"]
    for each in found:
        resident = "unknown" if each.resident is None else f"{each.resident / 2**20:.1f} MiB"
        lines.append(
            f"| {each.passes} | {resident} | {each.python / 2**10:.0f} KiB | {each.objects} | {each.tensors} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(soak_table(soak(soak_model(), passes=int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)))
