# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViT with frequency-aware token reduction (arXiv 2511.21477).

A few layers score their tokens by the attention map's column means, keep the patches that carry high frequencies and
average the others into DC tokens, between attention and MLP. A ``TokenLayout`` goes from layer to layer in the open
and says where every patch is. At the start of training nothing but the reduction differs from the stock ViT.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.vit.modeling_vit import (
    ViTForImageClassification,
    ViTModel,
    ViTPooler,
    ViTPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .budget import choose_keep_ratio
from .configuration_fatr_vit import FATRViTConfig
from .fused_projections import (
    check_fusible,
    check_pixel_values,
    fuse_projections,
    is_fused,
    reads_prefix_alone,
    shared_copy,
)
from .hub_repository import HubRepositoryMixin
from .input_budget import InputBudgetOutput, run_by_mass
from .layers_fatr_vit import FATRViTAttention, FATRViTEmbeddings, FATRViTLayer, FATRViTReduction
from .token_reduction import TokenLayout, dense_layout, token_sources
from .token_schedule import LayerTokens


class ReductionSwitches(threading.local):
    """Which encoders a thread has switched, by identity: whether each reduces.

    A dictionary in a ``threading.local``, and no ``ContextVar``, since ``torch.compile`` of torch 2.11 does not read
    the latter, and guards its graphs by the former.
    """

    def __init__(self) -> None:
        self.enabled: dict[int, bool] = {}


_switches = ReductionSwitches()


@dataclass
class FATRViTModelOutput(BaseModelOutputWithPooling):
    """Stock ViT's output and, where asked for, ``token_sources``: one (batch, patches) int64 tensor per reduction."""

    token_sources: tuple[Tensor, ...] | None = None


@dataclass
class FATRViTImageClassifierOutput(ImageClassifierOutput):
    """Stock ViT's output and, where asked for, ``token_sources``: one (batch, patches) int64 tensor per reduction."""

    token_sources: tuple[Tensor, ...] | None = None


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
        ``dc_size_exponent`` may change freely. Either all changes are made or none. They hold for every thread: change
        a model before others use it.

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
        # All at once, so that no other thread plans a schedule of old and new fields.
        vars(self.config).update({name: getattr(config, name) for name in changes})

    def fuse(self) -> Self:
        """A copy for inference that computes the same with fewer and larger products.

        Query, key and value come from one projection, into which omega1 goes too; what re-weighting takes off every
        token of an image is one vector; omegas that are zero cost nothing; a classifier that is asked for logits
        computes no more of its last layer than CLS. The copy shares the memory of the other weights and is frozen; it
        can be cast and moved without changing this model. It is neither trained nor saved, and its reduction is fixed:
        do all that with this model, and fuse it again.

        Raises:
            ValueError: a projection that is more than its weights (hooks, adapters, pruning, quantisation), or a fused
                model.
        """
        check_fusible(self)
        for name, module in self.named_modules():
            if name.endswith(".attention") and not isinstance(module, FATRViTAttention):
                raise ValueError(f"{name} is {type(module).__name__}: merge adapters first (merge_and_unload of peft).")
        reduces = bool(self.base_model.reduction_enabled)
        acting = shared_copy(self)
        encoder: Any = acting.base_model
        encoder.acts_unreduced = not reduces
        schedule = self.config.token_schedule(reduce=reduces)
        for layer, tokens in zip(encoder.layers, schedule, strict=True):
            if not tokens.follows_reduction:
                layer.attention.omega1 = layer.attention.omega2 = (
                    None  # they wait for a reduction, and fused they would act
                )
        return fuse_projections(acting)

    def for_budget(
        self,
        *,
        macs: float | None = None,
        latency_ms: float | None = None,
        batch_size: int = 1,
        image_size: int | Iterable[int] | None = None,
    ) -> Self:
        """Sets the highest keep ratio, the same in all reduction layers, that a budget allows, and returns the model.

        Meant for a model whose training drew many keep ratios; any other loses accuracy away from its own.

        Args:
            macs: multiply-accumulates of an image (see ``schedule_macs``).
            latency_ms: milliseconds of a forward pass of ``batch_size`` images on this model's device, measured where
                ``config.measured_latencies`` does not hold it yet. Fused, the model is faster.
            batch_size: images of that pass.
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.

        Raises:
            ValueError: no budget or one that cannot be met, a fused model, or one without reduction layers.
        """
        refuse_fused(self, "for_budget")
        self.set_reduction(keep_ratio=choose_keep_ratio(self, macs, latency_ms, batch_size, image_size))
        return self

    @contextmanager
    def reduction(self, enabled: bool) -> Iterator[None]:
        """Switches the reduction off (or on again) within a ``with`` block: off, the model is a stock ViT.

        Re-weighting belongs to the reduction: without DC tokens there is none, as at a keep ratio of 1. The switch
        holds for the thread that is in the block; others that use the model at the same time keep theirs.

        Raises:
            ValueError: a value that is not True or False, or a fused model.
        """
        if not isinstance(enabled, bool):
            raise ValueError(f"reduction({enabled!r}) must be given True or False.")
        refuse_fused(self, "reduction")
        before = _switches.enabled
        _switches.enabled = {**before, id(self.base_model): enabled}
        try:
            yield
        finally:
            _switches.enabled = before

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in PyTorch.

        Raises:
            ValueError: a fused model, which shares the memory of its weights.
        """
        refuse_fused(self, "load_state_dict")
        return super().load_state_dict(*args, **kwargs)


def refuse_training(model: nn.Module, layers: Iterable[Any]) -> None:
    """Raises a ValueError for a fused copy whose weights, which another model shares, are about to get gradients."""
    if torch.is_grad_enabled() and any(layer.attention.is_fused for layer in layers):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                raise ValueError(f"A fused model is for inference, and {name} requires a gradient: train its original.")


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
        self.acts_unreduced = False
        """Set in a fused copy that was made while the reduction was switched off."""
        self.embeddings = FATRViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = nn.ModuleList([FATRViTLayer(config, tokens) for tokens in config.token_schedule()])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @property
    def reduction_enabled(self) -> bool:
        """Whether the model reduces, in the thread that asks (see ``reduction``)."""
        return not self.acts_unreduced and _switches.enabled.get(id(self), True)

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
            ValueError: an attention mask, pixel values of another shape or kind, or an image size that the model cannot
                take.
        """
        check_pixel_values(pixel_values)
        refuse_training(self, self.layers)
        if attention_mask is not None:
            raise ValueError(
                "attention_mask is not supported: the sequence shrinks on its way, so a mask of its first length "
                "cannot hold in later layers. Leave it out."
            )
        schedule = self.config.token_schedule(pixel_values.shape[-2:], reduce=self.reduction_enabled)
        hidden_states, layout = self.embed(pixel_values, bool_masked_pos, interpolate_pos_encoding)
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

    def embed(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> tuple[Tensor, TokenLayout]:
        """The sequence (batch, prefix + patches, hidden) that enters the first layer, and its layout."""
        grid = self.config.patch_grid(pixel_values.shape[-2:])
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(
            pixel_values, bool_masked_pos=bool_masked_pos, interpolate_pos_encoding=bool(interpolate_pos_encoding)
        )
        return hidden_states, dense_layout(
            hidden_states.shape[0], grid, self.config.num_prefix_tokens, pixel_values.device
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
        refuse_training(self, self.vit.layers)
        outputs = self.vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            output_token_sources=output_token_sources,
            prefix_only=reads_prefix_alone(self.vit, {"output_token_sources": output_token_sources, **kwargs}),
            return_dict=True,
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

    @torch.no_grad()
    def forward_by_mass(
        self,
        pixel_values: Tensor,
        selection_mass: float = 0.9,
        keep_ratios: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
        interpolate_pos_encoding: bool | None = None,
    ) -> InputBudgetOutput:
        """Classifies every image with as few tokens as hold ``selection_mass`` of the attention (``input_budget.py``).

        Args:
            pixel_values: (batch, channels, height, width).
            selection_mass: share of the patches' column mass that the kept ones must carry, in (0, 1].
            keep_ratios: increasing; an image gets the first at which they do, or else the last.
            interpolate_pos_encoding: allow an image size other than the configured one.

        Raises:
            ValueError: values that are not allowed, or a model that is in training, switched off or ranks otherwise.
        """
        return run_by_mass(self, pixel_values, selection_mass, keep_ratios, interpolate_pos_encoding)


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("FATRViTModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
