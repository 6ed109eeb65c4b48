"""What the study compares: FATR, its ablations and its rivals, at equal multiply-accumulates."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines.macs import closest, count_macs, plan_macs
from fatr_hf.baselines.matched import matched_merges
from fatr_hf.baselines.rival import METHODS, Rival
from fatr_hf.modeling.reduction_config import UNREDUCED


class Arm(NamedTuple):
    """One way to reduce."""

    name: str
    kind: str
    """``stock``, ``fatr`` or one of ``METHODS``."""
    fields: dict[str, Any]
    """Of FATR's configuration, or of the method."""
    macs: int
    """Multiply-accumulates of a forward pass over one image."""

    def build(self, base: Path) -> PreTrainedModel:
        """The model, with the weights of an unreduced checkpoint."""
        if self.kind == "stock":
            return ViTForImageClassification.from_pretrained(base)
        if self.kind in METHODS:
            unreduced = FATRViTForImageClassification.from_pretrained(base, **UNREDUCED)
            return Rival.of(unreduced, METHODS[self.kind](**self.fields))
        model: PreTrainedModel = FATRViTForImageClassification.from_pretrained(base, **self.fields)
        return model


NO_REDUCTION = "no reduction"

ABLATIONS: dict[str, dict[str, Any]] = {
    "FATR": {},
    "FATR without ω": {"reweight_attention": False},
    "FATR without DC tokens": {"dc_windows": 0},
    "FATR with w = 1": {"dc_windows": 1},
    "low-frequency tokens kept": {"selection": "low_frequency"},
    "similarity-to-DC selection": {"selection": "dc_similarity"},
    "random selection": {"selection": "random"},
}
"""The method and what is changed of it; token counts but for a few DC tokens are the same."""

LOCAL: dict[str, dict[str, Any]] = {
    "local windows": {"size_exponent": 0.5},
    "local windows, α = 1": {"size_exponent": 1.0},
    "local windows, random selection": {"size_exponent": 0.5, "selection": "random"},
}
"""Fewer tokens kept, many DC tokens that are attended to in proportion to their size."""

SELECTIONS = ("high_frequency", "random", "dc_similarity", "cls_attention", "low_frequency")


def unreduced_arm(config: ViTConfig) -> Arm:
    """The model that the others start from and are compared with."""
    return make_arm(NO_REDUCTION, "stock", {}, config)


def tuned_arms(config: ViTConfig, keep_ratio: float) -> list[Arm]:
    """The arms that are fine-tuned: FATR at a keep ratio and everything else at about its cost."""
    target = make_arm("FATR", "fatr", {"keep_ratio": keep_ratio}, config).macs
    arms = [make_arm(name, "fatr", {"keep_ratio": keep_ratio, **fields}, config) for name, fields in ABLATIONS.items()]
    arms += [local_arm(name, config, target, **fields) for name, fields in LOCAL.items()]
    return arms + rival_arms(config, keep_ratio, target)


def rival_arms(config: ViTConfig, keep_ratio: float, target: int) -> list[Arm]:
    """EViT and average pooling at the keep ratio, ToMe with the number of merges that costs most nearly the same."""
    merges = matched_merges(unreduced_on_meta(config.to_json_string()), target)
    return [
        make_arm("EViT", "evit", {"keep_ratio": keep_ratio}, config),
        make_arm("ToMe", "tome", {"merges_per_layer": merges}, config),
        make_arm("average pooling", "pooling", {"keep_ratio": keep_ratio}, config),
    ]


def off_the_shelf_arms(config: ViTConfig, keep_ratio: float) -> list[Arm]:
    """Selections, windows and size exponents for the table without training, all at FATR's cost at a keep ratio."""
    target = make_arm("FATR", "fatr", {"keep_ratio": keep_ratio}, config).macs
    arms = []
    for selection in SELECTIONS:
        is_method = selection == "high_frequency"
        for exponent in (0.0, 1.0) if is_method else (0.0,):
            fields = {"keep_ratio": keep_ratio, "selection": selection, "size_exponent": exponent}
            arms.append(make_arm(f"{selection}, w 2/1/1, α = {exponent:g}", "fatr", fields, config))
        for exponent in (0.0, 0.5, 1.0) if is_method else (0.5, 1.0):
            name = f"{selection}, local, α = {exponent:g}"
            arms.append(local_arm(name, config, target, selection=selection, size_exponent=exponent))
    return arms + rival_arms(config, keep_ratio, target)


def local_arm(name: str, config: ViTConfig, target: int, **fields: Any) -> Arm:
    """An arm whose windows hold about 2 x 2 patches, with the keep ratio that costs most nearly the target."""
    windows = max(1, min(patch_grid(config)) // 2)

    def with_ratio(percent: int) -> dict[str, Any]:
        return {"keep_ratio": percent / 100, "dc_windows": windows, **fields}

    ratios = [percent for percent in range(99, 4, -1) if is_admissible(config, with_ratio(percent))]
    chosen = closest(ratios, lambda percent: cost("fatr", with_ratio(percent), config), target)
    return make_arm(name, "fatr", with_ratio(chosen), config)


def patch_grid(config: ViTConfig) -> tuple[int, int]:
    """Rows and columns of patches."""
    grid: tuple[int, int] = FATRViTConfig.from_dict(config.to_dict(), keep_ratio=1.0).patch_grid()
    return grid


def is_admissible(config: ViTConfig, fields: dict[str, Any]) -> bool:
    """Whether FATR can carry out a schedule."""
    try:
        FATRViTConfig.from_dict(config.to_dict(), **fields)
    except (StrictDataclassError, ValueError):
        return False
    return True


def make_arm(name: str, kind: str, fields: dict[str, Any], config: ViTConfig) -> Arm:
    """An arm with its cost."""
    return Arm(name, kind, fields, cost(kind, fields, config))


def cost(kind: str, fields: dict[str, Any], config: ViTConfig) -> int:
    """Multiply-accumulates of a forward pass over one image. Sizes of DC tokens are sums, whatever computes them."""
    counted = {name: value for name, value in fields.items() if name not in ("size_exponent", "selection")}
    return cached_cost(kind, tuple(sorted(counted.items())), config.to_json_string())


@cache
def cached_cost(kind: str, fields: tuple[tuple[str, Any], ...], config: str) -> int:
    """``cost``, counted once."""
    if kind in METHODS:
        model = unreduced_on_meta(config)
        return plan_macs(model, METHODS[kind](**dict(fields)).plan(model.config))
    values = json.loads(config)
    with torch.device("meta"):
        if kind == "stock":
            return count_macs(ViTForImageClassification(ViTConfig.from_dict(values)))
        return count_macs(FATRViTForImageClassification(FATRViTConfig.from_dict(values, **dict(fields))))


@cache
def unreduced_on_meta(config: str) -> FATRViTForImageClassification:
    """The model of a configuration, as JSON, without data and without a reduction."""
    with torch.device("meta"):
        return FATRViTForImageClassification(FATRViTConfig.from_dict(json.loads(config), **UNREDUCED))
