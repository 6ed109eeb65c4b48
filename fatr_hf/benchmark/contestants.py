"""The models that are compared: same backbone and same weights where names agree, by name."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from ..baselines.arguments import some
from ..baselines.macs import count_macs
from ..baselines.matched import build_rival
from ..baselines.rival import Rival
from ..modeling import FATRViTForImageClassification
from ..modeling.reduction_config import UNREDUCED
from .settings import Setting

TRAINED_PARAMETERS = ("omega1", "omega2", "dc_position_embeddings")
"""Names of FATR's own parameters. They start at zero, where some of the work can be left out; here they never are."""

TRAINED_STD = 0.3


class Contestant(NamedTuple):
    """A model ready to run on its device."""

    name: str
    label: str
    model: PreTrainedModel
    options: dict[str, Any]
    """Keyword arguments of its forward pass."""
    macs: int
    """Multiply-accumulates of a forward pass over one image."""


class Kind(NamedTuple):
    """How a contestant is called and built, with fresh weights on torch's current default device."""

    label: str
    build: Callable[[Setting], PreTrainedModel]


def build_stock(setting: Setting) -> PreTrainedModel:
    """Transformers' ViT."""
    return ViTForImageClassification(ViTConfig(**setting.size.fields))


def build_fatr(setting: Setting, **changes: Any) -> FATRViTForImageClassification:
    """FATR, with further fields of its configuration."""
    return FATRViTForImageClassification(setting.fatr_config(**changes))


def build_unreduced(setting: Setting) -> PreTrainedModel:
    """FATR without reduction layers, which can be fused as any FATR model."""
    return build_fatr(setting, **UNREDUCED)


def build_rival_of(name: str) -> Callable[[Setting], PreTrainedModel]:
    """Builds a rival at FATR's cost (see ``baselines.matched``)."""
    return lambda setting: build_rival(build_fatr(setting), name)


KINDS = {
    "stock": Kind("stock ViT (SDPA)", build_stock),
    "reduction-off": Kind("FATR, reduction off", build_unreduced),
    "truncation-bound": Kind("truncation bound", build_rival_of("truncation")),
    "fatr": Kind("FATR", build_fatr),
    "fatr-no-omega": Kind("FATR, no re-weighting", lambda setting: build_fatr(setting, reweight_attention=False)),
    "evit": Kind("EViT", build_rival_of("evit")),
    "tome": Kind("ToMe", build_rival_of("tome")),
    "random": Kind(
        "random selection", lambda setting: build_fatr(setting, selection="random", reweight_attention=False)
    ),
}
"""By the name that chooses them. The truncation bound has FATR's token counts by slicing: nothing scored or pooled."""

SCORED = ("fatr", "fatr-no-omega")
"""Those whose scores the ``score_implementation`` of a setting computes."""


def macs_of_kind(name: str, setting: Setting) -> int:
    """Multiply-accumulates of a forward pass of one contestant over one image."""
    return cached_macs(name, arithmetic_of(setting))


def arithmetic_of(setting: Setting) -> Setting:
    """A setting without what leaves the multiply-accumulates of an image as they are."""
    return Setting(
        setting.size,
        batch_size=1,
        keep_ratio=setting.keep_ratio,
        reduction_layers=setting.reduction_layers,
        dc_windows=setting.dc_windows,
        token_multiple=setting.token_multiple,
    )


@lru_cache
def cached_macs(name: str, setting: Setting) -> int:
    """``macs_of_kind`` of a setting that ``arithmetic_of`` gives."""
    with torch.device("meta"):
        return count_macs(KINDS[name].build(setting))


def check_known(names: Iterable[str]) -> tuple[str, ...]:
    """The names of contestants as a tuple.

    Raises:
        ValueError: an unknown name, one given twice, or none.
    """
    chosen = some("names", names)
    for name in chosen:
        if name not in KINDS:
            raise ValueError(f"Unknown contestant {name!r}: choose from {', '.join(KINDS)}.")
    return chosen


def build_contestants(names: Iterable[str], setting: Setting, device: torch.device) -> list[Contestant]:
    """Builds contestants whose weights are the stock model's, drawn from the setting's seed, where names agree."""
    with seeded(setting, device):
        with torch.device(device):
            weights = build_stock(setting).state_dict()
        return [build_contestant(name, setting, device, weights) for name in names]


@contextmanager
def seeded(setting: Setting, device: torch.device) -> Iterator[None]:
    """Draws from a setting's seed within a ``with`` block, and leaves the caller's random state as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(setting.seed)
        yield


def build_contestant(name: str, setting: Setting, device: torch.device, weights: dict[str, Tensor]) -> Contestant:
    """One contestant in the setting's number format, fused where the setting says so.

    Args:
        weights: the stock model's state dict.

    Raises:
        RuntimeError: the model lacks a weight of the stock model, or has one that is not known here.
    """
    kind = KINDS[name]
    with torch.device(device):
        model: Any = kind.build(setting)
    model.set_attn_implementation("sdpa")
    inner = model.model if isinstance(model, Rival) else model
    missing, unexpected = inner.load_state_dict(weights, strict=False)
    unknown = [key for key in missing if not key.endswith(TRAINED_PARAMETERS)]
    if unknown or unexpected:
        raise RuntimeError(f"{kind.label} does not share the stock model's weights: {[*unknown, *unexpected]}.")
    draw_trained_parameters(model, missing, setting.seed)
    if setting.task == "training":
        model.train()
    else:
        model.to(setting.torch_dtype).eval()
        if setting.fuse and name != "stock":
            model = model.fuse()
    label = f"{kind.label} (r={model.method.merges_per_layer})" if name == "tome" else kind.label
    options = {}
    if name in SCORED and setting.score_implementation is not None:
        options["score_implementation"] = setting.score_implementation
    return Contestant(name, label, model, options, macs_of_kind(name, setting))


@torch.no_grad()
def draw_trained_parameters(model: PreTrainedModel, names: Iterable[str], seed: int) -> None:
    """Fills parameters by normal numbers as after training; a parameter's depend on its name and the seed alone.

    None is beyond two standard deviations: a head whose gain ``1 + omega1`` is all but zero is nothing that training
    leads to, and cannot be fused.
    """
    for name in names:
        parameter = model.get_parameter(name)
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        parameter.copy_(TRAINED_STD * torch.randn(parameter.shape, generator=generator).clamp(-2, 2))
