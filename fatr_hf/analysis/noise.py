"""How much a model minds noise on its high- or its low-frequency tokens (figure 2c of arXiv 2511.21477)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..baselines.arguments import check_layers, described, is_number, some
from .analyze import Moments, Row, to_row
from .images import Batch
from .measures import widened
from .model_inputs import model_batches
from .model_measures import HIGH_SHARE, chosen_patches
from .outputs import judge, model_output
from .trace import LayerTrace, check_traceable, trace

SCALES = (0.5, 1.0, 2.0)

Key = tuple[str, int, float]
"""A question and the kind of token, a layer and a scale."""


def noise_sensitivity(
    model: PreTrainedModel,
    data: Any,
    layers: Sequence[int] | None = None,
    scales: Sequence[float] = SCALES,
    share: float = HIGH_SHARE,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[Row, ...]:
    """Puts Gaussian noise on the patches with the highest, or the lowest, column means that enter one layer.

    Args:
        model: a vision transformer with eager attention, in evaluation mode.
        data: see ``images.batches``.
        layers: disturbed one at a time; by default all.
        scales: standard deviation of the noise, in units of the root mean square of ``H_f X`` of the image there.
        share: of the patches, in (0, 1), that are called high or low.
        batch_size: images at a time.
        seed: of the noise, which is the same for high- and low-frequency tokens.

    Returns:
        A row for each of ``cosine``, ``divergence``, ``agreement`` (to the outputs without noise) and ``accuracy``
        where it is defined, with ``_high`` or ``_low`` behind, by layer and scale (``point``). Images that enter a
        layer without a patch in a token of its own are left out there.

    Raises:
        ValueError: a layer that there is not, a share or scale out of range, a model without attention maps or that
            cannot be traced, or data that it cannot take.
    """
    check_traceable(model)
    depth = len(transformer_layers(model))
    layers = range(depth) if layers is None else check_layers("layers", layers, depth)
    if not is_number(share) or not 0 < share < 1:
        raise ValueError(f"share={described(share)} must lie between 0 and 1, both excluded.")
    scales = some("scales", scales)
    if not all(is_number(scale) and scale >= 0 for scale in scales):
        raise ValueError(f"scales={list(scales)} must be finite numbers of at least 0.")
    generator = torch.Generator().manual_seed(seed)
    moments: dict[Key, Moments] = {}
    for batch in model_batches(model, data, batch_size):
        clean = model_output(model, batch.pixel_values)
        for each in trace(model, batch.pixel_values):
            if each.layer in layers:
                noise = torch.randn(each.entering.patch_tokens.shape, generator=generator)
                for key, values in noisy_answers(model, batch, clean, each, noise, scales, share):
                    new = Moments.of(values)
                    moments[key] = moments[key].merge(new) if key in moments else new
    return tuple(to_row(name, layer, scale, each) for (name, layer, scale), each in moments.items() if each.number)


def noisy_answers(
    model: PreTrainedModel,
    batch: Batch,
    clean: Tensor,
    trace: LayerTrace,
    noise: Tensor,
    scales: Sequence[float],
    share: float,
) -> Iterator[tuple[Key, Tensor]]:
    """How the answers to a batch change with noise before one layer: (batch,) for each kind, scale and question.

    Args:
        clean: the answers without noise.
        noise: of unit variance, (batch, patch tokens, hidden).
    """
    block, has_tokens = transformer_layers(model)[trace.layer], trace.entering.own.any(dim=1)
    for kind, scale in product(("high", "low"), scales):
        with added_to_input(block, place_noise(trace, noise, kind == "high", scale, share)):
            output = model_output(model, batch.pixel_values)
        for name, values in judge(model, batch, output, clean).items():
            yield (f"{name}_{kind}", trace.layer, float(scale)), values.where(has_tokens, torch.nan)


def place_noise(trace: LayerTrace, noise: Tensor, high: bool, scale: float, share: float) -> Tensor:
    """What is added to the tokens (batch, tokens, hidden) that enter a layer: noise on the chosen ones, else zero.

    Args:
        noise: of unit variance, (batch, patch tokens, hidden).
    """
    state, chosen = trace.entering, chosen_patches(trace, high, share)
    tokens = widened(state.tokens)
    deviation = (tokens - tokens.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2), keepdim=True).sqrt()
    # A patch that has a token of its own is the only one to point at that token.
    is_chosen = torch.zeros(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
    is_chosen.scatter_add_(1, state.source.clamp(min=0), chosen.to(tokens.dtype))
    disturbance = torch.zeros_like(tokens)
    disturbance[:, state.num_prefix : tokens.shape[1] - state.num_dc] = noise.to(tokens)
    return (disturbance * is_chosen[:, :, None] * deviation * scale).to(state.tokens.dtype)


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's layers.

    Raises:
        ValueError: a model without one.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {depth} layers to put noise into.")


@contextmanager
def added_to_input(layer: nn.Module, disturbance: Tensor) -> Iterator[None]:
    """Within a ``with`` block the hidden states that a layer takes first have something added."""

    def add(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0] + disturbance, *arguments[1:])

    handle = layer.register_forward_pre_hook(add)
    try:
        yield
    finally:
        handle.remove()
