# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The layers of every family: one attention, one MLP, one layer, one loop.

``config.encoder_spec`` says what a family's layers are made of. A ``LayerPlan`` says what a layer does to its sequence,
and a ``TokenLayout`` goes from layer to layer in the open and says where every patch is.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .frequency_attention import (
    Evidence,
    append_sizes,
    attend,
    mean_keys,
    reweight_values,
    selection_scores,
    value_energies,
)
from .operators import compare_features, reduction_function
from .positions import NO_POSITIONS, Positions, add_positions, rotary_rows, rotate
from .reduction_config import ReductionConfig
from .token_plan import LayerPlan
from .token_reduction import TokenLayout, after_reduction, dense_sequence, token_features, with_residual

Rows = tuple[Tensor, Tensor]
"""Cosines and sines by which rotary positions turn the tokens of a sequence (see ``rotary_rows``)."""


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention by its map, as transformers' models compute it; the softmax in float32 or better.

    Args:
        query, key, value: (batch, heads, tokens, head_dim).

    Returns:
        Output (batch, tokens, heads, head_dim) and the map (batch, heads, tokens, tokens).
    """
    logits = query @ key.transpose(2, 3) * scaling
    weights = logits.softmax(dim=3, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class FATRAttention(nn.Module):
    """Attention whose heads may amplify high frequencies (omega1) and DC tokens (omega2), and that scores tokens."""

    is_causal = False

    def __init__(self, config: ReductionConfig, plan: LayerPlan):
        super().__init__()
        spec = config.encoder_spec
        self.config = config
        self.num_attention_heads = spec.num_heads
        self.head_dim = spec.hidden_size // spec.num_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = spec.attention_dropout
        self.rotates_neighbours = spec.rotates_neighbours
        self.q_proj = nn.Linear(spec.hidden_size, spec.hidden_size, bias=spec.query_bias)
        self.k_proj = nn.Linear(spec.hidden_size, spec.hidden_size, bias=spec.key_bias)
        self.v_proj = nn.Linear(spec.hidden_size, spec.hidden_size, bias=spec.value_bias)
        self.o_proj = nn.Linear(spec.hidden_size, spec.hidden_size, bias=spec.output_bias)
        has_omega1 = config.reweight_attention and plan.follows_reduction
        has_omega2 = config.reweight_attention and plan.dc_in > 0
        self.omega1 = nn.Parameter(torch.zeros(spec.num_heads)) if has_omega1 else None
        self.omega2 = nn.Parameter(torch.zeros(spec.num_heads)) if has_omega2 else None

    def forward(
        self, hidden_states: Tensor, layout: TokenLayout, plan: LayerPlan, rows: Rows | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Evidence]:
        """Attention over a sequence (batch, tokens, hidden).

        Returns:
            Output (batch, tokens, hidden); the map (batch, heads, tokens, tokens) under eager attention, as it is
            before re-weighting; what a layer that reduces goes by.
        """
        heads = (self.num_attention_heads, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (each(hidden_states).unflatten(2, heads).transpose(1, 2) for each in projections)
        keys = mean_keys(key) if plan.reduces and plan.compares_keys else None
        energies = value_energies(value, layout) if plan.scores_energy else None
        if rows is not None:
            query, key = (rotate(each, rows, self.rotates_neighbours) for each in (query, key))
        if plan.follows_reduction and (self.omega1 is not None or self.omega2 is not None):
            value = reweight_values(value, self.omega1, self.omega2, layout.num_dc)
        output, weights, scores = attend_tokens(self, query, key, value, layout, plan, energies, **kwargs)
        return self.o_proj(output), weights, Evidence(scores, keys)


def attend_tokens(
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: TokenLayout,
    plan: LayerPlan,
    energies: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a layer's attention gives before its output projection.

    Args:
        attention: the module, with ``config``, ``scaling``, ``head_dim`` and ``attention_dropout``.
        query, key, value: (batch, heads, tokens, head_dim), the value re-weighted.
        energies: (batch, heads, tokens), of the values before that, where tokens are scored by them.

    Returns:
        Output (batch, queries, hidden), the map where one is made, scores (batch, tokens) in a layer that reduces.
    """
    if plan.size_exponent and layout.counts.shape[1]:
        query, key, value = append_sizes(query, key, value, layout.counts, plan.size_exponent, attention.scaling)
    result = attend(
        ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention),
        attention,
        query,
        key,
        value,
        attention.scaling,
        selection=plan.selection if plan.reduces and query.shape[2] == key.shape[2] else None,
        column_weights=energies,
        dropout=attention.attention_dropout if attention.training else 0.0,
        **kwargs,
    )
    return result.output[..., : attention.head_dim].flatten(2), result.weights, result.scores


class FATRMLP(nn.Module):
    """The MLP, plain or gated: ``fc2(activation(fc1(x)))`` or ``fc2(activation(gate(x)) * fc1(x))``."""

    def __init__(self, config: ReductionConfig):
        super().__init__()
        spec = config.encoder_spec
        self.activation_fn = ACT2FN[spec.activation]
        self.gate = nn.Linear(spec.hidden_size, spec.inner_size, bias=spec.mlp_bias) if spec.gated else None
        self.fc1 = nn.Linear(spec.hidden_size, spec.inner_size, bias=spec.mlp_bias)
        self.fc2 = nn.Linear(spec.inner_size, spec.hidden_size, bias=spec.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Of (batch, tokens, hidden), the same shape."""
        if self.gate is None:
            return self.fc2(self.activation_fn(self.fc1(hidden_states)))
        return self.fc2(self.activation_fn(self.gate(hidden_states)) * self.fc1(hidden_states))


class LayerScale(nn.Module):
    """Multiplies a branch by a learned vector."""

    def __init__(self, hidden_size: int, value: float):
        super().__init__()
        self.value = value
        self.lambda1 = nn.Parameter(torch.full((hidden_size,), float(value)))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Of (batch, tokens, hidden), the same shape."""
        return hidden_states * self.lambda1


class DropPath(nn.Module):
    """In training leaves a branch out for a share of the images (stochastic depth), as transformers' models do."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Of (batch, tokens, hidden), the same shape."""
        if not self.training:
            return hidden_states
        keep = 1 - self.rate
        drawn = torch.rand(hidden_states.shape[0], 1, 1, dtype=hidden_states.dtype, device=hidden_states.device)
        return hidden_states.div(keep) * torch.floor(drawn + keep)


class FATRReduction(nn.Module):
    """Reduces the sequence in a layer whose plan says so; holds the position embeddings of its DC tokens."""

    def __init__(self, config: ReductionConfig, plan: LayerPlan):
        super().__init__()
        has_embeddings = config.dc_position_embeddings and plan.reduces and plan.dc_out > 0
        shape = (plan.dc_out, config.encoder_spec.hidden_size)
        self.dc_position_embeddings = nn.Parameter(torch.zeros(shape)) if has_embeddings else None

    def forward(
        self,
        hidden_states: Tensor,
        evidence: Evidence,
        layout: TokenLayout,
        plan: LayerPlan,
        implementation: str | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """Reduces (batch, tokens, hidden); ``implementation`` is one of ``REDUCTION_IMPLEMENTATIONS``."""
        if plan.rule is not None:
            reduced, new_layout = plan.rule(hidden_states, evidence, layout, plan)
            return reduced, after_reduction(layout, hidden_states, reduced, new_layout, None)
        likeness = None
        if evidence.keys is not None:
            patches = slice(plan.prefix, plan.prefix + plan.patches_in)
            features = token_features(evidence.keys[:, patches], hidden_states[:, patches])
            likeness = compare_features(implementation, hidden_states, features)
        scores = selection_scores(plan.selection, evidence.scores, hidden_states, layout, plan.layer, likeness)
        if plan.fold == "similar":
            assert likeness is not None, "a fold by similarity compares tokens"
            reduced, new_layout = likeness.fold(hidden_states, scores, layout, plan.patches_out)
            return reduced, after_reduction(layout, hidden_states, reduced, new_layout, None)
        positions = self.dc_position_embeddings
        reduce = reduction_function(implementation, hidden_states, plan.windows_out, positions)
        reduced, new_layout = reduce(hidden_states, scores, layout, plan.patches_out, plan.windows_out, positions)
        return reduced, after_reduction(layout, hidden_states, reduced, new_layout, positions)


class FATRLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer; where its plan says so the sequence shrinks between attention and MLP."""

    is_fused = False

    def __init__(self, config: ReductionConfig, plan: LayerPlan, mlp: type[FATRMLP] = FATRMLP):
        super().__init__()
        spec = config.encoder_spec
        self.attention = FATRAttention(config, plan)
        self.reduction = FATRReduction(config, plan)
        self.mlp = mlp(config)
        self.layernorm_before = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.layer_scale1 = nn.Identity() if spec.scale is None else LayerScale(spec.hidden_size, spec.scale)
        self.layer_scale2 = nn.Identity() if spec.scale is None else LayerScale(spec.hidden_size, spec.scale)
        self.dropout = nn.Dropout(spec.dropout)
        last = max(config.num_hidden_layers - 1, 1)
        rate = spec.drop_path * plan.layer / last if spec.drop_path_rises else spec.drop_path
        self.drop_path = DropPath(rate) if rate else nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        plan: LayerPlan,
        rows: Rows | None = None,
        reduction_implementation: str | None = None,
        mlp_inputs: tuple[Tensor, ...] = (),
        **kwargs: Any,
    ) -> tuple[Tensor, TokenLayout]:
        """The next sequence, and its layout.

        Args:
            hidden_states: (batch, tokens, hidden), laid out as ``layout`` says.
            layout: where the patches are.
            plan: what this layer does.
            rows: rotary positions of the tokens.
            reduction_implementation: one of ``REDUCTION_IMPLEMENTATIONS``; by default the fastest that runs here.
            mlp_inputs: what the MLP of a family takes beside tokens.
        """
        hidden_states, _, evidence = self.attention_block(hidden_states, layout, plan, rows, **kwargs)
        if plan.reduces:
            hidden_states, layout = self.reduction(hidden_states, evidence, layout, plan, reduction_implementation)
        return self.mlp_block(hidden_states, *mlp_inputs), layout

    def attention_block(
        self, hidden_states: Tensor, layout: TokenLayout, plan: LayerPlan, rows: Rows | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Evidence]:
        """The layer up to its reduction: the sequence after attention's residual, the map, what a reduction goes by.

        The map is given under eager attention, scores where the layer reduces and is scored by its attention.
        """
        normed = self.layernorm_before(hidden_states)
        update, weights, evidence = self.attention(normed, layout, plan, rows, **kwargs)
        return hidden_states + self.drop_path(self.layer_scale1(self.dropout(update))), weights, evidence

    def mlp_block(self, hidden_states: Tensor, *mlp_inputs: Tensor) -> Tensor:
        """The layer from its reduction on: the MLP and its residual."""
        update = self.dropout(self.mlp(self.layernorm_after(hidden_states), *mlp_inputs))
        return hidden_states + self.drop_path(self.layer_scale2(update))


class Encoded(NamedTuple):
    """What the layers make of a sequence."""

    hidden_states: Tensor
    """(batch, tokens, hidden), before any norm."""
    layout: TokenLayout
    reduced_layouts: tuple[TokenLayout, ...]
    """The layout after each reduction."""
    dense: tuple[Tensor, ...] = ()
    """The stages that were asked for on the full grid, (batch, prefix + patches, hidden) each."""


def build_layers(config: ReductionConfig, mlp: type[FATRMLP] = FATRMLP) -> nn.ModuleList:
    """The layers of a configuration, with the parameters that its plan needs, and with a family's own MLP, if any."""
    return nn.ModuleList([FATRLayer(config, plan, mlp) for plan in config.plan()])


def run_layers(
    layers: Iterable[nn.Module],
    hidden_states: Tensor,
    layout: TokenLayout,
    plan: Iterable[LayerPlan],
    positions: Positions = NO_POSITIONS,
    dense_stages: Collection[int] = (),
    **kwargs: Any,
) -> Encoded:
    """Runs the layers one after the other.

    Args:
        hidden_states: (batch, tokens, hidden), the embedded images.
        layout: where the patches are in it.
        plan: one entry for each layer.
        positions: those that act behind the embeddings.
        dense_stages: stages to give back on the full grid: 0 is what enters the first layer, n what leaves the n-th.
        kwargs: for the layers.
    """
    reduced_layouts, dense = [], []
    if dense_stages:
        layout = with_residual(layout, hidden_states)
    if 0 in dense_stages:
        dense.append(dense_sequence(hidden_states, layout))
    rows = rotary_rows(layout, positions.rotary)
    for stage, (layer, step) in enumerate(zip(layers, plan, strict=True), start=1):
        hidden_states, layout = add_positions(hidden_states, layout, positions, step.layer)
        hidden_states, layout = layer(hidden_states, layout, step, rows, **kwargs)
        if step.reduces:
            reduced_layouts.append(layout)
            rows = rotary_rows(layout, positions.rotary)
        if stage in dense_stages:
            dense.append(dense_sequence(hidden_states, layout))
    return Encoded(hidden_states, layout, tuple(reduced_layouts), tuple(dense))
