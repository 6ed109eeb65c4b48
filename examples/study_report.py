"""The tables of a study, from the records of its runs."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy.stats import t as student_t
from study_arms import NO_REDUCTION
from study_budgets import accuracy_at, mean_rows

from fatr_hf.benchmark.report import format_macs, markdown_table


class Interval(NamedTuple):
    """A mean over seeds, its standard deviation and the half width of its confidence interval."""

    mean: float
    deviation: float
    half_width: float


def interval(values: list[float], confidence: float = 0.95) -> Interval:
    """Mean, sample standard deviation and Student's confidence interval of two or more values."""
    deviation = stdev(values)
    quantile = float(student_t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean(values), deviation, quantile * deviation / len(values) ** 0.5)


def write_report(folder: Path) -> str:
    """Writes ``results.md`` into a study's folder, and returns its text."""
    records = [(path.name, json.loads(path.read_text())) for path in sorted((folder / "runs").glob("*.json"))]
    tuned = [record for _, record in records if "after" in record]
    speeds = {name[len("speed at ") : -5]: record for name, record in records if name.startswith("speed at")}
    sections = []
    for ratio in sorted({record["keep_ratio"] for record in tuned} - {None}, reverse=True):
        rows = [record for record in tuned if record["keep_ratio"] in (None, ratio)]
        speed = speeds.get(f"{ratio:g}", {"images_per_second": {}})["images_per_second"]
        sections.append(f"## Fine-tuned, at the cost of keep ratio {ratio:g}\n\n{tuned_table(rows, speed)}")
    for ratio in ("0.7", "0.5"):
        shelf = [record for name, record in records if name.startswith(f"off the shelf at {ratio},")]
        if shelf:
            sections.append(f"## Off the shelf, at the cost of keep ratio {ratio}\n\n{shelf_table(shelf)}")
    budgets = [record for name, record in records if name.startswith("budgets")]
    if budgets:
        sections.append(f"## One model for many budgets\n\n{budget_tables(budgets)}")
    background = [record["layers"] for name, record in records if name.startswith("background")]
    if any(background):
        sections.append(f"## Plain patches\n\n{background_table(background)}")
    text = "\n\n".join(sections) + "\n"
    (folder / "results.md").write_text(text)
    return text


def tuned_table(records: list[dict[str, Any]], images_per_second: dict[str, float]) -> str:
    """Accuracy before and after fine-tuning, the difference to the unreduced model's seed by seed, cost and speed.

    Where classes are uneven, the mean of the classes' own accuracies too ("balanced").
    Arms of a study that is not finished, with fewer than two seeds, are left out.
    """
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in records:
        by_arm[record["arm"]][record["seed"]] = record
    unreduced = by_arm[NO_REDUCTION]
    first = next(iter(unreduced.values()))
    measures = {"after": "fine-tuned, %"}
    if all("balanced" in record for record in records):
        measures["balanced"] = "balanced, %"
    header = ["arm", "before, %"]
    header += [head for name in measures.values() for head in (name, "difference (95% interval)")]
    header += ["multiply-accumulates", "speed"]
    rows = []
    finished = {name: runs for name, runs in by_arm.items() if len(runs.keys() & unreduced.keys()) > 1}
    for name, runs in sorted(finished.items(), key=lambda arm: arm[0] != NO_REDUCTION):
        before = mean(100 * run["before"] for run in runs.values())
        cells = [f"{before:.2f}"]
        for measure in measures:
            values = interval([100 * run[measure] for run in runs.values()])
            cells.append(f"{values.mean:.2f} ± {values.deviation:.2f}")
            if name == NO_REDUCTION:
                cells.append("–")
                continue
            pairs = [(run, unreduced[seed]) for seed, run in runs.items() if seed in unreduced]
            difference = interval([100 * (run[measure] - other[measure]) for run, other in pairs])
            cells.append(f"{difference.mean:+.2f} ± {difference.half_width:.2f}")
        macs = next(iter(runs.values()))["macs"]
        cells.append(f"{format_macs(macs)} ({macs / first['macs']:.2f})")
        speed = images_per_second.get(name)
        cells.append("–" if speed is None else f"{speed / images_per_second[NO_REDUCTION]:.2f}x")
        rows.append([name, *cells])
    return markdown_table(header, rows)


def shelf_table(records: list[dict[str, Any]]) -> str:
    """Accuracy of the unreduced model's weights under every reduction, mean and deviation over bases."""
    values: dict[str, list[float]] = defaultdict(list)
    macs: dict[str, int] = {}
    for record in records:
        for arm in record["arms"]:
            values[arm["name"]].append(100 * arm["accuracy"])
            macs[arm["name"]] = arm["macs"]
    rows = []
    for name, accuracies in values.items():
        spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        cost = f"{format_macs(macs[name])} ({macs[name] / macs[NO_REDUCTION]:.2f})"
        rows.append([name, f"{mean(accuracies):.2f}{spread}", cost])
    return markdown_table(["arm", "top-1, %", "multiply-accumulates"], rows)


def budget_tables(records: list[dict[str, Any]]) -> str:
    """Accuracy of one elastic model by fixed schedule, and by input beside a fixed schedule of the same cost."""
    fixed, by_input = mean_rows(records, "fixed"), mean_rows(records, "by_input")
    first = markdown_table(
        ["keep ratio", "multiply-accumulates", "top-1, %"],
        [[f"{row['keep_ratio']:g}", format_macs(round(row["macs"])), f"{100 * row['accuracy']:.2f}"] for row in fixed],
    )
    rows = []
    for row in by_input:
        differences = [
            100 * (own["accuracy"] - accuracy_at(record["fixed"], own["macs"]))
            for record in records
            for own in record["by_input"]
            if own["selection_mass"] == row["selection_mass"]
        ]
        difference = interval(differences)
        cells = [f"{row['selection_mass']:g}", format_macs(round(row["macs"])), f"{100 * row['accuracy']:.2f}"]
        rows.append([*cells, f"{difference.mean:+.2f} ± {difference.half_width:.2f}"])
    header = ["selection mass", "mean multiply-accumulates", "top-1, %", "difference to fixed (95% interval)"]
    return f"{first}\n{markdown_table(header, rows)}"


def background_table(records: list[list[dict[str, float]]]) -> str:
    """What becomes of plain patches in every reduction layer, mean over the unreduced models."""
    header = ["layer", "plain patches", "attention to them", "likeness", "of others", "kept", "of others"]
    rows = []
    for layers in zip(*records, strict=True):
        row = {name: mean(layer[name] for layer in layers) for name in layers[0]}
        shares = [f"{100 * row[name]:.0f}%" for name in ("plain", "kept", "kept_of_others")]
        likeness = [f"{row[name]:.2f}" for name in ("likeness", "likeness_of_others")]
        rows.append([f"{row['layer']:.0f}", shares[0], f"{row['attention']:.2f}x", *likeness, *shares[1:]])
    return markdown_table(header, rows)
