"""Rivals of a model: the same weights, reduced in other ways at about the same cost."""

import copy
import math
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from ..modeling.budget import schedule_macs
from ..modeling.reduction_config import REDUCTION_FIELDS, ReductionConfig
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import LayerPlan
from .arguments import check_fatr, several
from .evit import EViT
from .macs import closest, count_twin, meta_twin
from .mctf import MCTF
from .methods import Method
from .pitome import PiToMe
from .pooling import Pooling
from .prune_merge import PruneMerge
from .rival import METHODS, Rival, unreduced_copy
from .tome import ToMe
from .truncation import Truncation
from .zero_tprune import ZeroTPrune

RIVALS = ("unreduced", "random", *METHODS)
"""The names that ``matched_rivals`` takes."""

RatioMethod = PiToMe | PruneMerge | ZeroTPrune
"""Methods with one keep ratio for all of their layers."""

OWN_FIELDS = ("reweight_attention", "dc_position_embeddings")
"""Fields of the reduction's own parameters, which rivals do not have."""

USUAL = ("unreduced", "random", "evit", "tome", "pitome", "pooling")
"""Those of them that answer a question about the answers; truncation bounds the speed alone."""


def matched_rivals(model: ReductionModel, names: Iterable[str] | None = None) -> dict[str, PreTrainedModel]:
    """The unreduced model, and rivals at about the cost of a FATR model, all with its weights, in evaluation mode.

    ``unreduced`` and ``random`` are copies without parameters of the reduction: one does not reduce, the other keeps
    tokens at random. EViT and average pooling reduce in the same layers with the same keep ratios; truncation has
    FATR's token counts; all others reduce in layers of their own, most of them in nearly every layer, by as much as
    brings their multiply-accumulates closest to FATR's.
    Rivals hold copies of the weights, so that the model stays as it is whatever becomes of them.

    Args:
        model: a FATR classifier or encoder.
        names: of ``RIVALS``; by default ``rival_names`` of the model's configuration.

    Raises:
        ValueError: an unknown name or one that is given twice; what is no FATR model; EViT of a model without CLS;
            rivals other than ``unreduced`` of a model that reduces nothing.
    """
    check_fatr(model, "given rivals")
    names = rival_names(model.config) if names is None else several("names", names)
    for name in names:
        check_rival(name, model.config)
    return {name: build_rival(model, name) for name in names}


def rival_names(config: ReductionConfig) -> tuple[str, ...]:
    """The ``USUAL`` rivals that there are of a model with this configuration."""
    return tuple(name for name in USUAL if name != "evit" or config.num_prefix_tokens)


def check_rival(name: str, config: ReductionConfig) -> None:
    """Raises a ValueError for an unknown rival, or a configuration that reduces nothing."""
    if name not in RIVALS:
        raise ValueError(f"Unknown rival {name!r}: choose from {', '.join(RIVALS)}.")
    if name != "unreduced" and not any(step.reduces for step in config.plan()):
        raise ValueError(
            f"reduction_layers={config.reduction_layers} with keep_ratio={config.keep_ratio} reduces nothing, so the "
            f"rival {name!r} would reduce nothing either: give a layer that reduces and a keep ratio below 1."
        )


def build_rival(model: ReductionModel, name: str) -> PreTrainedModel:
    """One of ``matched_rivals``."""
    check_fatr(model, "given rivals")
    check_rival(name, model.config)
    if name == "unreduced":
        return unreduced_copy(model)
    if name == "random":
        return random_copy(model)
    return Rival.of(model, matched_method(model, name, model.config))


def random_copy(model: ReductionModel) -> PreTrainedModel:
    """The model's copy with a random selection and without parameters of the reduction."""
    config = model.config
    schedule = copy.deepcopy({name: getattr(config, name) for name in REDUCTION_FIELDS if name not in OWN_FIELDS})
    rival = unreduced_copy(model)
    rival.set_reduction(**{**schedule, "selection": "random"})
    return rival


def matched_plan(model: ReductionModel, name: str, config: ReductionConfig) -> list[LayerPlan]:
    """The plan by which ``unreduced_copy(model)`` is one of ``RIVALS``, at about the cost of a configuration.

    Raises:
        ValueError: an unknown rival, or a configuration that reduces nothing.
    """
    check_rival(name, config)
    if name == "unreduced":
        return config.plan(reduce=False)
    if name == "random":
        return [step._replace(selection="random") for step in config.plan()]
    return matched_method(model, name, config).plan(config)


def matched_method(model: ReductionModel, name: str, config: ReductionConfig) -> Method:
    """A method of ``METHODS`` at about the cost of a configuration, which is the model's but for the reduction."""
    by_merges: dict[str, type[ToMe | MCTF]] = {"tome": ToMe, "mctf": MCTF}
    if name in by_merges:
        merges = matched_merges(model, schedule_macs(config), by_merges[name])
        return by_merges[name](merges_per_layer=merges)
    by_ratio: dict[str, type[RatioMethod]] = {"pitome": PiToMe, "prune_merge": PruneMerge, "zero_tprune": ZeroTPrune}
    if name in by_ratio:
        return matched_ratio(model, by_ratio[name], schedule_macs(config))
    if name == "truncation":
        return Truncation(tokens_out=[step.tokens_out for step in config.plan()])
    layerwise: dict[str, type[EViT | Pooling]] = {"evit": EViT, "pooling": Pooling}
    ratios: Any = config.keep_ratio
    return layerwise[name](reduction_layers=config.reduction_layers, keep_ratio=ratios)


def matched_ratio(model: ReductionModel, method: type[RatioMethod], macs: int) -> Method:
    """A method with the keep ratio, in thousandths, whose multiply-accumulates are closest to a number of them.

    Args:
        model: any FATR model; its weights are not looked at.
    """
    twin = meta_twin(model)

    def cost(reduced: int) -> int:
        plan = method(keep_ratio=1 - reduced / 1000).plan(model.config)
        return count_twin(twin, plan=[step._replace(size_exponent=0.0) for step in plan])

    return method(keep_ratio=1 - closest(range(501), cost, macs) / 1000)


def matched_merges(model: ReductionModel, macs: int, method: type[ToMe | MCTF] = ToMe) -> int:
    """The merges in each of a method's layers for which its multiply-accumulates are closest to a number of them.

    Args:
        model: any FATR model; its weights are not looked at.
    """
    twin = meta_twin(model)
    patches = math.prod(model.config.patch_grid())

    def cost(merges: int) -> int:
        merging = method(merges_per_layer=merges, proportional_attention=False)
        return count_twin(twin, plan=merging.plan(model.config))

    return closest(range(patches // 2 + 1), cost, macs)
