"""How far two ways of computing the same may lie apart."""

import torch

ROUNDINGS = 512
"""Units in the last place of the largest value: about ten times what tiny models with sharp attention lose."""

FLOAT32 = ROUNDINGS * torch.finfo(torch.float32).eps
"""Share of a number computed in float32 by which it may be off."""


def assert_rounded_alike(actual, expected, dtype=None, roundings=ROUNDINGS, **options):
    """Equal but for rounding: processors add in different orders, and no fixed number bounds what that does.

    Ways that can are compared in float64, which leaves room for nothing else.

    Args:
        actual, expected: tensors, or sequences or mappings of tensors.
        dtype: what either way computes in, where that is coarser than what it returns; the dtypes may then differ.
        roundings: units in the last place of the largest expected value by which any value may be off.
        options: those of ``torch.testing.assert_close``.
    """
    tensors = list(flattened(expected))
    largest = max(tensor.abs().nan_to_num(0, 0, 0).max().item() for tensor in tensors)
    allowed = roundings * torch.finfo(dtype or tensors[0].dtype).eps * largest
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowed, check_dtype=dtype is None, **options)


def flattened(tensors):
    """All tensors of nested sequences and mappings."""
    if isinstance(tensors, torch.Tensor):
        yield tensors.detach()
        return
    for each in tensors.values() if isinstance(tensors, dict) else tensors:
        yield from flattened(each)
