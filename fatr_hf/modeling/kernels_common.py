# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What the Triton kernels share: products in float32, the ranking of scores, launching.

Without triton this file still loads and ``HAS_TRITON`` is False.
"""
# Arguments of kernels have no Python types.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, implicit-reexport=True

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
    # The interpreter, which tests use where there is no GPU, holds bfloat16 as integers and multiplies these.
    INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
except ImportError:
    HAS_TRITON = False
    # What reading the definitions below needs; nobody calls them.
    triton, tl = SimpleNamespace(jit=lambda function: function), SimpleNamespace(constexpr=object)

PROGRAMS = 512
"""So many programs fill a large GPU (132 multiprocessors on an H100); smaller batches are cut finer to get there."""


@triton.jit
def product(left, right):
    """``left @ right`` in float32."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def ordered_integers(scores):
    """Signed integers in the order of the scores; NaN equals -inf, and both zeros are equal."""
    bits: tl.constexpr = scores.dtype.primitive_bitwidth
    if scores.dtype.is_floating():
        scores = tl.where(scores != scores, float("-inf"), scores)
        scores = tl.where(scores == 0, 0.0, scores)
        scores = scores.to(tl.int64 if bits == 64 else tl.int32, bitcast=True)
        scores ^= (scores >> (bits - 1)) & ((1 << (bits - 1)) - 1)
    return scores


@triton.jit
def lowest_kept(scores, stride, patches, keep, PATCHES: tl.constexpr):
    """The lowest of one image's ``keep`` highest scores, as an ordered integer, and how many kept ones equal it."""
    # Four bits at a time from the top: the largest number that ``keep`` scores or more reach.
    bits: tl.constexpr = scores.dtype.element_ty.primitive_bitwidth
    digits = tl.arange(0, 16).to(tl.int64 if bits == 64 else tl.int32)
    lowest = tl.full((1,), 1, digits.dtype) << (bits - 1)
    threshold, above = lowest, 0
    for step in range(bits // 4):
        shift = bits - 4 - 4 * step
        reaching = tl.zeros((16,), tl.int32)
        for first in range(0, patches, PATCHES):
            patch = first + tl.arange(0, PATCHES)
            integers = ordered_integers(tl.load(scores + patch * stride, mask=patch < patches, other=0))
            integers = tl.where(patch < patches, integers, lowest)
            reaching += tl.sum((integers[:, None] >= (threshold ^ (digits << shift))[None, :]).to(tl.int32), axis=0)
        # What is above the threshold reaches the lowest candidate beyond it, in whichever round that was tried.
        above = tl.maximum(above, tl.max(tl.where(reaching < keep, reaching, 0), axis=0))
        threshold ^= (tl.sum((reaching >= keep).to(tl.int32), axis=0) - 1).to(digits.dtype) << shift
    return threshold, keep - above


@triton.jit
def next_kept(scores, stride, patch, is_patch, threshold, ties, counted):
    """Which of the next patches are kept, how many before each of them are, and ``counted`` for the ones to follow."""
    own = ordered_integers(tl.load(scores + patch * stride, mask=is_patch, other=0))
    is_above, is_tie = is_patch & (own > threshold), is_patch & (own == threshold)
    # Two counters in one number, so that one scan does: scores above the threshold, and from bit 32 on those equal.
    counters = is_above.to(tl.int64) + (is_tie.to(tl.int64) << 32)
    running = counted + tl.cumsum(counters, axis=0)
    running_above, running_ties = running.to(tl.int32), (running >> 32).to(tl.int32)
    is_kept = is_above | (is_tie & (running_ties <= ties))
    slots = running_above + tl.minimum(running_ties, ties) - is_kept.to(tl.int32)
    return is_kept, slots, counted + tl.sum(counters, axis=0)


def launch(kernel: Any, programs: int, device: torch.device, *arguments: Any, **options: int) -> None:
    """Launches on the device of the tensors; triton would take the current one."""
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[(programs,)](*arguments, **options)


def next_power_of_2(number: int) -> int:
    """The lowest power of two that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()
