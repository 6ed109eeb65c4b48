"""Intervals of what models answer."""

import pytest
import torch

from fatr_hf.analysis import outputs
from fatr_hf.analysis.outputs import resampled_interval


def test_the_interval_is_that_of_the_mean():
    differences = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    low, high = resampled_interval(differences, [str(image) for image in range(400)])
    assert resampled_interval(differences) == (low, high)
    error = (differences.std() / 400**0.5).item()
    assert low == pytest.approx(differences.mean().item() - 1.96 * error, abs=0.01)
    assert high == pytest.approx(differences.mean().item() + 1.96 * error, abs=0.01)


def test_draws_in_parts_give_the_same_interval(monkeypatch):
    differences = torch.randn(40, generator=torch.Generator().manual_seed(0))
    whole = resampled_interval(differences)
    monkeypatch.setattr(outputs, "RESAMPLED", 40 * 77)
    assert resampled_interval(differences) == pytest.approx(whole, abs=0.01)


def test_images_of_one_group_count_as_one_draw():
    # Two groups, all alike inside: a draw gives a, b or the mean over both, weighted by their images.
    low, high = resampled_interval(torch.tensor([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"])
    assert (low, high) == (1, 5)
