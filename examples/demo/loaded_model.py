"""The model of the page, and which reductions it allows.

A ``LoadedModel`` is never changed. Whoever wants another reduction gets a copy that shares the weights, so that
visitors with other settings do not disturb each other.
"""

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from transformers import BaseImageProcessor

from fatr_hf.benchmark.machine import choose_device
from fatr_hf.hub.checkpoints import read_config
from fatr_hf.hub.load import check_has_processor, load_reduced
from fatr_hf.modeling.budget import admissible_keep_ratios
from fatr_hf.modeling.fused_inference import shared_copy
from fatr_hf.modeling.presets import preset_fields
from fatr_hf.modeling.reduction_classifier import ReductionClassifier
from fatr_hf.modeling.reduction_config import ReductionConfig
from fatr_hf.modeling.token_plan import per_layer

LEAST_KEEP_RATIO = 0.1


class Settings(NamedTuple):
    """What the page can set of a reduction; the names are those of ``ReductionConfig``."""

    keep_ratio: float
    dc_windows: tuple[int, ...]
    """One for each reduction layer."""
    size_exponent: float


class LoadedModel(NamedTuple):
    """A classifier, and what is known of it before any picture."""

    name: str
    model: ReductionClassifier
    unreduced: ReductionClassifier
    """The same weights without the reduction."""
    processor: BaseImageProcessor
    presets: dict[str, Settings]
    """Settings by name; the page starts with the first."""
    window_choices: tuple[tuple[int, ...], ...]
    """Values of ``dc_windows`` that fit the grid of patches and the model's parameters."""
    least_keep_ratio: float
    """The lowest that shortens the sequence in every reduction layer, and at least ``LEAST_KEEP_RATIO``."""


def load(name: str, revision: str | None = None, device: str | None = None) -> LoadedModel:
    """A FATR classifier, or any ViT classifier as one.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        device: such as ``cuda:1`` or ``cpu``; by default CUDA where there is one.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: no ViT, no classifier, nothing that reduces, no image processor, or a device that is not there.
    """
    is_saved = read_config(name, revision)["model_type"].startswith("fatr_")
    # Of a stock model these parameters would start at zero and change nothing. Without them every schedule is allowed.
    without: dict[str, Any] = {} if is_saved else {"reweight_attention": False, "dc_position_embeddings": False}
    model, processor = load_reduced(name, revision=revision, device=choose_device(device), **without)
    if not isinstance(model, ReductionClassifier):
        raise ValueError(f"{name!r} is an encoder: the page needs a classifier, which has classes to predict.")
    ratios = admissible_keep_ratios(model.config)
    if not model.config.reduction_layers or not ratios:
        raise ValueError(f"{name!r} has no layer that can reduce: there is nothing to compare.")
    own, local = own_settings(model.config), local_settings(model.config)
    return LoadedModel(
        name=name,
        model=model,
        unreduced=with_reduction(model, keep_ratio=1.0),
        processor=check_has_processor(processor),
        presets={"as saved" if is_saved else "paper": own} | ({"local": local} if allows(model, local) else {}),
        window_choices=window_choices(model, (own.dc_windows, local.dc_windows)),
        least_keep_ratio=max(LEAST_KEEP_RATIO, ratios[0]),
    )


def own_settings(config: ReductionConfig) -> Settings:
    """A configuration's own; of several keep ratios their geometric mean, which leaves about as many patches."""
    layers = config.reduction_layers or ()
    ratio = geometric_mean(per_layer("keep_ratio", config.keep_ratio, layers))
    windows = per_layer("dc_windows", config.dc_windows, layers)
    return Settings(round(ratio, 2), tuple(windows), config.size_exponent or 0.0)


def local_settings(config: ReductionConfig) -> Settings:
    """The preset ``local`` on a configuration's grid."""
    fields = preset_fields("local", config.patch_grid(), config.num_hidden_layers)
    windows = per_layer("dc_windows", fields["dc_windows"], config.reduction_layers or ())
    return Settings(fields["keep_ratio"], tuple(windows), fields["size_exponent"])


def window_choices(model: ReductionClassifier, others: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Of the divisors of the grid, the same in every reduction layer, and of some others those that a model allows."""
    rows, columns = model.config.patch_grid()
    layers = len(model.config.reduction_layers or ())
    divisors = [windows for windows in range(1, rows + 1) if rows % windows == columns % windows == 0]
    candidates = {(windows,) * layers for windows in divisors} | set(others)
    return tuple(windows for windows in sorted(candidates) if allows(model, Settings(0.5, windows, 0.0)))


def with_reduction(model: ReductionClassifier, **reduction: Any) -> ReductionClassifier:
    """A copy of a model with another reduction, which shares all weights.

    Raises:
        ValueError: fields that the configuration or the model's parameters do not allow.
    """
    changed = shared_copy(model)
    try:
        changed.set_reduction(**reduction)
    except StrictDataclassError as error:
        # A configuration's refusal is wrapped in a line that names the check, not the field.
        raise ValueError(str(error.__cause__ or error)) from error
    return changed


def allows(model: ReductionClassifier, settings: Settings) -> bool:
    """Whether a model can be reduced in this way."""
    try:
        with_reduction(model, **settings._asdict())
    except ValueError:
        return False
    return True
