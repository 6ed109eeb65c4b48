import math

import pytest
import torch

from fatr_hf.analysis.spectrum import amplitudes, grid_frequencies, relative_log_amplitudes

GRIDS = [(4, 4), (5, 5), (8, 8), (4, 6), (6, 4), (3, 8), (7, 5), (1, 6)]
grids = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "{}x{}".format(*grid))
even_squares = pytest.mark.parametrize("side", [4, 8, 14], ids=str)


def diagonal_wave(grid, frequency, phase=0.0):
    """(1, patches, 1) float64, a cosine along the diagonal; the frequency in units of pi."""
    places = torch.arange(grid[0])[:, None] + torch.arange(grid[1])
    return (math.pi * frequency * places.double() + phase).cos().flatten()[None, :, None]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((4, 4), (0, 0.5, 1)),
        ((5, 5), (0, 0.4, 0.8)),
        ((4, 7), (0, 0.5, 1)),
        ((7, 2), (0, 1)),
        ((1, 5), (0,)),
        ((14, 14), tuple(cycles / 7 for cycles in range(8))),
    ],
    ids=str,
)
def test_grid_frequencies(grid, expected):
    assert grid_frequencies(grid) == pytest.approx(expected)


@grids
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_amplitudes_are_those_of_the_fast_fourier_transform(grid, dtype):
    tokens = (torch.randn(3, grid[0] * grid[1], 4) + 2).to(dtype)
    transform = torch.fft.fft2(tokens.double().unflatten(1, grid), dim=(1, 2)).abs()
    # The transform has the diagonal's frequencies along both sides only where both are multiples of the same cycles.
    common = math.gcd(*grid)
    cycles = range(common // 2 + 1)
    diagonal = [transform[:, each * grid[0] // common, each * grid[1] // common] for each in cycles]
    result = amplitudes(tokens, grid, [2 * each / common for each in cycles])
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(result.double(), torch.stack(diagonal, dim=1), rtol=1e-5, atol=1e-4)


@grids
def test_any_frequency_is_the_sum_over_the_grid(grid):
    tokens = torch.randn(2, grid[0] * grid[1], 3, dtype=torch.float64)
    frequencies = [0, 0.1, 1 / 3, 0.77, 1]
    mean = tokens.mean(dim=1)
    for place, frequency in enumerate(frequencies):
        total = torch.zeros(2, 3, dtype=torch.complex128)
        for row in range(grid[0]):
            for column in range(grid[1]):
                token = tokens[:, row * grid[1] + column] - (mean if frequency else 0)
                angle = torch.tensor(-math.pi * frequency * (row + column), dtype=torch.float64)
                total += token * torch.complex(angle.cos(), angle.sin())
        torch.testing.assert_close(amplitudes(tokens, grid, frequencies)[:, place], total.abs())


@pytest.mark.parametrize("side", [4, 5, 8, 9], ids=str)
@pytest.mark.parametrize("phase", [0, 0.7], ids="phase{}".format)
def test_a_wave_along_the_diagonal_fills_one_bin(side, phase):
    frequencies = grid_frequencies((side, side))
    for place, frequency in enumerate(frequencies):
        wave = diagonal_wave((side, side), frequency, phase)
        result = amplitudes(wave, (side, side), frequencies)[0, :, 0]
        # Half of a cosine's amplitude is at the negative frequency, except where that is the same one.
        height = side**2 * (abs(math.cos(phase)) if frequency in (0, 1) else 0.5)
        expected = torch.zeros(len(frequencies), dtype=torch.float64)
        expected[place] = height
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_a_checkerboard_is_the_highest_frequency_and_stripes_are_none():
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    checkerboard = (-1.0) ** (rows + columns).flatten()[None, :, None]
    stripes = ((-1.0) ** rows).flatten()[None, :, None]
    frequencies = grid_frequencies((6, 6))
    torch.testing.assert_close(amplitudes(checkerboard, (6, 6), frequencies)[0, :, 0], torch.tensor([0.0, 0, 0, 36]))
    torch.testing.assert_close(amplitudes(stripes, (6, 6), frequencies), torch.zeros(1, 4, 1), rtol=0, atol=1e-5)


@grids
def test_the_mean_does_not_leak(grid):
    constant = torch.full((1, grid[0] * grid[1], 2), 5.0, dtype=torch.float64)
    result = amplitudes(constant, grid, [0, 0.05, 0.3, 0.81])
    torch.testing.assert_close(result[0, :, 0], torch.tensor([5.0 * grid[0] * grid[1], 0, 0, 0]).double())
    frequencies = [0.05, 0.3, 0.81]
    tokens = torch.randn(1, grid[0] * grid[1], 2, dtype=torch.float64)
    torch.testing.assert_close(amplitudes(tokens, grid, frequencies), amplitudes(tokens + 5, grid, frequencies))


def test_constant_tokens_fall_to_the_smallest_amplitude():
    result = relative_log_amplitudes(torch.full((1, 16, 3), 2.0), (4, 4), [0, 0.5, 1])
    assert result[0].tolist() == pytest.approx([0, *[math.log(1e-6 / 32)] * 2], abs=1e-4)


@even_squares
def test_white_noise_is_flat(side):
    tokens = torch.randn(4, side**2, 5000, dtype=torch.float64)
    frequencies = grid_frequencies((side, side))
    logs = amplitudes(tokens, (side, side), frequencies).log().mean(dim=(0, 2)) - math.log(side)
    # E log of a Rayleigh variable of unit mean square, and of the absolute value of a real normal one.
    rayleigh, half_normal = -0.5 * 0.5772156649, -0.5 * (0.5772156649 + math.log(2))
    assert logs[[0, -1]].tolist() == pytest.approx([half_normal] * 2, abs=0.05)
    assert logs[1:-1].tolist() == pytest.approx([rayleigh] * (len(frequencies) - 2), abs=0.05)


def test_logarithms_are_averaged_over_channels_beside_frequency_zero():
    tokens = torch.randn(2, 24, 5, dtype=torch.float64)
    frequencies = [0.0, 0.5, 1.0]
    logs = amplitudes(tokens, (4, 6), frequencies).log().mean(dim=2)
    result = relative_log_amplitudes(tokens, (4, 6), frequencies)
    torch.testing.assert_close(result, logs - logs[:, :1], rtol=0, atol=1e-4)
    assert result[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(relative_log_amplitudes(tokens * 9, (4, 6), frequencies), result, rtol=0, atol=1e-4)


@grids
def test_an_image_does_not_see_the_others_of_its_batch(grid):
    tokens = torch.randn(3, grid[0] * grid[1], 4, dtype=torch.float64)
    frequencies = grid_frequencies(grid)
    alone = torch.cat([relative_log_amplitudes(image[None], grid, frequencies) for image in tokens])
    torch.testing.assert_close(relative_log_amplitudes(tokens, grid, frequencies), alone)


def test_other_grids_and_frequencies_are_refused():
    tokens = torch.zeros(1, 24, 2)
    with pytest.raises(ValueError, match="24 tokens are not a grid of 5 x 5 patches"):
        amplitudes(tokens, (5, 5), [0.5])
    for frequency in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], in units of pi; "):
            relative_log_amplitudes(tokens, (4, 6), [0.5, frequency])
