"""Rivals of a model: the same weights, reduced in other ways at about the same cost."""

import copy
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

import torch
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification, ViTModel

from ..modeling.budget import schedule_macs
from ..modeling.configuration_fatr_vit import FATRViTConfig
from ..modeling.modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from ..modeling.reduction_config import REDUCTION_FIELDS, ReductionConfig
from ..modeling.reduction_model import ReductionModel
from .arguments import require_fatr, several
from .evit import EViTConfig, EViTForImageClassification, EViTModel
from .macs import closest, count_macs
from .pooling import PoolingConfig, PoolingForImageClassification, PoolingModel
from .tome import ToMeConfig, ToMeForImageClassification, ToMeModel

CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "unreduced": (ViTConfig, ViTModel, ViTForImageClassification),
    "random": (FATRViTConfig, FATRViTModel, FATRViTForImageClassification),
    "evit": (EViTConfig, EViTModel, EViTForImageClassification),
    "tome": (ToMeConfig, ToMeModel, ToMeForImageClassification),
    "pooling": (PoolingConfig, PoolingModel, PoolingForImageClassification),
}
"""Configuration, encoder and classifier of each rival, by the name that ``matched_rivals`` gives it."""

ON_EVERY_FAMILY = ("unreduced", "random")
"""The rivals that there are of every family; the others are of ViT alone."""

OWN_PARAMETERS = ("omega1", "omega2", "dc_position_embeddings")
"""Names of the parameters that FATR adds to ViT's."""


def matched_rivals(model: ReductionModel, names: Iterable[str] | None = None) -> dict[str, PreTrainedModel]:
    """The unreduced model, and rivals at about the cost of a FATR model, all with its weights, in evaluation mode.

    Of a ViT ``unreduced`` is transformers' model, of other families a copy that does not reduce. ``random`` is FATR
    with a random selection and without parameters of its own. EViT and average pooling reduce in the same layers with
    the same keep ratios; ToMe merges in every layer as many tokens as bring its multiply-accumulates closest to FATR's.
    Rivals hold copies of the weights, so that the model stays as it is whatever becomes of them.

    Args:
        model: a FATR classifier or encoder.
        names: of ``CLASSES``; by default all that there are of the model's family.

    Raises:
        ValueError: an unknown name or one that is given twice; what is no FATR model, or one with adapters or other
            weights than a ViT's; rivals other than ``unreduced`` of a model that reduces nothing.
    """
    require_fatr(model, "given rivals")
    names = rival_names(model.config) if names is None else several("names", names)
    for name in names:
        require_rival(model, name)
    return {name: build_rival(model, name) for name in names}


def rival_names(config: ReductionConfig) -> tuple[str, ...]:
    """The rivals that there are of a model with this configuration."""
    return tuple(CLASSES) if config.model_type == FATRViTConfig.model_type else ON_EVERY_FAMILY


def require_rival(model: ReductionModel, name: str) -> None:
    """Raises a ValueError for an unknown rival, or a model that has no such rival."""
    require_fatr(model, "given rivals")
    if name not in CLASSES:
        raise ValueError(f"Unknown rival {name!r}: choose from {', '.join(CLASSES)}.")
    config = model.config
    if name not in rival_names(config):
        raise ValueError(
            f"The rival {name!r} is one of a ViT, not of model type {config.model_type!r}, which has "
            f"{', '.join(ON_EVERY_FAMILY)}."
        )
    if name != "unreduced" and not any(tokens.reduces for tokens in config.plan()):
        raise ValueError(
            f"reduction_layers={config.reduction_layers} with keep_ratio={config.keep_ratio} reduces nothing, so the "
            f"rival {name!r} would reduce nothing either: give a layer that reduces and a keep ratio below 1."
        )


def build_rival(model: ReductionModel, name: str) -> PreTrainedModel:
    """One of ``matched_rivals``."""
    require_rival(model, name)
    if model.config.model_type != FATRViTConfig.model_type:
        return rival_of_family(model, name)
    config_class, encoder_class, classifier_class = CLASSES[name]
    # A copy, so that no list of the one configuration is in the other.
    config = config_class.from_dict(stock_fields(model.config), **copy.deepcopy(rival_fields(model.config, name)))
    config._attn_implementation = model.config._attn_implementation
    rival: Any
    # Nothing is drawn: the caller's random state stays as it is.
    with torch.device("meta"):
        if isinstance(model, FATRViTForImageClassification):
            rival = classifier_class(config)
        else:
            encoder: Any = model.base_model
            has_mask = encoder.embeddings.mask_token is not None
            rival = encoder_class(config, add_pooling_layer=encoder.pooler is not None, use_mask_token=has_mask)
    own = model.state_dict().items()
    weights = {key: value.detach().clone() for key, value in own if not key.endswith(OWN_PARAMETERS)}
    others = sorted(weights.keys() ^ rival.state_dict().keys())
    if others:
        raise ValueError(
            f"The model has other weights than a ViT's, such as {others[0]}: merge its adapters first; of a quantised "
            "model there are no rivals."
        )
    rival.load_state_dict(weights, assign=True)
    return rival.eval()


def rival_of_family(model: ReductionModel, name: str) -> PreTrainedModel:
    """The unreduced model, or the one with a random selection, of any family: a copy without parameters of its own."""
    rival = copy.deepcopy(model).eval()
    config, encoder = rival.config, cast(Any, rival.base_model)
    config.reweight_attention = config.dc_position_embeddings = False
    for layer in encoder.layers:
        layer.attention.omega1 = layer.attention.omega2 = layer.reduction.dc_position_embeddings = None
    if name == "random":
        config.selection = "random"
    else:
        config.keep_ratio = 1.0
    return rival


def stock_fields(config: ReductionConfig) -> dict[str, Any]:
    """The configuration of the unreduced ViT, as a dictionary."""
    own = (*REDUCTION_FIELDS, "measured_latencies", "architectures", "auto_map")
    kept = {name: value for name, value in config.to_dict().items() if name not in own}
    return kept | {"model_type": ViTConfig.model_type}


def rival_fields(config: ReductionConfig, name: str) -> dict[str, Any]:
    """The fields that a rival adds to stock ViT's."""
    layers = {"reduction_layers": config.reduction_layers, "keep_ratio": config.keep_ratio}
    if name in ("evit", "pooling"):
        return layers
    if name == "tome":
        return {"merges_per_layer": matched_merges(stock_fields(config), schedule_macs(config))}
    if name == "random":
        windows = {"dc_windows": config.dc_windows, "token_multiple": config.token_multiple}
        return (
            layers
            | windows
            | {
                "selection": "random",
                "dc_size_exponent": config.dc_size_exponent,
                "reweight_attention": False,
                "dc_position_embeddings": False,
            }
        )
    return {}


def matched_merges(stock: Mapping[str, Any], macs: int) -> int:
    """The merges in each of ToMe's layers for which its multiply-accumulates are closest to a number of them.

    Args:
        stock: the configuration of the unreduced ViT, as a dictionary.
    """
    return cached_merges(json.dumps(dict(stock), sort_keys=True), macs)


@lru_cache
def cached_merges(stock: str, macs: int) -> int:
    """``matched_merges``, found once; ``stock`` as JSON."""
    patches = ToMeConfig.from_dict(json.loads(stock)).num_input_tokens() - 1
    return closest(range(patches // 2 + 1), lambda merges: tome_macs(json.loads(stock), merges), macs)


def tome_macs(stock: Mapping[str, Any], merges: int) -> int:
    """ToMe's multiply-accumulates of an image, with so many merges in each layer."""
    config = ToMeConfig.from_dict(dict(stock), merges_per_layer=merges)
    with torch.device("meta"):
        return count_macs(ToMeForImageClassification(config))
