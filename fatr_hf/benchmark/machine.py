"""What a measurement ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..baselines.arguments import check_kind, described


def describe_machine(device: torch.device) -> dict[str, str | int | None]:
    """Device, processor, threads and versions: plain values, without a date."""
    check_device(device)
    return {
        "device": device_name(device),
        "device_type": device.type,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **{package: installed_version(package) for package in ("torch", "transformers", "triton", "fatr-hf")},
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else str(device)


def cpu_name() -> str:
    """The processor's model as Linux tells it, or what Python knows."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_version(package: str) -> str | None:
    """A package's version, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def choose_device(name: str | None) -> torch.device:
    """A device by name; without one, CUDA where there is one, else the CPU.

    Raises:
        ValueError: an unknown device, or one that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no device {described(name)} here: {reason}") from error
    if device.type == "meta":
        raise ValueError("device='meta' computes nothing that could be timed: give another, such as 'cpu'.")
    return device


def check_device(device: torch.device) -> None:
    """Raises a ValueError for what is no device, as where only its name is given."""
    check_kind("device", device, torch.device, "a torch.device, such as choose_device('cpu')")
