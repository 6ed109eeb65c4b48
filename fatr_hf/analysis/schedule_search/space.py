"""The reduction schedules that a search may try.

A sample is a cost to aim at, a chain of windows, and for every place where the model may reduce a wish: which share of
the patch tokens to remove. It becomes a schedule that can be carried out at about that cost:

- All keep ratios are raised to one power, chosen for the cost; a wish of 30% stays about three times one of 10%.
- Windows go through a chain in which each divides the one before, so that they nest; the sample says where it goes on.
- A reduction that would not shorten the sequence is left out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

from ...baselines.arguments import check_integer, check_kind, is_integer, is_number, several
from ...modeling.reduction_config import ReductionConfig
from ..schedule import Schedule
from .known_schedules import scaled_ranges
from .study import import_optuna

LEAST_REMOVED, MOST_REMOVED = 0.02, 0.9
"""Shares of the patch tokens at hand that one reduction removes."""

ORDINARY = 0.0005
"""The smallest wish. Wishes are drawn by their logarithm, so that small ones are as frequent as large ones; those below
``LEAST_REMOVED``, about half of all, leave a layer an ordinary one."""

STRONGEST_POWER = 16.0
POWERS_TRIED = 12
COST_TOLERANCE = 0.005
"""How close a sample comes to the cost that it aims at, as a share of the unreduced model's, if it can."""

LONGEST_CHAIN = 3


class Slot(NamedTuple):
    """A range of layers of which one may reduce."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """What its parameters are called by in a study."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Wish(NamedTuple):
    """What a sample wants of a slot."""

    layer: int
    removed: float
    windows: int


@dataclass(frozen=True)
class SearchSpace:
    """The schedules that a search may try.

    Args:
        slots: in rising order; each reduces once or not at all.
        windows: along each side of the grid, to choose from; or, with ``fixed_windows``, those of each slot.
        max_layers: so many slots reduce at most, those that wish for the largest shares.
        macs_range: the least and the most multiply-accumulates, as shares of the unreduced model's.
        token_multiples: values of ``token_multiple``.
        size_exponents: values of ``size_exponent``.
        fixed_windows: whether every slot has windows of its own.

    Raises:
        ValueError: an empty choice, slots that overlap, or a value out of range.
    """

    slots: tuple[Slot, ...]
    windows: tuple[int, ...]
    max_layers: int
    macs_range: tuple[float, ...] = (0.3, 0.95)
    token_multiples: tuple[int, ...] = (1,)
    size_exponents: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    fixed_windows: bool = False

    def __post_init__(self) -> None:
        for name in ("slots", "windows", "token_multiples", "size_exponents"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one value to choose from.")
            if name != "windows" or not self.fixed_windows:
                several(name, getattr(self, name))
        for slot in self.slots:
            check_kind("a slot", slot, Slot, "a Slot")
        numbers = (*self.windows, *self.token_multiples, self.max_layers)
        overlap = any(before.last >= after.first for before, after in pairwise(self.slots))
        if overlap or any(slot.first > slot.last for slot in self.slots):
            raise ValueError(f"slots {', '.join(slot.name for slot in self.slots)} must rise and not overlap.")
        # A model's own windows may be none: it drops tokens, or folds them by likeness.
        least = 0 if self.fixed_windows else 1
        if not all(map(is_integer, numbers)) or min(self.windows) < least or min(numbers[len(self.windows) :]) < 1:
            raise ValueError(
                f"windows={list(self.windows)}, token_multiples={list(self.token_multiples)} and max_layers="
                f"{self.max_layers} must be integers of at least 1."
            )
        shares = self.macs_range
        if len(shares) != 2 or not all(map(is_number, shares)) or not 0 < shares[0] < shares[1] < 1:
            raise ValueError(f"macs_range={list(self.macs_range)} must be two rising numbers between 0 and 1.")
        if not all(is_number(exponent) and 0 <= exponent <= 1 for exponent in self.size_exponents):
            raise ValueError(f"size_exponents={list(self.size_exponents)} must lie in [0, 1].")

    def sample(self, trial: Any, config: ReductionConfig) -> Schedule:
        """The schedule that an optuna trial draws."""
        target = trial.suggest_float("macs_share", *self.macs_range)
        multiple = trial.suggest_categorical("token_multiple", self.token_multiples)
        exponent = trial.suggest_categorical("size_exponent", self.size_exponents)
        wishes = [
            Wish(
                trial.suggest_int(f"layer_{slot.name}", slot.first, slot.last),
                trial.suggest_float(f"removed_{slot.name}", ORDINARY, MOST_REMOVED, log=True),
                windows,
            )
            for slot, windows in zip(self.slots, self.sample_windows(trial), strict=True)
        ]
        largest = sorted(wishes, key=lambda wish: -wish.removed)[: self.max_layers]
        chosen = [wish for wish in wishes if wish in largest and wish.removed >= LEAST_REMOVED]
        start = Schedule(token_multiple=multiple, size_exponent=exponent)
        return aim(target, lambda power: combine(chosen, power, start, config), config)

    def sample_windows(self, trial: Any) -> Sequence[int]:
        """The windows of each slot: the chain that a trial draws, which goes on at the slots that it draws."""
        if self.fixed_windows:
            return self.windows
        chains = window_chains(self.windows)
        chain = chains[trial.suggest_categorical("windows", list(chains))]
        turns = [trial.suggest_int(f"turn_{turn}", 0, len(self.slots)) for turn in range(1, LONGEST_CHAIN)]
        return [chain[min(sum(turn <= slot for turn in turns), len(chain) - 1)] for slot in range(len(self.slots))]

    def parameters(self, schedule: Schedule, config: ReductionConfig) -> dict[str, Any] | None:
        """The values for which an optuna trial draws a schedule, or None where it is not in this space."""
        steps = zip(schedule.keep_ratio, schedule.dc_windows, strict=True)
        left = dict(zip(schedule.reduction_layers, steps, strict=True))
        values: dict[str, Any] = {
            "macs_share": schedule.macs_share(config),
            "token_multiple": schedule.token_multiple,
            "size_exponent": schedule.size_exponent,
        }
        turns: dict[int, int] = {}
        for place, slot in enumerate(self.slots):
            layer = next((layer for layer in left if slot.first <= layer <= slot.last), None)
            keep_ratio, windows = (1 - ORDINARY, None) if layer is None else left[layer]
            values[f"layer_{slot.name}"] = slot.first if layer is None else layer
            values[f"removed_{slot.name}"] = round(1 - keep_ratio, 4)
            if windows is not None:
                turns.setdefault(windows, place)
        values["windows"] = chain_name(turns)
        for turn in range(1, LONGEST_CHAIN):
            values[f"turn_{turn}"] = [*turns.values(), *[len(self.slots)] * LONGEST_CHAIN][turn]
        if not self.macs_range[0] <= values["macs_share"] <= self.macs_range[1]:
            return None
        try:
            drawn = self.sample(import_optuna().trial.FixedTrial(values), config)
        except ValueError:
            return None
        return values if drawn == schedule else None

    def check_possible(self, config: ReductionConfig) -> None:
        """Raises a ValueError where no schedule of this space can be carried out.

        A schedule of several reductions begins with one that is possible on its own, so single ones tell.
        """
        if self.slots[-1].last >= config.num_hidden_layers:
            raise ValueError(
                f"slots reach layer {self.slots[-1].last}, and the model's layers are 0 to "
                f"{config.num_hidden_layers - 1}."
            )
        single = (
            Schedule((0,), (1 - percent / 100,), (windows,), multiple)
            for windows in self.windows
            for multiple in self.token_multiples
            for percent in range(round(100 * MOST_REMOVED), round(100 * LEAST_REMOVED) - 1, -1)
        )
        if not any(schedule.is_possible(config) for schedule in single):
            rows, columns = config.patch_grid()
            raise ValueError(
                f"No schedule of this search can be carried out on {rows} x {columns} patches: with windows="
                f"{list(self.windows)} and token_multiples={list(self.token_multiples)} no reduction shortens the "
                "sequence. Allow fewer windows or smaller multiples."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"slots": [slot._asdict() for slot in self.slots]}


def window_chains(windows: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """All chains of up to ``LONGEST_CHAIN`` windows in which each divides the one before, by their names."""
    chains: list[tuple[int, ...]] = [(each,) for each in windows]
    for chain in chains:
        if len(chain) < LONGEST_CHAIN:
            chains += [(*chain, each) for each in windows if each < chain[-1] and chain[-1] % each == 0]
    return {chain_name(chain): chain for chain in chains}


def chain_name(windows: Iterable[int]) -> str:
    """What a chain is called in a study, such as 4/2/1."""
    return "/".join(str(each) for each in windows)


def combine(wishes: Iterable[Wish], power: float, start: Schedule, config: ReductionConfig) -> Schedule:
    """The schedule of wishes in the order of their layers; what cannot be carried out after the others is left out.

    Args:
        wishes: what is wanted of layers.
        power: to which keep ratios are raised; above 1 more is removed than wished.
        start: without reductions.
        config: of the model that is to carry it out.
    """
    schedule = start
    for wish in wishes:
        keep_ratio = max(1 - MOST_REMOVED, (1 - wish.removed) ** power)
        longer = schedule._replace(
            reduction_layers=(*schedule.reduction_layers, wish.layer),
            keep_ratio=(*schedule.keep_ratio, round(keep_ratio, 2)),
            dc_windows=(*schedule.dc_windows, wish.windows),
        )
        if longer.keep_ratio[-1] <= 1 - LEAST_REMOVED and longer.is_possible(config):
            schedule = longer
    return schedule


def aim(target: float, build: Callable[[float], Schedule], config: ReductionConfig) -> Schedule:
    """The schedule of the power at which it costs what is aimed at, searched by halves from the power 1.

    Args:
        target: multiply-accumulates, as a share of the unreduced model's.
        build: the schedule of a power.
        config: of the model that is to carry it out.
    """
    low, high, schedule = 1 / STRONGEST_POWER, STRONGEST_POWER, Schedule()
    for _ in range(POWERS_TRIED):
        power = sqrt(low * high)
        schedule = build(power)
        excess = schedule.macs_share(config) - target
        if abs(excess) <= COST_TOLERANCE:
            break
        low, high = (power, high) if excess > 0 else (low, power)
    return schedule


def has_own_parameters(config: ReductionConfig) -> bool:
    """Whether a model has parameters that belong to its schedule: omegas or DC position embeddings."""
    return config.reweight_attention or config.dc_position_embeddings


def default_space(
    config: ReductionConfig,
    *,
    max_layers: int | None = None,
    one_per_range: bool = False,
    windows: Iterable[int] | None = None,
    macs_range: Iterable[float] = (0.3, 0.95),
    token_multiples: Iterable[int] = (1,),
    size_exponents: Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> SearchSpace:
    """The space that suits a model.

    All layers but the last may reduce: a reduction there saves work that a fused classifier never does. A model with
    omegas or DC position embeddings is searched within the layers and windows that these belong to.

    Args:
        config: the model's.
        max_layers: the most layers that reduce; all by default.
        one_per_range: one layer may reduce in each of the ranges of the paper's search, scaled to the depth.
        windows: windows along each side of the grid; by default 1, 2, 4 and half of the grid's shorter side.
        macs_range, token_multiples, size_exponents: see ``SearchSpace``.

    Raises:
        ValueError: a choice that is not possible, or a model that is to be searched beyond its own parameters.
    """
    check_kind("config", config, ReductionConfig, "a FATR model's configuration, such as model.config")
    if windows is not None:
        windows = several("windows", windows)
        for each in windows:
            check_integer("windows", each, least=1)
    if config.fold == "similar" and not has_own_parameters(config):
        raise ValueError(
            "fold='similar' has no windows to search: give fold='windows', or a model with omegas of its own, which is "
            "searched within its own layers."
        )
    if has_own_parameters(config):
        if one_per_range or windows is not None:
            raise ValueError(
                "A model with omegas or DC position embeddings is searched within its own layers and windows. Load the "
                "unreduced checkpoint with reweight_attention=False and dc_position_embeddings=False to search others."
            )
        own = Schedule.of(config)
        slots, choices = [Slot(layer, layer) for layer in own.reduction_layers], own.dc_windows
    else:
        side, last = min(config.patch_grid()), config.num_hidden_layers - 2
        usual = {each for each in (1, 2, 4, side // 2) if 1 <= each <= side}
        choices = tuple(sorted(usual if windows is None else windows))
        ranges = scaled_ranges(config) if one_per_range else [(layer, layer) for layer in range(last + 1)]
        slots = [Slot(*each) for each in ranges]
    return SearchSpace(
        slots=tuple(slots),
        windows=choices,
        max_layers=len(slots) if max_layers is None else max_layers,
        macs_range=several("macs_range", macs_range),
        token_multiples=several("token_multiples", token_multiples),
        size_exponents=several("size_exponents", size_exponents),
        fixed_windows=has_own_parameters(config),
    )
