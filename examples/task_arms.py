"""The arms that the programs for dense tasks and videos compare: FATR's presets and rivals at the same budgets."""

from collections.abc import Sequence
from typing import Any

from fatr_hf.baselines.matched import matched_plan
from fatr_hf.benchmark.frontier import HALF_BELOW, preset_within
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.presets import default_layers
from fatr_hf.modeling.reduction_model import ReductionModel

RIVALS = {"ToMe": "tome", "PiToMe": "pitome", "random selection": "random"}


def plans_of(twin: ReductionModel, budgets: Sequence[float]) -> dict[tuple[float, str], list[LayerPlan]]:
    """The plans of all arms by their budget and name; the first one does not reduce.

    Args:
        twin: a copy without reduction (``unreduced_copy``).
        budgets: shares of its multiply-accumulates, which the presets stay within and the rivals match.
    """
    config, depth = twin.config, twin.config.num_hidden_layers
    plans = {(1.0, "no reduction"): config.plan(reduce=False)}
    for budget in budgets:
        macs = budget * schedule_macs(config)
        for name, (preset, changes) in {
            "FATR, as published": ("paper", {}),
            **local_windows(config.patch_grid(), depth, budget),
            "FATR, `faithful`": ("faithful", {}),
            "FATR, `faithful_half`": ("faithful_half", {}),
        }.items():
            plans[budget, name] = preset_within(config, preset, macs, **changes).plan()
        matched = preset_within(config, "paper", macs)
        for name, rival in RIVALS.items():
            plans[budget, name] = matched_plan(twin, rival, matched)
    return plans


def local_windows(grid: Sequence[int], depth: int, budget: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """The preset ``local`` by its name, with larger windows where its own would cost more than the budget."""
    if budget >= HALF_BELOW:
        return {"FATR, `local`": ("local", {})}
    sides = [max(1, length // 4) for length in grid]
    windows = min(sides) if len(grid) == 2 else [sides] * len(default_layers(depth))
    return {"FATR, `local`, windows of 4 patches a side": ("local", {"dc_windows": windows})}
