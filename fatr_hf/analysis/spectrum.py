"""The two-dimensional Fourier spectrum of tokens over the grid of patches (figures 1, 3, 7 and 8 of arXiv 2511.21477).

As in *How Do Vision Transformers Work?* (Park and Kim, arXiv 2202.06709, figure 2a) amplitudes are taken along the
diagonal of the spectrum, where rows and columns have the same frequency, as logarithms beside that of frequency zero.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_AMPLITUDE = 1e-6
"""Added to amplitudes, so that one of zero has a logarithm."""


def grid_frequencies(grid: tuple[int, int]) -> tuple[float, ...]:
    """The frequencies of a grid's discrete Fourier transform along its shorter side, in units of pi, from 0 to 1."""
    side = min(grid)
    return tuple(2 * cycles / side for cycles in range(side // 2 + 1))


def amplitudes(tokens: Tensor, grid: tuple[int, int], frequencies: Sequence[float]) -> Tensor:
    """``|sum over rows r and columns c of X[r, c] exp(-i pi f (r + c))|`` for every frequency ``f`` and channel.

    The mean over the grid is taken off first, except at frequency 0: at the grid's own frequencies it has no part in
    the sum, at any other it would leak into it.

    Args:
        tokens: (batch, rows * columns, hidden), patches row by row.
        grid: rows and columns.
        frequencies: in units of pi radians a patch, in [0, 1].

    Returns:
        (batch, frequencies, hidden), in float32 or better.

    Raises:
        ValueError: tokens that are not the grid's, or a frequency out of range.
    """
    rows, columns = grid
    if tokens.shape[1] != rows * columns:
        raise ValueError(f"{tokens.shape[1]} tokens are not a grid of {rows} x {columns} patches.")
    for frequency in frequencies:
        if not 0 <= frequency <= 1:
            raise ValueError(
                f"frequencies={list(frequencies)} must lie in [0, 1], in units of pi; {frequency} does not."
            )
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    total = tokens.sum(dim=1, keepdim=True)
    centred = tokens - total / tokens.shape[1]
    places = (torch.arange(rows)[:, None] + torch.arange(columns)).flatten()
    angles = math.pi * torch.tensor(list(frequencies), dtype=torch.float64)[:, None] * places
    cosines, sines = (wave.to(tokens.device, tokens.dtype) for wave in (angles.cos(), angles.sin()))
    result = torch.hypot(cosines @ centred, sines @ centred)
    is_zero = torch.tensor([frequency == 0 for frequency in frequencies], device=tokens.device)
    return torch.where(is_zero[:, None], total.abs(), result)


def relative_log_amplitudes(tokens: Tensor, grid: tuple[int, int], frequencies: Sequence[float]) -> Tensor:
    """Natural logarithms of amplitudes, averaged over channels, less that of frequency 0.

    Args:
        tokens, grid, frequencies: as for ``amplitudes``.

    Returns:
        (batch, frequencies).
    """
    logs = (amplitudes(tokens, grid, [0.0, *frequencies]) + SMALLEST_AMPLITUDE).log().mean(dim=2)
    return logs[:, 1:] - logs[:, :1]
