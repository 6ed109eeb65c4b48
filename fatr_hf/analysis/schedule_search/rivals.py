"""ToMe, EViT, random selection and pooling beside searched schedules: reference points, and a check on other images."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ...baselines.arguments import check_kind, several
from ...baselines.macs import plan_macs
from ...baselines.matched import matched_plan
from ...baselines.rival import unreduced_copy
from ...modeling.reduction_config import ReductionConfig
from ...modeling.reduction_model import ReductionModel
from ..outputs import resampled_interval
from ..schedule import Schedule
from .known_schedules import default_layers, spread
from .quality import (
    LOWER_IS_BETTER,
    image_qualities,
    load_examples,
    relative_latency,
)
from .search import check_choices
from .space import has_own_parameters

RIVALS = ("tome", "evit", "random", "pooling")
"""As ``baselines.matched_rivals`` names them."""

RIVAL_RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


class RivalPoint(NamedTuple):
    """A rival's cost and quality."""

    name: str
    cost: float
    """Multiply-accumulates or latency, as a share of the unreduced model's."""
    quality: float


@dataclass(frozen=True)
class ScheduleCheck:
    """A schedule beside a rival of about the same multiply-accumulates, on the same images."""

    rival: str
    quality: str
    images: int
    """How many the data hold."""
    labelled: int
    """How many of them have a class of the model; an accuracy is over these."""
    groups: int
    macs_share: float
    """The schedule's multiply-accumulates, as a share of the unreduced model's."""
    rival_macs_share: float
    schedule_quality: float
    rival_quality: float
    better_share: float
    """Share of the images on which the schedule is better; on some both may be equal."""
    worse_share: float
    difference: float
    """Mean of the schedule's quality minus the rival's."""
    interval: tuple[float, float]
    """Its 95% interval, by resampling the groups of images."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def rival_points(
    model: ReductionModel,
    data: Any,
    objective: str = "macs",
    quality: str | None = None,
    batch_size: int = 32,
    names: Iterable[str] = RIVALS,
) -> tuple[RivalPoint, ...]:
    """Cost and quality of rivals with the model's weights, at the costs of FATR with ``RIVAL_RATIOS``.

    Args:
        model, data, objective, quality, batch_size: see ``search.search_schedules``.
        names: of ``RIVALS``.

    Raises:
        ValueError: see ``search_schedules``.
    """
    check_choices(model, objective, quality)
    names = check_rivals(names)
    examples = load_examples(model, data, batch_size, quality)
    points = []
    rival = unreduced_copy(model)
    for schedule in rival_schedules(model.config):
        for name in names:
            plan = matched_plan(rival, name, schedule.applied_to(rival.config))
            if objective == "latency":
                cost = relative_latency(rival, plan, examples.parts[0].pixel_values)
            else:
                cost = plan_macs(rival, plan) / Schedule().macs(model.config)
            points.append(RivalPoint(name, cost, image_qualities(rival, examples, plan).mean().item()))
    return tuple(points)


def check_rivals(names: Iterable[str]) -> tuple[str, ...]:
    """The names of rivals as a tuple.

    Raises:
        ValueError: a name that is not one of ``RIVALS``, or given twice.
    """
    chosen = several("names", names)
    for name in chosen:
        if name not in RIVALS:
            raise ValueError(f"Unknown rival {name!r}: choose from {', '.join(RIVALS)}.")
    return chosen


def rival_schedules(config: ReductionConfig) -> list[Schedule]:
    """What gives rivals their costs: each of ``RIVAL_RATIOS`` in the paper's layers, or in those with parameters."""
    own = Schedule.of(config)
    layers, windows = (
        (own.reduction_layers, own.dc_windows) if has_own_parameters(config) else (default_layers(config), (1,))
    )
    schedules = [spread(layers, ratio, windows) for ratio in RIVAL_RATIOS]
    return [schedule for schedule in schedules if schedule.is_possible(config)]


def check_schedule(
    model: ReductionModel,
    schedule: Schedule,
    data: Any,
    groups: Sequence[str] | None = None,
    quality: str | None = None,
    batch_size: int = 32,
    rival: str = "tome",
) -> ScheduleCheck:
    """Compares a schedule with a rival on images that the search has not seen.

    Args:
        model, data, quality, batch_size: see ``search.search_schedules``.
        schedule: what is checked.
        groups: for each image what it is from, say a photograph: images of one group are resampled together. By default
            each image is a group.
        rival: one of ``RIVALS``.

    Raises:
        ValueError: see ``search_schedules``; what is no schedule, or one that reduces nothing; an unknown rival; a
            number of groups that is not that of the images.
    """
    check_choices(model, "macs", quality)
    check_kind("schedule", schedule, Schedule, "a Schedule, such as result.best_at(0.65).schedule")
    check_rivals([rival])
    if isinstance(groups, str):
        raise ValueError(f"groups={groups!r} must be a list of names, one for each image.")
    examples = load_examples(model, data, batch_size, quality)
    quality, images = examples.quality, len(examples.judged)
    given = [str(image) for image in range(images)] if groups is None else list(groups)
    if len(given) != images:
        raise ValueError(f"groups holds {len(given)} names for {images} images: give one for each.")
    names = [name for name, judged in zip(given, examples.judged.tolist(), strict=True) if judged]
    other = unreduced_copy(model)
    plan = matched_plan(other, rival, schedule.applied_to(other.config))
    values = image_qualities(model, examples, schedule.plan(model.config))
    rival_values = image_qualities(other, examples, plan)
    gains = (rival_values - values) if quality in LOWER_IS_BETTER else (values - rival_values)
    return ScheduleCheck(
        rival=rival,
        quality=quality,
        images=images,
        labelled=examples.labelled,
        groups=len(set(names)),
        macs_share=schedule.macs_share(model.config),
        rival_macs_share=plan_macs(other, plan) / Schedule().macs(model.config),
        schedule_quality=values.mean().item(),
        rival_quality=rival_values.mean().item(),
        better_share=(gains > 0).double().mean().item(),
        worse_share=(gains < 0).double().mean().item(),
        difference=(values - rival_values).mean().item(),
        interval=resampled_interval(values - rival_values, names),
    )
