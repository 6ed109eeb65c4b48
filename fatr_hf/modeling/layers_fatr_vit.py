# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The parts of a ViT with frequency-aware token reduction: embeddings, attention, reduction and the layer of them.

A ``TokenLayout`` goes from layer to layer in the open and says where every patch is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer, ViTMLP, eager_attention_forward

from .configuration_fatr_vit import FATRViTConfig
from .frequency_attention import AttentionResult, append_dc_size, attend, change_last, reweight_values, selection_scores
from .fused_projections import PatchEmbeddings, ProjectingAttention, frozen_linear
from .operators import add_residual, reduction_function, token_means
from .token_reduction import TokenLayout
from .token_schedule import LayerTokens

SMALLEST_GAIN = 0.1
"""Below this ``1 + omega1`` a head's DC tokens are not amplified by a factor on top of it."""


class FATRViTEmbeddings(ViTEmbeddings):
    """Stock ViT's embeddings, by a matrix product; positions also stretch from and to grids that are not square."""

    def __init__(self, config: FATRViTConfig, use_mask_token: bool = False):
        super(ViTEmbeddings, self).__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.patch_embeddings = PatchEmbeddings(config)
        num_positions = 1 + self.patch_embeddings.num_patches
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.image_size = self.patch_embeddings.image_size

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position embeddings for an image of ``height x width`` pixels, bicubic where its grid is another.

        Returns:
            (1, 1 + patches, hidden).
        """
        return stretch_positions(
            self.position_embeddings, self.config.patch_grid(), self.config.patch_grid((height, width))
        )


def stretch_positions(position_embeddings: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings of another grid of patches, bicubic, as stock ViT stretches them; those of CLS stay.

    Args:
        position_embeddings: (1, 1 + patches, hidden), patches row by row.
        grid, new_grid: rows and columns of patches.

    Returns:
        (1, 1 + new patches, hidden).
    """
    if new_grid == grid:
        return position_embeddings
    image = position_embeddings[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
    image = nn.functional.interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([position_embeddings[:, :1], image.flatten(2).transpose(1, 2)], dim=1)


class FATRViTAttention(ProjectingAttention):
    """Attention whose heads may amplify high frequencies (omega1) and DC tokens (omega2), and that scores tokens."""

    def __init__(self, config: FATRViTConfig, tokens: LayerTokens):
        super().__init__(config)
        heads = config.num_attention_heads
        has_omega1 = config.reweight_attention and tokens.follows_reduction
        has_omega2 = config.reweight_attention and tokens.dc_in > 0
        self.omega1 = nn.Parameter(torch.zeros(heads)) if has_omega1 else None
        self.omega2 = nn.Parameter(torch.zeros(heads)) if has_omega2 else None
        # In a fused copy these stand for the omegas.
        self.mean_proj: nn.Linear | None = None
        self.register_buffer("dc_gain", None, persistent=False)

    def forward(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        tokens: LayerTokens,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Attention over a sequence (batch, tokens, hidden), of all tokens or the first ``num_queries``.

        Returns:
            Output (batch, queries, hidden); the map (batch, heads, tokens, tokens) under eager attention, as it is
            before re-weighting; attention scores (batch, tokens) in a layer that reduces; and, in a fused model, what
            re-weighting adds to the output of every token of an image (batch, hidden).
        """
        query, key, value = self.project(hidden_states, num_queries)
        if tokens.follows_reduction and (self.omega1 is not None or self.omega2 is not None):
            value = reweight_values(value, self.omega1, self.omega2, layout.num_dc)
        if layout.num_dc and self.dc_gain is not None:
            value = change_last(value, value[:, :, -layout.num_dc :] * self.dc_gain)
        if layout.num_dc and self.config.dc_size_exponent:
            query, key, value = append_dc_size(
                query, key, value, layout.dc_counts, self.config.dc_size_exponent, self.scaling
            )
        result: AttentionResult = attend(
            ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward),
            self,
            query,
            key,
            value,
            self.scaling,
            selection=self.config.selection if tokens.reduces and num_queries is None else None,
            dropout=self.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        output = self.o_proj(result.output[..., : self.head_dim].flatten(2))
        shift = None if self.mean_proj is None else self.mean_proj(token_means(hidden_states))
        return output, result.weights, result.scores, shift

    @torch.no_grad()
    def fuse(self) -> None:
        """Besides the projections fuses the omegas: into the value's rows, and into a product with the mean token.

        ``A V'' = A (1 + omega1) V - omega1 mean(V)`` for tokens that are no DC tokens; the second term is the same for
        every token of an image and goes through the output projection as one vector.
        """
        value_weight, value_bias = self.v_proj.weight, self.v_proj.bias
        super().fuse()
        assert self.qkv_proj is not None
        zeros = value_weight.new_zeros(self.num_attention_heads)
        omega1, omega2 = (zeros if omega is None else omega for omega in (self.omega1, self.omega2))
        if omega2.any() and (1 + omega1).abs().min() < SMALLEST_GAIN:
            return  # DC tokens would need a large factor to make up for a gain near zero: leave the omegas as they are
        self.omega1 = self.omega2 = None
        if omega2.any():
            self.dc_gain = 1 + (omega2 / (1 + omega1))[:, None, None]
        if not omega1.any():
            return
        gain = (1 + omega1).repeat_interleave(self.head_dim)
        self.qkv_proj.weight[-len(gain) :] *= gain[:, None]
        mixed = -self.o_proj.weight * omega1.repeat_interleave(self.head_dim)
        self.mean_proj = frozen_linear(mixed @ value_weight, None if value_bias is None else mixed @ value_bias)
        if self.qkv_proj.bias is not None:
            self.qkv_proj.bias[-len(gain) :] *= gain


class FATRViTReduction(nn.Module):
    """Reduces the sequence in a layer whose schedule says so; holds the position embeddings of its DC tokens."""

    def __init__(self, config: FATRViTConfig, tokens: LayerTokens):
        super().__init__()
        self.config = config
        has_embeddings = config.dc_position_embeddings and tokens.reduces and tokens.dc_out > 0
        shape = (tokens.dc_out, config.hidden_size)
        self.dc_position_embeddings = nn.Parameter(torch.zeros(shape)) if has_embeddings else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_scores: Tensor | None,
        layout: TokenLayout,
        tokens: LayerTokens,
        implementation: str | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """Reduces (batch, tokens, hidden); ``implementation`` is one of ``REDUCTION_IMPLEMENTATIONS``."""
        scores = selection_scores(self.config.selection, attention_scores, hidden_states, layout, tokens.layer)
        reduce = reduction_function(implementation, hidden_states, tokens.windows_out, self.dc_position_embeddings)
        return reduce(
            hidden_states, scores, layout, tokens.patches_out, tokens.windows_out, self.dc_position_embeddings
        )


class FATRViTLayer(ViTLayer):
    """A pre-norm transformer layer; where the schedule says so the sequence shrinks between attention and MLP."""

    def __init__(self, config: FATRViTConfig, tokens: LayerTokens):
        super(ViTLayer, self).__init__()
        self.attention = FATRViTAttention(config, tokens)
        self.reduction = FATRViTReduction(config, tokens)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        tokens: LayerTokens,
        reduction_implementation: str | None = None,
        num_outputs: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, TokenLayout]:
        """The next sequence, and its layout.

        Args:
            hidden_states: (batch, tokens, hidden), laid out as ``layout`` says.
            layout: where the patches are.
            tokens: this layer's part of the schedule.
            reduction_implementation: one of ``REDUCTION_IMPLEMENTATIONS``; by default the best that is there.
            num_outputs: compute only what becomes of so many first tokens, and leave a reduction out.
        """
        hidden_states, _, scores = self.attend(hidden_states, layout, tokens, num_outputs, **kwargs)
        if tokens.reduces and num_outputs is None:
            hidden_states, layout = self.reduction(hidden_states, scores, layout, tokens, reduction_implementation)
        return self.mix(hidden_states), layout

    def attend(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        tokens: LayerTokens,
        num_outputs: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The layer up to its reduction: the sequence after attention's residual, the map, the scores (batch, tokens).

        The map is there under eager attention, scores where the layer reduces and is scored by its attention.
        """
        residual = hidden_states[:, :num_outputs]
        hidden_states, weights, scores, shift = self.attention(
            self.layernorm_before(hidden_states), layout, tokens, num_outputs, **kwargs
        )
        in_place = bool(self.attention.is_fused)
        return add_residual(residual, self.dropout(hidden_states), shift, in_place), weights, scores

    def mix(self, hidden_states: Tensor) -> Tensor:
        """The layer from its reduction on: the MLP and its residual."""
        update = self.dropout(self.mlp(self.layernorm_after(hidden_states)))
        return add_residual(hidden_states, update, in_place=bool(self.attention.is_fused))
