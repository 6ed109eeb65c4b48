"""What the study compares: FATR, its ablations and its rivals, at equal multiply-accumulates."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from fatr_hf.baselines.macs import closest, count_twin, meta_twin
from fatr_hf.baselines.matched import matched_merges
from fatr_hf.baselines.rival import METHODS, Rival
from fatr_hf.benchmark.frontier import faithful_preset
from fatr_hf.hub.checkpoints import is_fatr, read_config
from fatr_hf.hub.load import check_family, load_reduced
from fatr_hf.modeling.budget import is_admissible, schedule_macs, with_keep_ratio
from fatr_hf.modeling.presets import preset_fields
from fatr_hf.modeling.reduction_config import REDUCTION_FIELDS, UNREDUCED, ReductionConfig
from fatr_hf.modeling.reduction_model import ReductionModel


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
        """The model, with the weights of an unreduced classifier, stock or ours."""
        if self.kind == "stock":
            stock: PreTrainedModel = AutoModelForImageClassification.from_pretrained(base)
            return stock
        unreduced, _ = load_reduced(str(base), **({} if is_fatr(read_config(base)) else UNREDUCED))
        if self.kind in METHODS:
            return Rival.of(unreduced, METHODS[self.kind](**self.fields))
        model = type(unreduced)(reduced_config(unreduced.config, self.fields))
        model.load_state_dict({**model.state_dict(), **unreduced.state_dict()})
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

WITHOUT_WINDOWS: dict[str, dict[str, Any]] = {
    "energy, similar": {"selection": "high_frequency_energy", "fold": "similar"},
}
"""In the paper's layers; what is not kept joins the kept token that is most like it."""

SELECTIONS = ("high_frequency", "random", "dc_similarity", "cls_attention", "low_frequency")


def unreduced_arm(config: PreTrainedConfig) -> Arm:
    """The model that the others start from and are compared with."""
    return make_arm(NO_REDUCTION, "stock", {}, config)


def tuned_arms(config: PreTrainedConfig, keep_ratio: float) -> list[Arm]:
    """The arms that are fine-tuned: FATR at a keep ratio and everything else at about its cost."""
    target = make_arm("FATR", "fatr", {"keep_ratio": keep_ratio}, config).macs
    arms = [make_arm(name, "fatr", {"keep_ratio": keep_ratio, **fields}, config) for name, fields in ABLATIONS.items()]
    arms += [local_arm(name, config, target, **fields) for name, fields in LOCAL.items()]
    return arms + arms_without_windows(config, target) + rival_arms(config, keep_ratio, target)


def arms_without_windows(config: PreTrainedConfig, target: int) -> list[Arm]:
    """``WITHOUT_WINDOWS`` and the preset ``faithful``, with the keep ratios that cost most nearly the same.

    A low target takes the layers of ``faithful_half``.
    """
    name = faithful_preset(target / unreduced_arm(config).macs)
    preset = preset_fields(name, patch_grid(config), config.num_hidden_layers)
    fields = {name: preset[name] for name in ("reduction_layers", "selection", "fold")}
    ratios = [number / 1000 for number in range(999, 199, -1)]
    arms = {**WITHOUT_WINDOWS, "faithful": fields}
    return [matched_arm(name, config, target, ratios, each) for name, each in arms.items()]


def rival_arms(config: PreTrainedConfig, keep_ratio: float, target: int) -> list[Arm]:
    """EViT and average pooling at the keep ratio, ToMe with the number of merges that costs most nearly the same."""
    merges = matched_merges(unreduced_on_meta(config.to_json_string()), target)
    return [
        make_arm("EViT", "evit", {"keep_ratio": keep_ratio}, config),
        make_arm("ToMe", "tome", {"merges_per_layer": merges}, config),
        make_arm("average pooling", "pooling", {"keep_ratio": keep_ratio}, config),
    ]


def off_the_shelf_arms(config: PreTrainedConfig, keep_ratio: float) -> list[Arm]:
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
    return arms + arms_without_windows(config, target) + rival_arms(config, keep_ratio, target)


def local_arm(name: str, config: PreTrainedConfig, target: int, **fields: Any) -> Arm:
    """An arm whose windows hold about 2 x 2 patches, with the keep ratio that costs most nearly the target."""
    windows = max(1, min(patch_grid(config)) // 2)
    ratios = [percent / 100 for percent in range(99, 4, -1)]
    return matched_arm(name, config, target, ratios, {"dc_windows": windows, **fields})


def matched_arm(
    name: str, config: PreTrainedConfig, target: int, ratios: Sequence[float], fields: dict[str, Any]
) -> Arm:
    """An arm with the one of several falling keep ratios that costs most nearly the target."""
    whole = reduced_config(config, {**fields, "keep_ratio": 1.0, "size_exponent": 0.0})
    admissible = [ratio for ratio in ratios if is_admissible(whole, ratio)]
    costs = [schedule_macs(with_keep_ratio(whole, ratio)) for ratio in admissible]
    chosen = closest(range(len(costs)), costs.__getitem__, target)
    return make_arm(name, "fatr", {"keep_ratio": admissible[chosen], **fields}, config)


def patch_grid(config: PreTrainedConfig) -> tuple[int, int]:
    """Rows and columns of patches."""
    rows, columns = reduced_config(config, UNREDUCED).patch_grid()
    return rows, columns


def reduced_config(config: PreTrainedConfig, fields: dict[str, Any]) -> ReductionConfig:
    """The configuration of an unreduced model, stock or ours, with a reduction.

    Raises:
        ValueError, huggingface_hub.errors.StrictDataclassError: a reduction that cannot be.
    """
    family = check_family(type(config).__name__, config.model_type)
    plain = {name: value for name, value in config.to_dict().items() if name not in REDUCTION_FIELDS}
    reduced: ReductionConfig = family.config.from_dict(plain, **fields)
    return reduced


def make_arm(name: str, kind: str, fields: dict[str, Any], config: PreTrainedConfig) -> Arm:
    """An arm with its cost."""
    return Arm(name, kind, fields, cost(kind, fields, config))


def cost(kind: str, fields: dict[str, Any], config: PreTrainedConfig) -> int:
    """Multiply-accumulates of a forward pass over one image. Sizes of tokens are sums, whatever computes them."""
    return cached_cost(kind, json.dumps(fields), config.to_json_string())


@cache
def cached_cost(kind: str, fields: str, config: str) -> int:
    """``cost``, counted once."""
    model, values = unreduced_on_meta(config), json.loads(fields)
    if kind in METHODS:
        plan = METHODS[kind](**values).plan(model.config)
    else:
        plan = reduced_config(config_of(config), UNREDUCED if kind == "stock" else values).plan()
    return count_twin(model, plan=[step._replace(size_exponent=0.0) for step in plan])


@cache
def unreduced_on_meta(config: str) -> ReductionModel:
    """The model of a configuration, as JSON, without data and without a reduction, under eager attention."""
    reduced = reduced_config(config_of(config), UNREDUCED)
    with torch.device("meta"):
        return meta_twin(check_family(config, reduced.model_type).classifier(reduced))


def config_of(text: str) -> PreTrainedConfig:
    """A configuration from its JSON."""
    fields = json.loads(text)
    config: PreTrainedConfig = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    return config
