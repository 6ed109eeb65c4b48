"""How close reduced models stay to the unreduced one, against what they cost: FATR and its rivals at several budgets.

Every method is a plan on one copy of the model, so all have the same weights, the same attention and the same fusing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..analysis.curves import line_styles
from ..analysis.figure_files import check_figure_file, save_figure
from ..analysis.measures import widened
from ..analysis.model_inputs import check_finite, is_classifier, model_batches
from ..analysis.outputs import faithfulness, resampled_interval
from ..baselines.arguments import check_fatr, check_integer, is_number, several, some
from ..baselines.macs import plan_macs
from ..baselines.matched import matched_plan
from ..baselines.rival import unreduced_copy
from ..modeling.budget import highest_within, is_admissible, schedule_macs, with_keep_ratio
from ..modeling.reduction_config import ReductionConfig
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import restore_tokens
from .timing import time_in_turn

LABELS = {
    "faithful": "FATR, faithful",
    "paper": "FATR, as published",
    "tome": "ToMe",
    "pitome": "PiToMe",
    "prune_merge": "prune, then merge",
    "mctf": "MCTF",
    "zero_tprune": "Zero-TPrune",
    "evit": "EViT",
    "random": "random",
}
"""What can be compared, in the order of tables, and what pictures call it."""

HALF_BELOW = 0.6
"""Below this share of the multiply-accumulates ``faithful_half`` stays closer than ``faithful``."""

BUDGETS = (0.8, 0.65, 0.5)
"""Shares of the unreduced model's multiply-accumulates."""


@dataclass(frozen=True)
class Point:
    """A method at one budget."""

    method: str
    budget: float
    macs: float
    """Share of the unreduced model's multiply-accumulates."""
    times: dict[int, float]
    """By batch size: share of the unreduced model's time, both measured in turn."""
    answers: dict[str, float]
    """Means over the images: of a classifier ``agreement``, the share of predictions that stay; ``cosine`` of the
    pooled output, or of the first token where there is none; ``patches``, the cosine of every patch, restored from the
    token that stands for it."""
    difference: tuple[float, float, float]
    """To the first method at this budget, in the ``leading_question``: mean over the images and its 95% interval."""


def frontier(
    model: ReductionModel,
    data: Any,
    methods: Sequence[str] | None = None,
    budgets: Sequence[float] = BUDGETS,
    batch_sizes: Sequence[int] = (1, 8),
    fused: bool = True,
    rounds: int = 7,
) -> list[Point]:
    """Runs the methods over the same images at the same budgets, and times them in turn.

    Args:
        model: a FATR encoder or classifier; its own reduction is not looked at.
        data: see ``analysis.images.batches``.
        methods: of ``LABELS``; by default all that the model allows.
        budgets: shares of the unreduced model's multiply-accumulates, in (0, 1).
        batch_sizes: of the timed passes.
        fused: whether a fused copy is timed.
        rounds: timed passes of each method and batch size.

    Raises:
        ValueError: unknown methods, budgets out of range or that a method cannot meet, batches that are no positive
            integers, or no images.
    """
    check_fatr(model, "compared")
    twin = unreduced_copy(model)
    names = default_methods(twin.config) if methods is None else several("methods", methods)
    for name in names:
        if name not in LABELS:
            raise ValueError(f"methods={list(names)}: {name!r} must be one of {', '.join(LABELS)}.")
    for size in some("batch_sizes", batch_sizes):
        check_integer("a batch size", size, least=1)
    check_integer("rounds", rounds, least=1)
    for budget in some("budgets", budgets):
        if not is_number(budget) or not 0 < budget < 1:
            raise ValueError(f"budgets={list(budgets)} must lie between 0 and 1; {budget!r} does not.")
    whole = schedule_macs(twin.config)
    plans = {(name, budget): plan_within(twin, name, budget * whole) for name in names for budget in budgets}
    judged, pixel_values = judge_plans(twin, data, plans)
    question = leading_question(next(iter(judged.values())))
    runner = twin.fuse() if fused else twin
    times: dict[int, dict[Any, float]] = {
        size: relative_times(runner, pixel_values[:1].repeat(size, 1, 1, 1), plans, rounds) for size in batch_sizes
    }
    return [
        Point(
            name,
            budget,
            plan_macs(twin, plan) / whole,
            {size: each[name, budget] for size, each in times.items()},
            means(judged[name, budget]),
            with_interval(judged[name, budget][question] - judged[names[0], budget][question]),
        )
        for (name, budget), plan in plans.items()
    ]


def default_methods(config: ReductionConfig) -> tuple[str, ...]:
    """The methods that there are of a model with this configuration: some need CLS."""
    return tuple(name for name in LABELS if config.num_prefix_tokens or name not in ("evit", "prune_merge"))


def plan_within(twin: ReductionModel, name: str, macs: float) -> list[LayerPlan]:
    """The plan of one of FATR's presets within so many multiply-accumulates, or of a rival that costs as much.

    Raises:
        ValueError: a budget that the method cannot meet.
    """
    if name in ("faithful", "paper"):
        preset = faithful_preset(macs / schedule_macs(twin.config)) if name == "faithful" else name
        return preset_within(twin.config, preset, macs).plan()
    return matched_plan(twin, name, preset_within(twin.config, "paper", macs))


def faithful_preset(share: float) -> str:
    """Which of the presets ``faithful`` and ``faithful_half`` suits a share of the multiply-accumulates."""
    return "faithful_half" if share < HALF_BELOW else "faithful"


def preset_within(config: ReductionConfig, preset: str, macs: float, **changes: Any) -> ReductionConfig:
    """A preset with the highest keep ratio, in thousandths, whose multiply-accumulates are within a budget.

    Args:
        changes: fields that override the preset's.
    """
    # The preset's own ratio may be too low for the layers that are asked for; with 1 all can be had.
    own = {"reweight_attention": False, "dc_position_embeddings": False, "keep_ratio": 1.0, **changes}
    chosen = type(config).from_dict(config.to_dict(), preset=preset, **own)
    ratios = [ratio for ratio in (number / 1000 for number in range(200, 1000)) if is_admissible(chosen, ratio)]
    ratio = highest_within(ratios, "macs", macs, lambda each: schedule_macs(with_keep_ratio(chosen, each)))
    return with_keep_ratio(chosen, ratio)


@torch.no_grad()
def judge_plans(
    twin: ReductionModel, data: Any, plans: Mapping[Any, Sequence[LayerPlan]]
) -> tuple[dict[Any, dict[str, Tensor]], Tensor]:
    """The answers of every plan as in ``Point``, (images,) each, and the first batch of pixel values."""
    found: dict[Any, dict[str, list[Tensor]]] = {key: {} for key in plans}
    first = None
    for batch in model_batches(twin, data, 32):
        pixel_values = batch.pixel_values.to(twin.device, twin.dtype)
        first = pixel_values if first is None else first
        expected = outputs_of(twin, pixel_values, twin.config.plan(pixel_values.shape[-2:], reduce=False))
        check_finite(twin, expected.pooled)
        for key, plan in plans.items():
            found_outputs = outputs_of(twin, pixel_values, plan)
            values = {}
            if found_outputs.logits is not None and expected.logits is not None:
                values["agreement"] = faithfulness(found_outputs.logits, expected.logits, classifies=True)["agreement"]
            values["cosine"] = torch.cosine_similarity(found_outputs.pooled, expected.pooled, dim=1)
            values["patches"] = torch.cosine_similarity(found_outputs.patches, expected.patches, dim=2).mean(dim=1)
            for question, each in values.items():
                found[key].setdefault(question, []).append(each.double().cpu())
    assert first is not None
    answers = {key: {question: torch.cat(each) for question, each in values.items()} for key, values in found.items()}
    return answers, first


def means(answers: Mapping[str, Tensor]) -> dict[str, float]:
    """Of every question, over the images."""
    return {question: each.mean().item() for question, each in answers.items()}


def with_interval(differences: Tensor) -> tuple[float, float, float]:
    """The mean of (images,) and its 95% interval."""
    return differences.mean().item(), *resampled_interval(differences)


def leading_question(answers: Mapping[str, Any]) -> str:
    """What methods are ordered by: the agreement of classifiers, the cosine of encoders."""
    return "agreement" if "agreement" in answers else "cosine"


class Outputs(NamedTuple):
    """What a model says of a batch, in float32 or better."""

    logits: Tensor | None
    """(batch, classes); None of an encoder."""
    pooled: Tensor
    """(batch, hidden)."""
    patches: Tensor
    """(batch, patches, hidden), restored."""


def outputs_of(twin: Any, pixel_values: Tensor, plan: Sequence[LayerPlan]) -> Outputs:
    """The outputs by a plan."""
    outputs = twin.base_model(pixel_values, plan=plan, output_token_sources=True, output_token_sizes=True)
    sequence, pooled = outputs.last_hidden_state, outputs.pooler_output
    patches = sequence[:, twin.config.num_prefix_tokens :]
    if outputs.token_sources:
        patches = restore_tokens(sequence, outputs.token_sources[-1])
    logits = twin.classify(outputs) if is_classifier(twin) else None
    pooled = sequence[:, 0] if pooled is None else pooled
    return Outputs(None if logits is None else widened(logits), widened(pooled), widened(patches))


def relative_times(
    runner: ReductionModel, pixel_values: Tensor, plans: Mapping[Any, Sequence[LayerPlan]], rounds: int
) -> dict[Any, float]:
    """The median time of each plan over that of the unreduced model, measured in turn."""
    unreduced = runner.config.plan(pixel_values.shape[-2:], reduce=False)
    tasks = {str(key): partial(runner, pixel_values, plan=plan) for key, plan in plans.items()}
    tasks[""] = partial(runner, pixel_values, plan=unreduced)
    with torch.inference_mode():
        timings = time_in_turn(tasks, pixel_values.device, rounds)
    return {key: timings[str(key)].median / timings[""].median for key in plans}


def frontier_table(points: Sequence[Point]) -> str:
    """A Markdown table, by budget, the most faithful first."""
    question, sizes = leading_question(points[0].answers), list(points[0].times)
    heads = ["budget", "method", "multiply-accumulates", *(f"time, batch {size}" for size in sizes), *points[0].answers]
    heads.append(f"{question}, difference to {LABELS[points[0].method]} (95% interval)")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for point in sorted(points, key=lambda each: (-each.budget, -each.answers[question])):
        cells = [f"{point.budget:g}", LABELS[point.method], f"{point.macs:.3f}"]
        cells += [f"{point.times[size]:.2f}" for size in sizes]
        cells += [f"{value:.4f}" for value in point.answers.values()]
        cells.append("{:+.4f} ({:+.4f} to {:+.4f})".format(*point.difference))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot_frontier(points: Sequence[Point], path: Path) -> None:
    """Draws how close each method stays to the unreduced model, over its multiply-accumulates and its measured times.

    Raises:
        ValueError, ImportError: see ``check_figure_file``.
    """
    check_figure_file(path)
    from matplotlib.figure import Figure

    question, sizes = leading_question(points[0].answers), list(points[0].times)
    figure = Figure(figsize=(4.6 * (1 + len(sizes)), 4.2), layout="constrained")
    panels = figure.subplots(1, 1 + len(sizes), sharey=True, squeeze=False)[0]
    for panel, size in zip(panels, [None, *sizes], strict=True):
        for style, name in zip(line_styles(len(LABELS)), LABELS, strict=True):
            members = sorted((each for each in points if each.method == name), key=lambda each: each.budget)
            costs = [each.macs if size is None else each.times[size] for each in members]
            values = [100 * each.answers[question] for each in members]
            if members:
                panel.plot(costs, values, label=LABELS[name], **style)
        panel.set_xlabel("multiply-accumulates" if size is None else f"time, batch {size}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("predictions that stay, %" if question == "agreement" else "cosine of the pooled output, %")
    panels[0].legend(fontsize="small")
    figure.suptitle("Shares of the unreduced model's", fontsize="medium")
    save_figure(figure, path)
