"""The front door, ``fatr_hf.convert``: a stock model, loaded or by name, becomes its reduced counterpart."""

import inspect
import os
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..families import COMPOSITES, FAMILIES, family_of
from ..modeling.composite_config import CompositeConfig
from ..modeling.hub_repository import REDUCTION_PARAMETERS, HubRepositoryMixin
from ..modeling.reduction_config import REDUCTION_FIELDS
from ..modeling.reduction_model import ReductionEncoder
from ..modeling.stock_names import RENAMINGS
from .checkpoints import is_classifier, read_config
from .timm import load_timm, timm_fields

UNREDUCIBLE = {
    "its layers attend within windows of the whole grid of patches": (
        *("sam", "vitdet", "vitmatte", "got_ocr2", "rf_detr", "lw_detr", "qwen2_5_vl"),
    ),
    "its stages shrink the grid of patches by themselves": ("swin", "hiera", "pvt", "segformer"),
    "its attention over space and over time runs apart, each on the whole grid": ("timesformer",),
    "its sequences are packed or masked, of images of several sizes": (
        *("siglip2", "qwen2_vl", "qwen3_vl", "pixtral", "gemma4", "kimi", "llama4", "mllama"),
    ),
}
"""Why encoders cannot be reduced, with the beginnings of their model types."""


def convert(
    model: PreTrainedModel | str | os.PathLike[str],
    preset: str | None = None,
    *,
    revision: str | None = None,
    **reduction: Any,
) -> Any:
    """The FATR model of a stock model, with its weights and without any training.

    Args:
        model: a loaded model of one of the families (encoder, classifier, backbone, or a whole CLIP or SigLIP), whose
            weights the new model then shares; or a folder or Hub name, from which what was saved there is loaded; a
            checkpoint of timm's plain ViTs or DINOv2 too.
        preset: a reduction by name (see ``preset_fields``). Where neither it nor a field of the reduction is given it
            is ``faithful``, made for models that are not trained any more; fields alone change the paper's setting.
        revision: branch, tag or commit of a Hub name.
        reduction: fields of the reduction (see ``ReductionConfig``); they override the preset's.

    Returns:
        A model of the FATR class that subclasses the given model's, on its device, in its dtype and mode.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model that cannot be reduced, named by its class; one that is reduced already; one with adapters
            or other weights than its class has.
        huggingface_hub.errors.StrictDataclassError: fields that the configuration refuses.
    """
    if preset is None and not REDUCTION_FIELDS.keys() & reduction.keys():
        preset = "faithful"
    if preset is not None:
        reduction["preset"] = preset
    if isinstance(model, (str, os.PathLike)):
        return load_converted(model, revision, reduction)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"model must be a model of transformers or its name, not a {type(model).__name__}.")
    if isinstance(model, HubRepositoryMixin):
        raise ValueError(f"{type(model).__name__} is reduced already: use its set_reduction.")
    if "image_size" in reduction:
        raise ValueError("image_size is for a name: a loaded model keeps its own, and stretches them in a call.")
    target = fatr_class_of(model)
    config = target.config_class.from_dict(model.config.to_dict(), **reduction)
    config._attn_implementation = model.config._attn_implementation
    if isinstance(config, CompositeConfig):  # whose tower may attend by another function than the rest
        tower: Any = model.get_submodule(target.tower_name)
        config.tower._attn_implementation = tower.config._attn_implementation
    return with_weights_of(model, target, config)


def load_converted(name: str | os.PathLike[str], revision: str | None, reduction: dict[str, Any]) -> Any:
    """The checkpoint of a name as the FATR class for what was saved there.

    Raises:
        FileNotFoundError, ValueError: as for ``convert``.
    """
    timm = timm_fields(name, revision)
    if timm is not None:
        return load_timm(name, revision, timm, **reduction)
    fields = read_config(name, revision)
    model_type, architectures = fields["model_type"], fields.get("architectures") or []
    targets = {each.__name__: each for each in fatr_classes()}
    target = next((targets[f"FATR{each}"] for each in architectures if f"FATR{each}" in targets), None)
    if any(each in targets for each in architectures):
        raise ValueError(f"{str(name)!r} is reduced already: convert the unreduced checkpoint that it came from.")
    family = family_of(model_type)
    if target is None and family is not None:  # MSN's and MAE's, or one that was saved without its architecture
        target = family.classifier if is_classifier(fields) else family.model
    if target is None:
        what = " and ".join(architectures) or f"A model of type {model_type!r}"
        raise ValueError(refusal(what, model_type))
    model, info = target.from_pretrained(name, revision=revision, output_loading_info=True, **reduction)
    if any("classifier." in key for key in info["missing_keys"]):
        raise ValueError(f"{str(name)!r} names a classifier in its config.json, but holds no weights of one.")
    return model.eval()


def fatr_classes() -> list[Any]:
    """Every class of ours that a stock model can become."""
    found: list[Any] = list(COMPOSITES)
    for family in FAMILIES:
        base = family.model.__mro__[1]  # what the classes of a family share
        found += [each for each in all_subclasses(base) if each.__module__ == family.model.__module__]
    return found


def all_subclasses(cls: Any) -> list[Any]:
    """Subclasses of a class, and theirs."""
    own: list[Any] = cls.__subclasses__()
    return [found for each in own for found in (each, *all_subclasses(each))]


def fatr_class_of(model: PreTrainedModel) -> Any:
    """Our class for a loaded stock model.

    Raises:
        ValueError: there is none.
    """
    family, name = family_of(model.config.model_type), type(model).__name__
    if name in ("ViTMSNModel", "ViTMSNForImageClassification") and family is not None:
        return family.classifier if name.endswith("Classification") else family.model
    for each in fatr_classes():
        if each.__name__ == f"FATR{name}" and type(model).__module__.startswith("transformers.models."):
            return each
    raise ValueError(refusal(name, model.config.model_type))


def refusal(what: str, model_type: str) -> str:
    """Why a model cannot be reduced, and what can."""
    for reason, model_types in UNREDUCIBLE.items():
        if model_type.startswith(model_types):
            return f"{what} cannot be reduced: {reason}."
    known = ", ".join(sorted(each.__name__.removeprefix("FATR") for each in fatr_classes()))
    return (
        f"{what} cannot be reduced as a whole. These can: {known}. If the model contains one of their encoders, "
        "convert that encoder and put it back."
    )


def with_weights_of(model: Any, target: Any, config: Any) -> Any:
    """A model of a class of ours that shares the memory of a stock model's weights."""
    with torch.device("meta"):
        options = {}
        if hasattr(model, "pooler") and "add_pooling_layer" in inspect.signature(target).parameters:
            options["add_pooling_layer"] = model.pooler is not None
        if getattr(getattr(model, "embeddings", None), "mask_token", None) is not None and "pooler" in options:
            options["use_mask_token"] = True
        converted = target(config, **options)
    weights = renamed(dict(model.named_parameters()) | dict(model.named_buffers()), encoder_prefix(converted))
    if converted.base_model is converted:  # in whose place some stock classes hold a module
        prefix = f"{target.base_model_prefix}."
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    own_buffers: list[str] = []
    first, ignored = next(model.parameters()), target._keys_to_ignore_on_load_unexpected or ()
    for name, own in [*converted.named_parameters(), *converted.named_buffers()]:
        is_parameter = isinstance(own, nn.Parameter)
        if name.endswith(REDUCTION_PARAMETERS):
            value = torch.zeros(own.shape, dtype=first.dtype, device=first.device, requires_grad=True)
        elif name in weights and weights[name].shape == own.shape:
            value = weights.pop(name)
        elif not is_parameter:  # which stock keeps elsewhere, or computes at every call
            value = torch.empty(own.shape, dtype=first.dtype, device=first.device)
            own_buffers.append(name)
        else:
            raise ValueError(
                f"{type(model).__name__} lacks {name} of the shape {tuple(own.shape)}: merge its adapters first; a "
                "quantised model is not converted, but quantised afterwards."
            )
        value = nn.Parameter(value.detach(), requires_grad=value.requires_grad) if is_parameter else value
        place(converted, name, value)
    for name in own_buffers:
        converted._init_weights(converted.get_submodule(name.rpartition(".")[0]))
    left = sorted(
        name
        for name, value in weights.items()
        if isinstance(value, nn.Parameter) and not any(re.search(each, name) for each in ignored)
    )
    if left:
        raise ValueError(f"{type(model).__name__} has {left[0]}, which its class does not have: merge adapters first.")
    converted.tie_weights()
    return converted.train(model.training)


def place(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts a parameter or buffer in the place of one on the meta device."""
    parent, _, attribute = name.rpartition(".")
    module = model.get_submodule(parent)
    if isinstance(value, nn.Parameter):
        module._parameters[attribute] = value
    else:
        module._buffers[attribute] = value


def encoder_prefix(model: nn.Module) -> str:
    """What stands before the encoder's own names in the names of a model's parameters."""
    names = (name for name, module in model.named_modules() if isinstance(module, ReductionEncoder))
    return next(f"{name}." if name else "" for name in names)


def renamed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors of a stock model by our names for them; ``prefix`` stands before those of its encoder."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            found[name] = tensor
            continue
        inner = name.removeprefix(prefix)
        for old, new in RENAMINGS:
            inner = re.sub(old if "\\" in old else re.escape(old), new, inner, count=1)
        if "mlp.weights_in" in inner:  # DINOv2's gated MLP before transformers 5.18
            found[prefix + inner.replace("weights_in", "gate")], found[prefix + inner.replace("weights_in", "fc1")] = (
                tensor.chunk(2)
            )
        else:
            found[prefix + inner] = tensor
    return found
