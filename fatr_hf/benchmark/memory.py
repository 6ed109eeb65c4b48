"""Peak memory of one model's step on a CUDA device, whatever else lies there."""

import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def peak_memory(step: Callable[[], object], held: Callable[[], Iterable[Tensor]], device: torch.device) -> int | None:
    """Bytes that a step needs at most, what it holds between calls included; None where the device cannot tell.

    torch counts all that is allocated on the device, other models too. What lies there before the step, apart from
    what the step itself holds, is therefore taken off the peak. The step runs once beforehand, so that optimizer
    states and the libraries' workspaces are there already; the latter are nobody's.

    Args:
        step: what is measured, in eager or compiled execution. CUDA graphs keep their memory apart, where this does
            not see it.
        held: gives the tensors that stay from one call to the next: weights, optimizer states, images.
    """
    if device.type != "cuda":
        return None
    step()
    torch.cuda.synchronize(device)
    gc.collect()
    others = torch.cuda.memory_allocated(device) - bytes_of(held())
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, tensors)}.values())
