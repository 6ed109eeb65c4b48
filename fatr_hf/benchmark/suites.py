"""The figures that the project has to reach, as settings to measure and targets to hold against them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .report import markdown_table
from .results import FIGURES, Comparison
from .settings import SIZES, Setting

SUITE = "targets"
"""Its name."""

CONTESTANTS = ("stock", "truncation-bound", "fatr", "fatr-no-omega")
"""Those whose figures have targets, and what they are compared with."""


class Target(NamedTuple):
    """A bound on one of FATR's figures."""

    figure: str
    """One of ``FIGURES``."""
    bound: float
    at_least: bool = True
    """Whether more is better; else the figure may be the bound at most."""

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:.2f}"


@dataclass(frozen=True)
class Case:
    """A setting and the targets that hold in it.

    Args:
        name: what chooses it.
    """

    name: str
    setting: Setting
    targets: tuple[Target, ...]


def cases_for(device_type: str) -> tuple[Case, ...]:
    """The project's cases on a kind of device."""
    return gpu_cases() if device_type == "cuda" else cpu_cases()


def gpu_cases() -> tuple[Case, ...]:
    """bfloat16 throughput at large batches, latency at small ones, and training."""
    bound, reweighting = Target("share_of_bound", 0.97), Target("reweighting", 1.02, at_least=False)
    base = Setting(SIZES["B"], 256, dtype="bfloat16")
    base_384 = replace(base, size=replace(SIZES["B"], image_size=384), batch_size=96)
    large = replace(base, size=SIZES["L"], batch_size=128, reduction_layers=(6, 12, 18))
    training = replace(base, task="training", batch_size=128)
    cases = [
        Case("B-224-eager", base, (speed(1.50), bound, reweighting, memory(0.95))),
        Case("B-224-compile", replace(base, execution="compile"), (speed(1.50), bound, reweighting)),
        Case("B-384-eager", base_384, (speed(1.52), bound, reweighting)),
        Case("L-224-eager", large, (speed(1.42), bound, reweighting)),
        Case("S-224-eager", replace(base, size=SIZES["S"], batch_size=512), (speed(1.40), bound, reweighting)),
    ]
    for execution, least in (("cudagraphs", 1.12), ("eager", 0.95)):
        for batch_size in (1, 8):
            setting = replace(base, batch_size=batch_size, execution=execution)
            cases.append(Case(f"B-224-batch{batch_size}-{execution}", setting, (speed(least),)))
    cases.append(Case("B-224-training", training, (speed(1.35), memory(0.80))))
    return tuple(cases)


def cpu_cases() -> tuple[Case, ...]:
    """float32 inference of eight images."""
    return tuple(Case(f"{name}-224-cpu", Setting(SIZES[name], 8), (speed(1.45),)) for name in ("S", "B"))


def speed(least: float) -> Target:
    """At least so many times as fast as stock."""
    return Target("speedup", least)


def memory(most: float) -> Target:
    """At most this share of stock's peak memory."""
    return Target("memory_ratio", most, at_least=False)


def choose_cases(cases: Sequence[Case], names: Sequence[str] = ()) -> list[Case]:
    """The cases of given names; without names all.

    Raises:
        ValueError: an unknown name.
    """
    known = {case.name: case for case in cases}
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown case {name!r}: on this device there are {', '.join(known)}.")
    return [known[name] for name in names] if names else list(cases)


def targets_table(cases: Sequence[Case], comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of every target beside what FATR reaches; a case that was not measured has dashes.

    Empty where there are no cases.
    """
    if not cases:
        return ""
    measured = {comparison.setting: comparison for comparison in comparisons}
    rows = []
    for case in cases:
        comparison = measured.get(case.setting)
        for target in case.targets:
            value = None if comparison is None else comparison.figure(target.figure, "fatr")
            reached = "-" if value is None else "yes" if target.holds(value) else "no"
            measure = "-" if value is None else f"{value:.3f}"
            rows.append([case.name, FIGURES[target.figure], str(target), measure, reached])
    return markdown_table(["case", "figure of FATR", "target", "measured", "reached"], rows)
