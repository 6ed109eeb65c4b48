"""`fatr-hf bench`: speed, memory and cost beside the stock model and the rivals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..analysis.figure_files import FORMATS, check_figure_file
from ..benchmark.compare import OutOfMemory, compare, default_protocol
from ..benchmark.contestants import KINDS, check_known
from ..benchmark.machine import choose_device, describe_machine
from ..benchmark.plot import plot_throughput
from ..benchmark.report import closing_text, comparison_table, report_text
from ..benchmark.results import Report
from ..benchmark.settings import (
    DTYPES,
    EXECUTIONS,
    SIZES,
    TASKS,
    Setting,
    check_support,
    default_setting,
    parse_size,
)
from ..benchmark.suites import CONTESTANTS, SUITE, Case, cases_for, choose_cases, targets_table
from ..benchmark.timing import cpu_threads
from ..benchmark.token_multiple import suggestion_text
from ..benchmark.token_times import suggest_multiple
from .common import (
    check_folders,
    option,
    refusals,
    separated,
    write_text,
)
from .reduction import Reduction, takes_reduction

HELP = """
Times FATR, the stock model and the rivals in turn, and prints a table for each setting.

Separate several values of an option by commas. Every combination of batch size, dtype, execution and task is measured.

\b
  fatr-hf bench
  fatr-hf bench --size S --batch-size 1,8,32 --plot throughput.svg --json results.json
  fatr-hf bench --batch-size 1 --execution eager,cudagraphs --contestants stock,fatr,evit
  fatr-hf bench --size B --task training --batch-size 128 --dtype bfloat16
  fatr-hf bench --suite targets --json targets.json
  fatr-hf bench --suggest-multiple
  fatr-hf bench --load results.json --plot throughput.png
"""


@takes_reduction("keep_ratio", "reduction_layers", "dc_windows", "token_multiple")
def run(
    size: Annotated[str | None, option(f"{', '.join(SIZES)} or width/heads/layers. [B on a GPU, else S]")] = None,
    image_size: Annotated[int | None, option("Height and width in pixels. [224]", least=1)] = None,
    patch_size: Annotated[int | None, option("Height and width of a patch in pixels. [16; H: 14]", least=1)] = None,
    batch_size: Annotated[str | None, option("Batch size, one or several. [GPU: 256, else 8]")] = None,
    dtype: Annotated[str | None, option(f"{', '.join(DTYPES)}. [GPU: bfloat16, else float32]")] = None,
    execution: Annotated[str | None, option(f"{', '.join(EXECUTIONS)}. [eager]")] = None,
    task: Annotated[str | None, option(f"{', '.join(TASKS)}. [inference]")] = None,
    *,
    reduction: Reduction,
    score_implementation: Annotated[str | None, option("Implementation of FATR's scores. [the model's choice]")] = None,
    fuse: Annotated[bool, option("Time inference with fused copies, except for the stock model. [yes]")] = True,
    contestants: Annotated[str | None, option(f"{', '.join(KINDS)}. [all; with a suite those it needs]")] = None,
    rounds: Annotated[int | None, option("Measured rounds. [GPU: 30, else 8]", least=1)] = None,
    warmup: Annotated[int | None, option("Rounds before the measured ones. [GPU: 10, else 1]", least=0)] = None,
    threads: Annotated[int | None, option("CPU threads. [torch's choice]", least=1)] = None,
    device: Annotated[str | None, option("Device, such as cuda:1 or cpu. [cuda, if available]")] = None,
    seed: Annotated[int, option("Seed of weights and images. [0]")] = 0,
    suite: Annotated[str | None, option(f"{SUITE}: the project's settings and targets for this device.")] = None,
    case: Annotated[str | None, option("Cases of the suite. [all]")] = None,
    suggest: Annotated[bool, option("Suggest a token_multiple for this device.", "--suggest-multiple")] = False,
    json: Annotated[Path | None, option("Write all measurements to this JSON file.")] = None,
    markdown: Annotated[Path | None, option("Write the tables to this file.")] = None,
    plot: Annotated[Path | None, option(f"Plot throughput by batch size to this file ({', '.join(FORMATS)}).")] = None,
    load: Annotated[Path | None, option("Print the results of an earlier --json instead of measuring.")] = None,
) -> None:
    """Reads the options, measures and prints."""
    with refusals():
        check_outputs(json, markdown, plot)
        model = {"size": size, "image_size": image_size, "patch_size": patch_size}
        conditions = {"batch_size": batch_size, "dtype": dtype, "execution": execution, "task": task}
        if suite is not None and (reduction or any(value is not None for value in (model | conditions).values())):
            raise ValueError("A suite fixes model, conditions and reduction: leave their options out.")
        if load is not None:
            report = Report.from_json(load.read_text())
            cases = chosen_cases(suite, case, str(report.machine["device_type"]))
            write_outputs(report, cases, json, markdown, plot)
            typer.echo(report_text(report, targets_table(cases, report.comparisons)))
            return
        where = choose_device(device)
        cases = chosen_cases(suite, case, where.type)
        settings = [each.setting for each in cases] or combinations(where, model, conditions)
        given = reduction | {"fuse": fuse, "seed": seed, "score_implementation": score_implementation}
        settings = [replace(setting, **given) for setting in settings]
        cases = [replace(each, setting=setting) for each, setting in zip(cases, settings, strict=False)]
        names = separated("contestants", contestants, str) or (CONTESTANTS if cases else tuple(KINDS))
        check_measurable(settings, names, where)
        protocol = default_protocol(where)
        protocol = replace(
            protocol,
            rounds=protocol.rounds if rounds is None else rounds,
            warmup=protocol.warmup if warmup is None else warmup,
        )
    with cpu_threads(threads):
        if suggest:
            for setting in settings:
                typer.echo(f"## {setting.label}\n\n{suggestion_text(suggest_multiple(setting, where, protocol))}")
            return
        report, complete = Report(describe_machine(where), protocol.rounds, protocol.warmup), True
        for setting in settings:
            typer.echo(f"Measuring {setting.label} ...", err=True)
            try:
                comparison = compare(setting, names, where, protocol)
            except (OutOfMemory, ValueError) as error:
                typer.echo(f"Error: {error}", err=True)
                complete = False
                continue
            typer.echo(comparison_table(comparison))
            report = replace(report, comparisons=(*report.comparisons, comparison))
            # After every setting, so that what was measured is kept whatever happens to the rest.
            write_outputs(report, cases, json, markdown, plot)
        typer.echo(closing_text(report, targets_table(cases, report.comparisons)))
    if not complete:
        raise typer.Exit(1)


def combinations(device: torch.device, model: Mapping[str, Any], conditions: Mapping[str, str | None]) -> list[Setting]:
    """Every combination of the conditions, each by default the device's.

    Raises:
        ValueError: an unknown size or condition.
    """
    default = default_setting(device)
    size = default.size if model["size"] is None else parse_size(model["size"])
    pixels = {name: model[name] for name in ("image_size", "patch_size") if model[name] is not None}
    size = replace(size, **pixels)
    batch_sizes = separated("batch sizes", conditions["batch_size"], int) or (default.batch_size,)
    names = ("dtype", "execution", "task")
    choices = [separated(name, conditions[name], str) or (getattr(default, name),) for name in names]
    return [
        Setting(size, batch_size, **dict(zip(names, values, strict=True)))
        for *values, batch_size in product(*choices, batch_sizes)
    ]


def chosen_cases(suite: str | None, names: str | None, device_type: str) -> list[Case]:
    """The cases of a suite, none without one.

    Raises:
        ValueError: an unknown suite or case.
    """
    if suite is None and names is None:
        return []
    if suite not in (None, SUITE):
        raise ValueError(f"Unknown suite {suite!r}: there is {SUITE}.")
    return choose_cases(cases_for(device_type), separated("cases", names, str))


def check_measurable(settings: Sequence[Setting], names: Sequence[str], device: torch.device) -> None:
    """Checks everything that can be checked before the first setting is measured.

    Raises:
        ValueError, huggingface_hub.errors.StrictDataclassError: what cannot be measured.
    """
    check_known(names)
    for setting in settings:
        check_support(setting, device)
        setting.fatr_config()


def check_outputs(json: Path | None, markdown: Path | None, plot: Path | None) -> None:
    """Checks that results can be written.

    Raises:
        ValueError: a folder that does not exist, or a plot of an unknown format.
        ImportError: a plot without matplotlib.
    """
    if plot is not None:
        check_figure_file(plot)
    check_folders(json, markdown, plot)


def write_outputs(
    report: Report, cases: Sequence[Case], json: Path | None, markdown: Path | None, plot: Path | None
) -> None:
    """Writes the files that were asked for."""
    if json is not None:
        write_text(json, report.to_json())
    if markdown is not None:
        write_text(markdown, report_text(report, targets_table(cases, report.comparisons)))
    if plot is not None:
        plot_throughput(report.comparisons, plot)
