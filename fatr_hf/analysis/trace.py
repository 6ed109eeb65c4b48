"""What happens inside a vision transformer, layer by layer: its tokens, its attention and where every patch is.

FATR models and the rivals are walked through by the parts of their layers. Any other model of transformers is run
with ``output_hidden_states`` and, under eager attention, ``output_attentions``; its tokens must be a grid of patches in
every layer, behind a few prefix tokens at most.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines.arguments import check_model, check_takes_images
from ..baselines.rival import Rival
from ..modeling.fused_inference import is_fused
from ..modeling.positions import add_positions, rotary_rows
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import LayerPlan
from ..modeling.token_reduction import TokenLayout, take_tokens, token_sources
from .measures import widened
from .model_inputs import check_pixels


class TokenState(NamedTuple):
    """The sequences of a batch of images between two layers, and where the patches are in them."""

    tokens: Tensor
    """(batch, tokens, hidden), without gradient."""
    grid: Any
    """Rows and columns of patches, a tuple of integers; of videos (``trace_plan``) tubelets before them."""
    num_prefix: int
    """Tokens before the patches: CLS and its like."""
    num_dc: int
    """DC tokens at the end."""
    source: Tensor
    """(batch, patches) int64: which place of the sequence stands for each patch of the grid; -1 for a dropped one."""
    own: Tensor
    """(batch, patches) bool: whether a patch is a token of its own, that is kept so far."""

    @property
    def patch_tokens(self) -> Tensor:
        """(batch, tokens, hidden) without prefix and DC tokens; a rival's merged tokens are among them."""
        return self.tokens[:, self.num_prefix : self.tokens.shape[1] - self.num_dc]

    @property
    def on_grid(self) -> Tensor:
        """(batch, patches, hidden): the token of each patch; a dropped patch takes the mean of the others."""
        dense = take_tokens(self.tokens, self.source.clamp(min=0))
        dropped = self.source[:, :, None] < 0
        # In half precision the sum could overflow.
        total = widened(dense.masked_fill(dropped, 0)).sum(dim=1, keepdim=True)
        mean = total / (~dropped).sum(dim=1, keepdim=True)
        return torch.where(dropped, mean.to(dense.dtype), dense)


class LayerTrace(NamedTuple):
    """What one layer did to a batch of images."""

    layer: int
    """Counted from 0."""
    entering: TokenState
    leaving: TokenState
    attention: Tensor | None
    """(batch, heads, tokens, tokens), rows sum to 1; under eager attention only."""
    scores: Tensor | None
    """(batch, tokens): column means of the attention; without a map what a layer that reduces scores its tokens by."""
    reduction: tuple[Tensor, Tensor] | None
    """In a layer that reduces, the sequence just before and just after."""

    @property
    def patch_scores(self) -> Tensor:
        """(batch, patches): the scores of patches that are tokens of their own; not-a-number for the others.

        Raises:
            ValueError: there are no scores.
        """
        if self.scores is None:
            raise ValueError(
                f"There is no attention map of layer {self.layer}: load the model with attn_implementation='eager'."
            )
        on_grid = self.scores.gather(1, self.entering.source.clamp(min=0))
        return on_grid.masked_fill(~self.entering.own, torch.nan)


def trace(model: PreTrainedModel, pixel_values: Tensor) -> Iterator[LayerTrace]:
    """Runs a model and gives its layers one after the other.

    Args:
        model: a vision transformer of transformers, in evaluation mode: encoder or classifier, reduced or not.
        pixel_values: (batch, channels, height, width) of the model's image size; any other is the model's to refuse.
            Brought to the model's device and dtype.

    Raises:
        ValueError: a model that is in training, fused, or not a vision transformer over a grid of patches; or pixel
            values that are not such a tensor.
    """
    check_traceable(model)
    check_pixels(model, pixel_values)
    pixel_values = pixel_values.to(model.device, model.dtype)
    if isinstance(model, Rival):
        return trace_plan(model.model, pixel_values, model.plan_for(pixel_values))
    if isinstance(model, ReductionModel):
        return trace_plan(model, pixel_values, model.plan_for(pixel_values))
    return trace_unreduced(model, pixel_values)


def check_traceable(model: PreTrainedModel) -> None:
    """Raises a ValueError for what is no model of transformers over patches, is wrapped, in training or fused."""
    check_model(model)
    check_takes_images(model.config, "analysed")
    check_patch_size(model.config)
    check_settled(model)


def check_settled(model: PreTrainedModel) -> None:
    """Raises a ValueError for a model that is in training or fused."""
    if model.training:
        raise ValueError("A model in training mode cannot be analysed: call model.eval() first.")
    if is_fused(model):
        raise ValueError("A fused model cannot be analysed: use the model that it was made from.")


@torch.no_grad()
def trace_plan(model: ReductionModel, pixel_values: Tensor, plan: Sequence[LayerPlan]) -> Iterator[LayerTrace]:
    """``trace`` of a FATR model, by any plan."""
    encoder: Any = model.base_model
    tokens, layout, positions = encoder.start(pixel_values)
    state = layout_state(tokens, layout)
    for layer, step in zip(encoder.layers, plan, strict=True):
        rows = rotary_rows(layout, positions.rotary)
        tokens, layout = add_positions(state.tokens, layout, positions, step.layer)
        if tokens is not state.tokens:  # else a layer is entered by the very state that left the one before
            state = layout_state(tokens, layout)
        attended, attention, evidence = layer.attention_block(state.tokens, layout, step, rows)
        reduction = None
        if step.reduces:
            reduced, layout = layer.reduction(attended, evidence, layout, step)
            reduction = (attended, reduced)
        leaving = layout_state(layer.mlp_block(reduction[1] if reduction else attended), layout)
        yield LayerTrace(step.layer, state, leaving, attention, column_means_or(attention, evidence.scores), reduction)
        state = leaving


def layout_state(tokens: Tensor, layout: TokenLayout) -> TokenState:
    """The state that a layout describes; a merged token is no patch's own."""
    nowhere = layout.positions.new_zeros(len(layout.positions), math.prod(layout.grid), dtype=torch.bool)
    is_own = torch.ones_like(layout.positions, dtype=torch.bool) if layout.sizes is None else layout.sizes == 1
    own = nowhere.scatter(1, layout.positions, is_own)
    return TokenState(tokens, layout.grid, layout.num_prefix, layout.num_dc, token_sources(layout), own)


@torch.no_grad()
def trace_unreduced(model: PreTrainedModel, pixel_values: Tensor) -> Iterator[LayerTrace]:
    """``trace`` of any other model, by what its forward pass returns."""
    grid = patch_grid(model.config, (pixel_values.shape[-2], pixel_values.shape[-1]))
    eager = model.config._attn_implementation == "eager"
    outputs: Any = model(pixel_values, output_hidden_states=True, output_attentions=eager)
    hidden_states: Any = getattr(outputs, "hidden_states", None)
    if getattr(outputs, "ids_restore", None) is not None:
        raise ValueError(f"{type(model).__name__} shuffles its patches: load the checkpoint as a ViTModel.")
    num_prefix = check_token_grid(model, hidden_states, len(pixel_values), grid)
    attentions = getattr(outputs, "attentions", None) or [None] * (len(hidden_states) - 1)
    patches = torch.arange(grid[0] * grid[1], device=pixel_values.device).expand(len(pixel_values), -1)
    everywhere = torch.ones_like(patches, dtype=torch.bool)
    states = [TokenState(tokens, grid, num_prefix, 0, num_prefix + patches, everywhere) for tokens in hidden_states]
    for layer, attention in enumerate(attentions):
        scores = column_means_or(attention, None)
        yield LayerTrace(layer, states[layer], states[layer + 1], attention, scores, None)


def column_means_or(attention: Tensor | None, scores: Tensor | None) -> Tensor | None:
    """Column means (batch, tokens) of an attention map where there is one, in float32 or better."""
    if attention is None:
        return scores
    return attention.mean(dim=(1, 2), dtype=torch.promote_types(attention.dtype, torch.float32))


def patch_grid(config: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of an image of so many pixels, by a model's configuration.

    Raises:
        ValueError: a configuration without a patch size, or an image that does not divide into patches.
    """
    size = check_patch_size(config)
    height, width = size if isinstance(size, Iterable) else (size, size)
    rows, columns = image_size
    if rows % height or columns % width:
        raise ValueError(f"pixel_values of {rows} x {columns} pixels do not divide into patches of {height} x {width}.")
    return rows // height, columns // width


def check_patch_size(config: Any) -> Any:
    """The side of a patch, or both sides, by a model's configuration.

    Raises:
        ValueError: a configuration without one.
    """
    size = getattr(config, "patch_size", None)
    if size is None:
        raise ValueError(
            f"A model of type {config.model_type!r} has no patch_size: what can be analysed are vision transformers "
            "whose tokens are a grid of patches (of a model with several towers, its vision tower)."
        )
    return size


def check_token_grid(model: PreTrainedModel, states: Any, images: int, grid: tuple[int, int]) -> int:
    """How many prefix tokens stand before the patches of each image in every layer.

    Raises:
        ValueError: no hidden states, or hidden states that are no sequences of the grid's patches.
    """
    name = type(model).__name__
    if not states:
        raise ValueError(f"{name} returns no hidden_states: an encoder that takes output_hidden_states is needed.")
    shapes, patches = {tuple(state.shape) for state in states}, grid[0] * grid[1]
    first = states[0].shape
    if len(shapes) > 1 or len(first) != 3 or first[0] != images or first[1] < patches:
        raise ValueError(
            f"The hidden states of {name} have the shapes {sorted(shapes)} for {images} images: needed is one token "
            f"for each of the {grid[0]} x {grid[1]} patches in every layer, behind prefix tokens such as CLS."
        )
    return int(first[1]) - patches
