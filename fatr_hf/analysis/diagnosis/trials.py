"""What if a model reduced in another way? Other selections, other windows, and one layer alone.

All trials run on a twin: the model's weights without the parameters of a reduction, which would fit one schedule only.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from ...modeling.presets import preset_fields
from ...modeling.reduction_config import ReductionConfig
from ..outputs import model_output
from ..schedule import Schedule

SELECTIONS = ("random", "low_frequency")
"""What a model's own selection is held against; random is one fixed draw of places."""

Key = tuple[str, int | None]
"""A measure's name, and a layer for one that is taken by layer."""


class Trial(NamedTuple):
    """A reduction that is tried."""

    key: Key
    """``as_it_is``, ``local`` or a selection; by layer ``alone`` or ``moved``, with ``_`` and a selection behind."""
    schedule: Schedule
    selection: str


def list_trials(config: ReductionConfig) -> tuple[Trial, ...]:
    """All trials of a model.

    ``as_it_is`` is its own reduction, ``random`` and ``low_frequency`` the same with another selection, ``local`` with
    other windows (see ``local_schedule``). ``alone`` is one of its reductions without the others, left out where that
    would not shorten the sequence; ``moved`` is its first one alone, put in any layer.

    Raises:
        ValueError: the model does not reduce.
    """
    schedule, local = Schedule.of(config), local_schedule(config)
    if not schedule.reduction_layers:
        raise ValueError(
            f"reduction_layers={config.reduction_layers} with keep_ratio={config.keep_ratio} reduces nothing, so there "
            "is nothing to diagnose: give a layer that reduces and a keep ratio below 1."
        )
    own, others = config.selection, [name for name in SELECTIONS if name != config.selection]
    trials = [Trial(("as_it_is", None), schedule, own)]
    trials += [Trial((name, None), schedule, name) for name in others]
    trials += [] if local is None else [Trial(("local", None), local, own)]
    lone = [(layer, single(schedule, place, layer)) for place, layer in enumerate(schedule.reduction_layers)]
    trials += [Trial(("alone", layer), each, own) for layer, each in lone if each.is_possible(config)]
    for layer in range(config.num_hidden_layers):
        moved = single(schedule, 0, layer)
        trials.append(Trial(("moved", layer), moved, own))
        trials += [Trial((f"moved_{name}", layer), moved, name) for name in others]
    return tuple(trials)


def single(schedule: Schedule, place: int, layer: int) -> Schedule:
    """One of a schedule's reductions, in some layer, and no other."""
    keep_ratio, windows = schedule.keep_ratio[place : place + 1], schedule.dc_windows[place : place + 1]
    return schedule._replace(reduction_layers=(layer,), keep_ratio=keep_ratio, dc_windows=windows)


def local_schedule(config: ReductionConfig) -> Schedule | None:
    """A model's reduction layers with windows and size exponent of the preset ``local``, at its cost or just below.

    The keep ratio, in hundredths and the same in all layers, is the highest that costs no more; None where there is
    none, or where the model has these windows already.
    """
    schedule, fields = Schedule.of(config), preset_fields("local", config.patch_grid(), config.num_hidden_layers)
    layers = len(schedule.reduction_layers)
    local = schedule._replace(dc_windows=(fields["dc_windows"],) * layers, size_exponent=fields["size_exponent"])
    if local == schedule:
        return None
    ratios = (percent / 100 for percent in range(99, 0, -1))
    candidates = (local._replace(keep_ratio=(ratio,) * layers) for ratio in ratios)
    budget = schedule.macs(config)
    return next((each for each in candidates if each.is_possible(config) and each.macs(config) <= budget), None)


def run_trials(twin: Any, trials: tuple[Trial, ...], pixel_values: Tensor, reference: Tensor) -> dict[Key, Tensor]:
    """How close the outputs of trials are to those of the unreduced model, for each image.

    Args:
        twin: the model without its reduction's parameters (see ``unreduced_copy``).
        trials: of ``list_trials``.
        pixel_values: (batch, channels, height, width).
        reference: (batch, features), the outputs of the unreduced model.

    Returns:
        (batch,) each: ``cosine_`` and a trial's name; ``gain_`` and a trial's name for how much higher its cosine is
        than that of ``as_it_is``, for trials of a whole schedule.
    """
    cosines = dict(trial_cosines(twin, trials, pixel_values, reference))
    own = cosines["as_it_is", None]
    measures: dict[Key, Tensor] = {(f"cosine_{name}", layer): cosine for (name, layer), cosine in cosines.items()}
    gains = {name: cosine - own for (name, layer), cosine in cosines.items() if layer is None and name != "as_it_is"}
    return measures | {(f"gain_{name}", None): gain for name, gain in gains.items()}


def trial_cosines(
    twin: Any, trials: tuple[Trial, ...], pixel_values: Tensor, reference: Tensor
) -> Iterator[tuple[Key, Tensor]]:
    """The cosine (batch,) to the reference, trial by trial."""
    for trial in trials:
        plan = [step._replace(selection=trial.selection) for step in trial.schedule.plan(twin.config)]
        yield trial.key, functional.cosine_similarity(model_output(twin, pixel_values, plan), reference, dim=1)
