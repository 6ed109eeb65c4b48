# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViT with frequency-aware token reduction (arXiv 2511.21477).

A few layers score their tokens by the attention map's column means, keep the patches that carry high frequencies and
average the others into DC tokens, between attention and MLP. A ``TokenLayout`` goes from layer to layer in the open
and says where every patch is. At the start of training nothing but the reduction differs from the stock ViT.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import (
    ViTEmbeddings,
    ViTForImageClassification,
    ViTLayer,
    ViTMLP,
    ViTModel,
    ViTPooler,
    ViTPreTrainedModel,
    eager_attention_forward,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_fatr_vit import FATRViTConfig
from .frequency_attention import AttentionResult, append_dc_size, attend, reweight_values, selection_scores
from .fused_projections import (
    PatchEmbeddings,
    ProjectingAttention,
    frozen_linear,
    fuse_projections,
    is_fused,
    reads_prefix_alone,
)
from .hub_repository import HubRepositoryMixin
from .operators import add_residual, reduction_function, token_means
from .token_reduction import TokenLayout, dense_layout, token_sources
from .token_schedule import LayerTokens

SMALLEST_GAIN = 0.1
"""Below this ``1 + omega1`` a head's DC tokens are not amplified by a factor on top of it."""


@dataclass
class FATRViTModelOutput(BaseModelOutputWithPooling):
    """Stock ViT's output and, where asked for, ``token_sources``: one (batch, patches) int64 tensor per reduction."""

    token_sources: tuple[Tensor, ...] | None = None


@dataclass
class FATRViTImageClassifierOutput(ImageClassifierOutput):
    """Stock ViT's output and, where asked for, ``token_sources``: one (batch, patches) int64 tensor per reduction."""

    token_sources: tuple[Tensor, ...] | None = None


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
        grid, own_grid = self.config.patch_grid((height, width)), self.config.patch_grid()
        if grid == own_grid:
            return self.position_embeddings
        cls_position, patch_positions = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        image = patch_positions.unflatten(1, own_grid).permute(0, 3, 1, 2)
        image = nn.functional.interpolate(image, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([cls_position, image.flatten(2).transpose(1, 2)], dim=1)


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
            value[:, :, -layout.num_dc :] *= self.dc_gain
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
        hidden_states, scores = self.attend(hidden_states, layout, tokens, num_outputs, **kwargs)
        if num_outputs is not None:
            tokens = tokens.without_reduction()
        return self.reduce_and_mix(hidden_states, scores, layout, tokens, reduction_implementation)

    def attend(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        tokens: LayerTokens,
        num_outputs: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The layer up to its reduction: attention and its residual; and the attention scores (batch, tokens)."""
        residual = hidden_states[:, :num_outputs]
        hidden_states, _, scores, shift = self.attention(
            self.layernorm_before(hidden_states), layout, tokens, num_outputs, **kwargs
        )
        in_place = bool(self.attention.is_fused)
        return add_residual(residual, self.dropout(hidden_states), shift, in_place), scores

    def reduce_and_mix(
        self,
        hidden_states: Tensor,
        scores: Tensor | None,
        layout: TokenLayout,
        tokens: LayerTokens,
        reduction_implementation: str | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """The layer from its reduction on: where the schedule says so the sequence shrinks, then the MLP."""
        if tokens.reduces:
            hidden_states, layout = self.reduction(hidden_states, scores, layout, tokens, reduction_implementation)
        update = self.dropout(self.mlp(self.layernorm_after(hidden_states)))
        return add_residual(hidden_states, update, in_place=bool(self.attention.is_fused)), layout


class FATRViTPreTrainedModel(HubRepositoryMixin, ViTPreTrainedModel):
    """What encoder and classifier share: loading and saving, and the reduction's switches."""

    config_class = FATRViTConfig
    config: FATRViTConfig
    _no_split_modules = ["FATRViTEmbeddings", "FATRViTLayer"]
    _can_record_outputs = {"hidden_states": FATRViTLayer, "attentions": FATRViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FATRViTAttention):
            for omega in (module.omega1, module.omega2):
                if omega is not None:
                    init.zeros_(omega)
        elif isinstance(module, FATRViTReduction) and module.dc_position_embeddings is not None:
            init.zeros_(module.dc_position_embeddings)

    def set_reduction(self, **changes: Any) -> None:
        """Changes the reduction of a loaded model: any of the configuration's reduction fields but its parameters.

        What the new schedule needs must be there: omega1 from its first reduction layer on, omega2 behind it, DC
        position embeddings of the right number of windows. Ratios, ``token_multiple``, ``selection`` and
        ``dc_size_exponent`` may change freely. Either all changes are made or none.

        Raises:
            ValueError: a field that cannot be changed, or a schedule that lacks parameters in this model.
            huggingface_hub.errors.StrictDataclassError: values that the configuration refuses.
        """
        refuse_fused(self, "set_reduction")
        allowed = ("reduction_layers", "keep_ratio", "dc_windows", "selection", "token_multiple", "dc_size_exponent")
        for name in changes:
            if name not in allowed:
                raise ValueError(f"set_reduction cannot change {name!r}: only {', '.join(allowed)}.")
        config = type(self.config).from_dict(self.config.to_dict(), **changes)
        encoder: Any = self.base_model
        for layer, tokens in zip(encoder.layers, config.token_schedule(), strict=True):
            refuse_lacking_parameters(layer, tokens, config)
        for name in changes:
            setattr(self.config, name, getattr(config, name))

    def fuse(self) -> Self:
        """A copy for inference that computes the same with fewer and larger products; other weights are shared.

        Query, key and value come from one projection, into which omega1 goes too; what re-weighting takes off every
        token of an image is one vector; omegas that are zero cost nothing; a classifier that is asked for logits
        computes no more of its last layer than CLS. The copy is neither trained nor saved, and
        its reduction is fixed: do all that with this model, and fuse it again.

        Raises:
            ValueError: a projection that is no plain linear layer (adapters, quantisation), or a fused model.
        """
        return fuse_projections(self)

    @contextmanager
    def reduction(self, enabled: bool) -> Iterator[None]:
        """Switches the reduction off (or on again) within a ``with`` block: off, the model is a stock ViT.

        Re-weighting belongs to the reduction: without DC tokens there is none, as at a keep ratio of 1.
        """
        refuse_fused(self, "reduction")
        model: Any = self.base_model
        before, model.reduction_enabled = model.reduction_enabled, enabled
        try:
            yield
        finally:
            model.reduction_enabled = before


def refuse_fused(model: nn.Module, method: str) -> None:
    """Raises a ValueError where a method would change a fused model, whose weights hold its reduction."""
    if is_fused(model):
        raise ValueError(f"{method}: a fused model is fixed; use the model that it was made from, and fuse that again.")


def refuse_lacking_parameters(layer: FATRViTLayer, tokens: LayerTokens, config: FATRViTConfig) -> None:
    """Raises a ValueError where a layer lacks a parameter that the schedule and configuration call for."""
    lacking = []
    if config.reweight_attention and tokens.follows_reduction and layer.attention.omega1 is None:
        lacking.append("omega1")
    if config.reweight_attention and tokens.dc_in and layer.attention.omega2 is None:
        lacking.append("omega2")
    if config.dc_position_embeddings and tokens.reduces and tokens.dc_out:
        embeddings = layer.reduction.dc_position_embeddings
        if embeddings is None or len(embeddings) != tokens.dc_out:
            lacking.append(f"DC position embeddings for {tokens.windows_out} x {tokens.windows_out} windows")
    if lacking:
        raise ValueError(
            f"reduction_layers={config.reduction_layers}, keep_ratio={config.keep_ratio}, "
            f"dc_windows={config.dc_windows} needs parameters that layer {tokens.layer} of this model does not have: "
            f"{', '.join(lacking)}. Load the unreduced checkpoint with these fields instead."
        )


class FATRViTModel(FATRViTPreTrainedModel, ViTModel):
    """The encoder: ``ViTModel`` with token reduction. Its last hidden state is the reduced sequence."""

    _auto_class = "AutoModel"

    def __init__(self, config: FATRViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super(ViTModel, self).__init__(config)
        self.reduction_enabled = True
        self.embeddings = FATRViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = nn.ModuleList([FATRViTLayer(config, tokens) for tokens in config.token_schedule()])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        output_token_sources: bool = False,
        prefix_only: bool = False,
        **kwargs: Any,
    ) -> FATRViTModelOutput:
        """Encodes images.

        Args:
            pixel_values: (batch, channels, height, width).
            bool_masked_pos: (batch, patches) bool, patches to replace by the mask token.
            interpolate_pos_encoding: allow an image size other than the configured one.
            attention_mask: not supported.
            output_token_sources: return which place stands for every patch, for each reduction (see
                ``restore_tokens``).
            prefix_only: compute no more of the last layer than the prefix tokens, which then are all of the last
                hidden state.

        Raises:
            ValueError: an attention mask, or an image size that the model cannot take.
        """
        if attention_mask is not None:
            raise ValueError(
                "attention_mask is not supported: the sequence shrinks on its way, so a mask of its first length "
                "cannot hold in later layers. Leave it out."
            )
        image_size = tuple(pixel_values.shape[-2:])
        grid = self.config.patch_grid(image_size)
        schedule = self.config.token_schedule(image_size, reduce=self.reduction_enabled)
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(
            pixel_values, bool_masked_pos=bool_masked_pos, interpolate_pos_encoding=bool(interpolate_pos_encoding)
        )
        layout = dense_layout(hidden_states.shape[0], grid, self.config.num_prefix_tokens, hidden_states.device)
        sources = []
        for layer, tokens in zip(self.layers, schedule, strict=True):
            if prefix_only and tokens.layer == self.config.num_hidden_layers - 1:
                kwargs["num_outputs"] = self.config.num_prefix_tokens
            hidden_states, layout = layer(hidden_states, layout, tokens, **kwargs)
            if tokens.reduces and output_token_sources:
                sources.append(token_sources(layout))

        sequence = self.layernorm(hidden_states)
        return FATRViTModelOutput(
            last_hidden_state=sequence,
            pooler_output=self.pooler(sequence) if self.pooler is not None else None,
            token_sources=tuple(sources) if output_token_sources else None,
        )


class FATRViTForImageClassification(FATRViTPreTrainedModel, ViTForImageClassification):
    """``ViTForImageClassification`` with token reduction: a linear classifier on the CLS token."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: FATRViTConfig):
        super(ViTForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vit = FATRViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        output_token_sources: bool = False,
        **kwargs: Any,
    ) -> FATRViTImageClassifierOutput:
        """Classifies images; arguments as for the encoder.

        Args:
            labels: (batch,) int64 class indices, for the loss.
        """
        outputs = self.vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            output_token_sources=output_token_sources,
            prefix_only=reads_prefix_alone(self.vit, {"output_token_sources": output_token_sources, **kwargs}),
            **kwargs,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return FATRViTImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_sources=outputs.token_sources,
        )


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("FATRViTModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
