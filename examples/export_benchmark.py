"""The table of export.py: a model and its files, unreduced and reduced, in float32 and int8, by agreement and speed."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from export_formats import FORMATS, Classify, Logits, example
from export_quantised import Agreement, Pictures, agreement, logits_of
from torch import Tensor

from fatr_hf.benchmark.timing import Timing, time_in_turn

EAGER = "eager"

Write = Callable[[Any, list[str], Path], None]
"""Writes a model's files of some formats below a folder."""


class Row(NamedTuple):
    """What is timed."""

    runtime: str
    is_reduced: bool
    in_int8: bool = False

    @property
    def what(self) -> str:
        """In words."""
        parts = [word for word, holds in (("reduced", self.is_reduced), ("int8", self.in_int8)) if holds]
        return ", ".join(parts) or "unreduced"


def benchmark(model: Any, arguments: argparse.Namespace, write: Write, scratch: Path, held_out: Pictures) -> str:
    """A table of the model, its fused copy and its files, each beside that of the unreduced model, timed in turn.

    Of a format in int8 the one in float32 is there, too. A model without a reduction has unreduced rows alone.

    Args:
        model: a classifier that is not fused, in evaluation mode.
        arguments: of export.py.
        write: writes the files that are not exported.
        scratch: a folder for them.
        held_out: pictures; the share of the unreduced model's predictions that stay is of these.
    """
    wanted = [each for name in arguments.format for each in (FORMATS[name].float_format, name) if each]
    formats = list(dict.fromkeys(wanted))
    reduces = any(layer.reduces for layer in model.config.plan())
    rows: dict[Row, Classify] = {}
    for is_reduced in (False, True) if reduces else (False,):
        is_exported = is_reduced == reduces
        missing = [name for name in formats if not (is_exported and name in arguments.format)]
        rows |= eager_rows(model, is_reduced)
        if missing:
            print(f"For the benchmark, {Row(EAGER, is_reduced).what}:")
            with model.reduction(is_reduced):
                write(model, missing, scratch / str(is_reduced))
        for name in formats:
            kind = FORMATS[name]
            folder = scratch / str(is_reduced) if name in missing else arguments.output
            rows[Row(kind.float_format or name, is_reduced, bool(kind.float_format))] = kind.load(folder / kind.file)
    with torch.inference_mode():
        found = agreements(rows, held_out) if held_out else {}
        timings = []
        for batch_size in arguments.batch_size:
            images = example(model, batch_size)
            tasks: dict[Any, Any] = {row: partial(classify, images) for row, classify in rows.items()}
            timings.append(time_in_turn(tasks, images.device, arguments.rounds))
    return table(rows, found, arguments.batch_size, timings)


def eager_rows(model: Any, is_reduced: bool) -> dict[Row, Classify]:
    """The model and its fused copy, with its reduction or without."""

    def eager(pixel_values: Tensor) -> Tensor:
        with model.reduction(is_reduced):
            logits: Tensor = model(pixel_values).logits
        return logits

    with model.reduction(is_reduced):
        fused = model.fuse()
    return {Row(EAGER, is_reduced): eager, Row("eager, fused", is_reduced): Logits(fused)}


def agreements(rows: dict[Row, Classify], pictures: Pictures) -> dict[Row, Agreement]:
    """How far each agrees with the eager unreduced model."""
    reference = logits_of(rows[Row(EAGER, False)], pictures)
    return {row: agreement(logits_of(classify, pictures), reference) for row, classify in rows.items()}


def table(
    rows: Iterable[Row],
    found: dict[Row, Agreement],
    batch_sizes: Sequence[int],
    timings: Sequence[dict[Any, Timing]],
) -> str:
    """Markdown; speeds are medians over rounds of the ratio within a round.

    ``over unreduced`` compares with the unreduced model in float32 in the same runtime, ``over eager`` with the eager
    model that reduces alike.
    """
    head = ["runtime", "model", *(["same predictions", "cosine of logits"] if found else [])]
    for batch_size in batch_sizes:
        head += [f"batch {batch_size}, ms", "over unreduced", "over eager"]
    lines = [f"{torch.get_num_threads()} threads", line(head), "|---" * len(head) + "|"]
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    for row in sorted(rows, key=lambda row: (runtimes.index(row.runtime), row.in_int8)):
        cells = [row.runtime, row.what]
        if found:
            cells += [f"{found[row].same:.3f}", f"{found[row].cosine:.4f}"]
        for timing in timings:
            cells.append(f"{timing[row].median:.1f}")
            for base in (Row(row.runtime, False), Row(EAGER, row.is_reduced)):
                cells.append(f"{speed(timing[row], timing[base]):.2f}")
        lines.append(line(cells))
    return "\n".join(lines)


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def speed(timing: Timing, base: Timing) -> float:
    """How many times as fast as another."""
    return median(a / b for a, b in zip(base.samples, timing.samples, strict=True))
