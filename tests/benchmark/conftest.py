"""A setting small enough to measure every contestant in a second."""

import pytest
import torch

from fatr_hf.benchmark import Comparison, Measurement, ModelSize, Protocol, Report, Setting

NANO = ModelSize("nano", 32, 2, 4, patch_size=4, image_size=32)


@pytest.fixture
def setting():
    return Setting(NANO, batch_size=2)


@pytest.fixture
def cpu():
    return torch.device("cpu")


@pytest.fixture
def protocol():
    return Protocol(rounds=2, warmup=1, sample_milliseconds=0.0)


@pytest.fixture
def comparison(setting):
    """Made-up times and costs."""
    measurements = (
        Measurement("stock", "stock ViT (SDPA)", (30.0, 31.0, 29.0), 4_000_000_000, 400 * 2**20),
        Measurement("truncation-bound", "truncation bound", (20.0, 20.0, 20.0), 2_500_000_000, 300 * 2**20),
        Measurement("fatr", "FATR", (22.0, 20.0, 21.0), 2_600_000_000, 320 * 2**20),
        Measurement("fatr-no-omega", "FATR, no re-weighting", (20.0, 20.0, 20.0), 2_600_000_000, note="slept"),
    )
    return Comparison(setting, measurements, (65, 49, 32, 23))


@pytest.fixture
def report(comparison):
    return Report({"device": "an abacus", "device_type": "cpu", "triton": None}, 3, 1, (comparison,))
