"""The search for reduction schedules that give the best quality for their cost, without training (needs optuna).

Every schedule tried is a trial of a study with two objectives, cost and quality (``study.py``). Schedules are
drawn from a space (``space.py``) and tried on one model whose weights they share (``quality.py``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...baselines.arguments import check_fatr, check_integer, check_kind, check_takes_images
from ...modeling.reduction_config import REDUCTION_FIELDS, ReductionConfig
from ...modeling.reduction_model import ReductionModel
from ..schedule import Schedule
from ..trace import check_traceable
from .known_schedules import known_schedules
from .quality import (
    LOWER_IS_BETTER,
    Examples,
    check_quality,
    load_examples,
    part_qualities,
    relative_latency,
    unreduced_quality,
)
from .result import PrunedTrial, SearchResult, Trial
from .space import SearchSpace, default_space
from .study import ask, digest, finished_trials, import_optuna, open_study

OBJECTIVES = ("macs", "latency")
"""What a schedule costs: multiply-accumulates or the time of a forward pass, as shares of the unreduced model's."""

MARGIN, FEWEST_IMAGES = 4.0, 8
"""A schedule is clearly worse by so many standard errors over at least so many images; four of them are no chance, even
among hundreds of schedules."""


class Task(NamedTuple):
    """What is searched, and how."""

    model: ReductionModel
    examples: Examples
    space: SearchSpace
    objective: str
    seed: int
    known: tuple[tuple[str, Mapping[str, Any]], ...]
    """Names and parameters of the schedules that come first."""

    @property
    def sign(self) -> int:
        """1 where higher qualities are better, -1 where lower ones are."""
        return -1 if self.examples.quality in LOWER_IS_BETTER else 1


class Tried(NamedTuple):
    """A schedule tried on all images."""

    schedule: Schedule
    cost: float
    qualities: Tensor
    """(images,)."""


def search_schedules(
    model: ReductionModel,
    data: Any,
    *,
    space: SearchSpace | None = None,
    objective: str = "macs",
    quality: str | None = None,
    trials: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    study: str | Path | None = None,
    on_trial: Callable[[], None] = lambda: None,
) -> SearchResult:
    """Looks for the schedules of a model that no other one beats in both cost and quality.

    Known schedules come first. Any other is given up after a part of the images where it is clearly worse than a
    schedule that costs no more.

    Args:
        model: a FATR model in evaluation mode, which is left as it was. Loaded with ``reweight_attention=False`` and
            ``dc_position_embeddings=False`` it can have every schedule; see ``default_space`` for others.
        data: see ``images.batches``; held in memory.
        space: what may be tried; by default ``default_space(model.config)``.
        objective: one of ``OBJECTIVES``; a latency is that of the first ``batch_size`` images on the model's device.
        quality: one of ``quality.QUALITIES``; by default accuracy where images have a class of the model, else the
            cosine. Only images that have a class are judged by accuracy.
        trials: how many to finish in all, those given up and earlier ones of the study included.
        seed: of the sampler.
        batch_size: images at a time.
        study: SQLite file in which the search is kept and goes on, by one process at a time; None keeps it nowhere.
        on_trial: called for every finished trial, earlier ones included.

    Raises:
        ImportError: optuna is not installed.
        ValueError: a choice that is not possible, a space without a schedule that can be carried out, a file that is no
            study, or the study of another search.
    """
    check_choices(model, objective, quality)
    check_integer("trials", trials, least=1)
    if not callable(on_trial):
        raise ValueError(f"on_trial={on_trial!r} must be a function.")
    space = default_space(model.config) if space is None else space
    check_kind("space", space, SearchSpace, "a SearchSpace, such as default_space(model.config)")
    space.check_possible(model.config)
    examples = load_examples(model, data, batch_size, quality)
    task = Task(model, examples, space, objective, seed, known_trials(space, model.config))
    directions = ["minimize", "maximize" if task.sign > 0 else "minimize"]
    with open_study(study, directions, fingerprint(task)) as opened:
        tried = [read_tried(trial) for trial in finished_trials(opened) if trial.values]
        for _ in finished_trials(opened):
            on_trial()
        while len(finished_trials(opened)) < trials:
            tried += run_trial(opened, task, tried)
            on_trial()
        return collect(opened, task)


def check_choices(model: ReductionModel, objective: str, quality: str | None) -> None:
    """Raises a ValueError for an unknown choice, or a model that cannot be searched."""
    check_fatr(model, "searched")
    check_takes_images(model.config, "searched")
    check_traceable(model)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r} must be one of {', '.join(OBJECTIVES)}.")
    check_quality(model, quality)


def known_trials(space: SearchSpace, config: ReductionConfig) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Names and parameters of the known schedules that are in a space."""
    named = ((name, space.parameters(schedule, config)) for name, schedule in known_schedules(config).items())
    return tuple((name, parameters) for name, parameters in named if parameters is not None)


def fingerprint(task: Task) -> dict[str, Any]:
    """What all trials of a study must have in common."""
    config = task.model.config
    own = {*REDUCTION_FIELDS, "architectures", "auto_map"}
    stock = {name: value for name, value in config.to_dict().items() if name not in own}
    architecture = json.dumps([stock, config.selection], sort_keys=True)
    weights = (part for item in task.model.state_dict().items() for part in item)
    labels = [part.labels for part in task.examples.parts if part.labels is not None]
    images = [part.pixel_values for part in task.examples.parts]
    common = {
        "model": digest([architecture, *weights]),
        "images": digest(torch.cat(tensors) for tensors in (images, labels) if tensors),
        "batch size": len(task.examples.parts[0].pixel_values),
        "objective": task.objective,
        "quality": task.examples.quality,
        "space": task.space.to_dict(),
        "seed": task.seed,
    }
    if task.objective == "latency":
        common["device"] = f"{task.model.device}, {task.model.dtype}, {torch.get_num_threads()} threads"
    return common


def run_trial(study: Any, task: Task, tried: Sequence[Tried]) -> list[Tried]:
    """Draws a schedule, tries it and tells the study; gives it back if it was tried to the end."""
    states = import_optuna().trial.TrialState
    trial = ask(study, task.seed, task.known)
    schedule = task.space.sample(trial, task.model.config)
    trial.set_user_attr("schedule", schedule.fields)
    known = [each for each in tried if each.schedule == schedule]
    result = known[0] if known else try_schedule(task, schedule, [] if "name" in trial.user_attrs else tried)
    if isinstance(result, str):
        trial.set_user_attr("reason", result)
        study.tell(trial, state=states.PRUNED)
        return []
    trial.set_user_attr("image_qualities", result.qualities.tolist())
    study.tell(trial, (result.cost, result.qualities.double().mean().item()))
    return [result]


def try_schedule(task: Task, schedule: Schedule, rivals: Sequence[Tried]) -> Tried | str:
    """Tries a schedule on all images, or gives it up and says why.

    Args:
        rivals: where one of them costs no more and is clearly better on the images so far, it is given up.
    """
    least, most = task.space.macs_range
    cost = schedule.macs_share(task.model.config)
    if not least <= cost <= most:
        return f"Its multiply-accumulates, {cost:.3f} of the unreduced model's, are not within {least:g} and {most:g}."
    plan = schedule.plan(task.model.config)
    if task.objective == "latency":
        cost = relative_latency(task.model, plan, task.examples.parts[0].pixel_values)
    cheaper = [each.qualities for each in rivals if each.cost <= cost]
    seen = torch.empty(0)
    for values in part_qualities(task.model, task.examples, plan):
        seen = torch.cat([seen, values])
        if len(seen) < task.examples.count and clearly_worse(seen, cheaper, task.sign):
            return f"On {len(seen)} of {task.examples.count} images clearly worse than one that costs no more."
    if not seen.isfinite().all():
        return "Its outputs are not finite."
    return Tried(schedule, cost, seen)


def clearly_worse(qualities: Tensor, others: Sequence[Tensor], sign: int) -> bool:
    """Whether one of several others is better on the same images by more than ``MARGIN`` standard errors.

    Args:
        qualities: (images,), of the first images; fewer than ``FEWEST_IMAGES`` tell nothing.
        others: (all images,) each.
        sign: 1 where higher qualities are better, -1 where lower ones are.
    """
    images = len(qualities)
    if images < FEWEST_IMAGES or not others:
        return False
    differences = sign * (torch.stack([each[:images] for each in others]) - qualities).double()
    errors = differences.std(dim=1) / images**0.5
    return bool((differences.mean(dim=1) > MARGIN * errors).any())


def read_tried(trial: Any) -> Tried:
    """What an earlier process tried to the end."""
    schedule = Schedule.from_fields(trial.user_attrs["schedule"])
    return Tried(schedule, trial.values[0], torch.tensor(trial.user_attrs["image_qualities"]))


def collect(study: Any, task: Task) -> SearchResult:
    """All finished trials of a study."""
    trials, pruned = [], []
    for trial in finished_trials(study):
        schedule = Schedule.from_fields(trial.user_attrs["schedule"])
        if trial.values:
            macs = schedule.macs(task.model.config)
            cost, quality = trial.values
            trials.append(Trial(trial.number, schedule, macs, cost, quality, trial.user_attrs.get("name")))
        else:
            pruned.append(PrunedTrial(trial.number, schedule, trial.user_attrs["reason"]))
    return SearchResult(
        task.objective,
        task.examples.quality,
        len(task.examples.judged),
        task.examples.labelled,
        Schedule().macs(task.model.config),
        unreduced_quality(task.model, task.examples),
        tuple(trials),
        tuple(pruned),
    )
