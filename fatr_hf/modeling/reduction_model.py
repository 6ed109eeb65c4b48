# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What the models of all families share: the plan of a call, the reduction's switches, and encoding."""

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .budget import keep_ratio_for_macs
from .encoder import Encoded, FATRAttention, FATRLayer, FATRReduction, LayerScale, Rows, run_layers
from .fused_inference import FusedAttention, FusedLayer, fuse_model, is_fused
from .hub_repository import HubRepositoryMixin
from .positions import Positions
from .reduction_config import ReductionConfig
from .token_plan import LayerPlan
from .token_reduction import TokenLayout, dense_layout, token_sizes, token_sources


class ReductionSwitches(threading.local):
    """Which encoders a thread has switched, by identity: whether each reduces.

    A dictionary in a ``threading.local``, and no ``ContextVar``, since ``torch.compile`` of torch 2.11 does not read
    the latter, and guards its graphs by the former.
    """

    def __init__(self) -> None:
        self.enabled: dict[int, bool] = {}


_switches = ReductionSwitches()


@dataclass
class FATRModelOutput(BaseModelOutputWithPooling):
    """A stock encoder's output and, where asked for, what the tokens stand for."""

    token_sources: tuple[Tensor, ...] | None = None
    """For each reduction, (batch, patches) int64: which place of the sequence stands for every patch."""
    token_sizes: Tensor | None = None
    """(batch, tokens) int64: how many patches each token of the last hidden state stands for; 0 for prefix tokens."""


class ReductionModel(HubRepositoryMixin):
    """What encoders and classifiers share: loading and saving, the plan of a call, and the reduction's switches."""

    config: ReductionConfig
    _can_record_outputs = {
        "hidden_states": [FATRLayer, FusedLayer],
        "attentions": [FATRAttention, FusedAttention],
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FATRAttention):
            for omega in (module.omega1, module.omega2):
                if omega is not None:
                    init.zeros_(omega)
        elif isinstance(module, FATRReduction) and module.dc_position_embeddings is not None:
            init.zeros_(module.dc_position_embeddings)
        elif isinstance(module, LayerScale):
            init.constant_(module.lambda1, module.value)

    @property
    def reduction_enabled(self) -> bool:
        """Whether the model reduces, in the thread that asks (see ``reduction``)."""
        return _switches.enabled.get(id(self.base_model), True)

    def plan_for(self, pixel_values: Tensor, plan: Sequence[LayerPlan] | None = None) -> list[LayerPlan]:
        """The plan of a forward pass over these images: the one that is given, checked, or the configuration's.

        Raises:
            ValueError: pixel values of another shape or kind, or a plan made for another model or image size.
        """
        check_pixel_values(pixel_values, self.config.num_channels, self.config.input_axes)
        image_size = sides_of(pixel_values)
        if plan is None:
            return self.config.plan(image_size, reduce=self.reduction_enabled)
        check_plan(self, plan, image_size)
        return list(plan)

    def set_reduction(self, **changes: Any) -> None:
        """Changes the reduction of a loaded model: any of the configuration's reduction fields but its parameters.

        What the new plan needs must be there: omega1 from its first reduction layer on, omega2 behind it, DC position
        embeddings of the right number of windows. Ratios, ``token_multiple``, ``selection`` and ``size_exponent``
        may change freely. Either all changes are made or none. They hold for every thread: change a model before others
        use it, or give a call its own ``plan``.

        Raises:
            ValueError: a field that cannot be changed, or a plan that lacks parameters in this model.
            huggingface_hub.errors.StrictDataclassError: values that the configuration refuses.
        """
        check_not_fused(self, "set_reduction")
        allowed = (
            "reduction_layers",
            "keep_ratio",
            "dc_windows",
            "fold",
            "selection",
            "token_multiple",
            "size_exponent",
        )
        for name in changes:
            if name not in allowed:
                raise ValueError(f"set_reduction cannot change {name!r}: only {', '.join(allowed)}.")
        config = type(self.config).from_dict(self.config.to_dict(), **changes)
        check_parameters(self, config.plan(), config)
        # All at once, so that no other thread plans by old and new fields.
        vars(self.config).update({name: getattr(config, name) for name in allowed})

    def fuse(self) -> Self:
        """A copy for inference that computes the same with fewer and larger products.

        Query, key and value come from one projection, into which omega1 goes too; what re-weighting takes off every
        token of an image is one vector; learned scales and omegas that are zero cost nothing; a classifier that reads
        the prefix and is asked for logits computes no more of its last layer. The copy shares the memory of the other
        weights and is frozen; it can be cast and moved without changing this model. It is neither trained nor saved,
        and its reduction is fixed: do all that with this model, and fuse it again.

        Raises:
            ValueError: a projection that is more than its weights (hooks, adapters, pruning, quantisation), or a fused
                model.
        """
        fused = fuse_model(self, self.config.plan(reduce=self.reduction_enabled))
        if not self.reduction_enabled:
            fused.config.keep_ratio = 1.0  # the copy's own configuration
        return fused

    def for_budget(self, *, macs: float, image_size: int | Iterable[int] | None = None) -> Self:
        """Sets the highest keep ratio, the same in all reduction layers, that a budget allows, and returns the model.

        Meant for a model whose training drew many keep ratios; any other loses accuracy away from its own.

        Args:
            macs: multiply-accumulates of an image (see ``schedule_macs``).
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.

        Raises:
            ValueError: a budget that cannot be met, a fused model, or one without reduction layers.
        """
        check_not_fused(self, "for_budget")
        self.set_reduction(keep_ratio=keep_ratio_for_macs(self.config, macs, image_size))
        return self

    @contextmanager
    def reduction(self, enabled: bool) -> Iterator[None]:
        """Switches the reduction off (or on again) within a ``with`` block: off, the model is a stock one.

        Re-weighting belongs to the reduction: without DC tokens there is none, as at a keep ratio of 1. The switch
        holds for the thread that is in the block; others that use the model at the same time keep theirs.

        Raises:
            ValueError: a value that is not True or False, or a fused model.
        """
        if not isinstance(enabled, bool):
            raise ValueError(f"reduction({enabled!r}) must be given True or False.")
        check_not_fused(self, "reduction")
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
        check_not_fused(self, "load_state_dict")
        return super().load_state_dict(*args, **kwargs)


class ReductionEncoder(ReductionModel):
    """An encoder: images are embedded, run through the layers, and read out."""

    embeddings: Any
    layers: nn.ModuleList
    layernorm: nn.LayerNorm

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """The sequence (batch, prefix + patches, hidden) that enters the first layer; arguments as for ``forward``."""
        if self.config.takes_any_size:  # and so does not ask
            kwargs.pop("interpolate_pos_encoding", None)
        embedded: Tensor = self.embeddings(pixel_values, **kwargs)
        return embedded

    def rotary(self, pixel_values: Tensor) -> Rows | None:
        """Cosines and sines of the rotary positions of every patch, (patches, head_dim) each; None without them."""
        return None

    def added_positions(self, pixel_values: Tensor) -> Tensor | None:
        """What tokens get between layers, (layers - 1, prefix + patches, hidden); None where they get nothing."""
        return None

    def normed(self, hidden_states: Tensor) -> Tensor:
        """The layers' output (batch, tokens, hidden) as the model gives it: after its last norm."""
        return self.layernorm(hidden_states)

    def pool(self, sequence: Tensor, layout: TokenLayout) -> Tensor | None:
        """What is pooled from normed tokens: by the family's pooler, which may be left out, or else the first token."""
        pooler: Any = getattr(self, "pooler", lambda tokens: tokens[:, 0])
        return None if pooler is None else pooler(sequence)

    def read_out(self, encoded: Encoded) -> FATRModelOutput:
        """What becomes of the layers' output: its tokens, on the full grid if that was asked for, and a pooled one."""
        sequence = self.normed(encoded.hidden_states)
        pooled = self.pool(sequence, encoded.layout)
        if encoded.dense:
            sequence = self.normed(encoded.dense[-1])
        return FATRModelOutput(last_hidden_state=sequence, pooler_output=pooled)

    def start(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, TokenLayout, Positions]:
        """The embedded images, their layout and the positions that act behind the embeddings."""
        hidden_states = self.embed(pixel_values, **kwargs)
        grid = self.config.patch_grid(sides_of(pixel_values))
        layout = dense_layout(hidden_states.shape[0], grid, self.config.num_prefix_tokens, hidden_states.device)
        return hidden_states, layout, Positions(self.rotary(pixel_values), self.added_positions(pixel_values))

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        plan: Sequence[LayerPlan] | None = None,
        output_token_sources: bool = False,
        output_token_sizes: bool = False,
        **kwargs: Any,
    ) -> FATRModelOutput:
        """Encodes images.

        With ``dense_outputs`` in the configuration the last hidden state and all others are on the full grid; what is
        pooled is pooled from the reduced sequence.

        Args:
            pixel_values: (batch, channels, height, width), of videos (batch, frames, channels, height, width).
            bool_masked_pos: (batch, patches) bool, patches to replace by the mask token, in families that have one.
            interpolate_pos_encoding: allow an image size other than the configured one, in families that ask for this.
            plan: what every layer does, for this call only (see ``config.plan``); by default the configuration's plan.
            output_token_sources: return which place stands for every patch, for each reduction (see
                ``restore_tokens``).
            output_token_sizes: return how many patches each token stands for; None where each stands for one.

        Raises:
            ValueError: an attention mask, pixel values of another shape or kind, an image size that the model cannot
                take, a plan made for another, or a fused copy whose weights would get gradients.
        """
        plan = self.plan_for(pixel_values, plan)
        check_no_training(self)
        check_no_mask(kwargs.pop("attention_mask", None))
        dense = None
        if self.config.dense_outputs and any(step.reduces for step in plan):
            asked = kwargs.pop("output_hidden_states", None)
            asked = self.config.output_hidden_states if asked is None else asked
            dense = asked_stages(asked or False, len(plan))
            kwargs["output_hidden_states"] = False  # these are not the hidden states that leave the layers
        return self.encode(
            pixel_values,
            plan,
            dense,
            {"bool_masked_pos": bool_masked_pos, "interpolate_pos_encoding": bool(interpolate_pos_encoding)},
            output_token_sources=output_token_sources,
            output_token_sizes=output_token_sizes,
            **kwargs,
        )

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def encode(
        self,
        pixel_values: Tensor,
        plan: Sequence[LayerPlan],
        dense: set[int] | None,
        embedding: dict[str, Any],
        *,
        output_token_sources: bool,
        output_token_sizes: bool,
        **kwargs: Any,
    ) -> FATRModelOutput:
        """``forward`` by a plan that has been checked.

        Args:
            dense: the hidden states to give on the full grid, where the last one is too; None for reduced outputs.
            embedding: further arguments of ``embed``.
        """
        hidden_states, layout, positions = self.start(pixel_values, **embedding)
        stages = [] if dense is None else sorted({*dense, len(plan)})
        encoded = run_layers(self.layers, hidden_states, layout, plan, positions, dense_stages=stages, **kwargs)
        outputs = self.read_out(encoded)
        if dense:
            states = dict(zip(stages, encoded.dense, strict=True))
            given: Any = tuple(states[stage] if stage in dense else None for stage in range(len(plan) + 1))
            outputs.hidden_states = given
        if output_token_sources:
            outputs.token_sources = tuple(token_sources(each) for each in encoded.reduced_layouts)
        if output_token_sizes and encoded.layout.is_reduced and dense is None:
            outputs.token_sizes = token_sizes(encoded.layout)
        return outputs


def asked_stages(asked: bool | int | Sequence[int], depth: int) -> set[int]:
    """The places of the hidden states that are asked for, from 0 to the number of layers.

    Args:
        asked: ``output_hidden_states``, as in transformers: whether to give them, or the places of some of them.
        depth: number of layers.
    """
    if isinstance(asked, bool):
        return set(range(depth + 1)) if asked else set()
    places = [asked] if isinstance(asked, int) else asked
    return {place % (depth + 1) for place in places if -depth - 1 <= place <= depth}


def sides_of(pixel_values: Tensor) -> tuple[int, ...]:
    """Height and width in pixels of a batch of images, of videos the number of frames before them."""
    return (*pixel_values.shape[1:-3], *pixel_values.shape[-2:])


def check_pixel_values(
    pixel_values: Any, num_channels: int | None = None, axes: Sequence[str] = ReductionConfig.input_axes
) -> None:
    """Raises a ValueError for what no image processor gives: pictures, bytes, an image that is no batch.

    Args:
        num_channels: that the model takes; None leaves them to the model.
        axes: what there is along each axis behind the batch.
    """
    if not isinstance(pixel_values, Tensor):
        kind = type(pixel_values).__name__
        raise ValueError(f"pixel_values must be a tensor, as the image processor gives, not {kind}.")
    if pixel_values.dim() != 1 + len(axes):
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values of the shape {shape} must be (batch, {', '.join(axes)}).")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values of {pixel_values.dtype} must be of floating point, as the image processor gives: bytes are "
            "neither scaled nor normalised."
        )
    if num_channels is not None and pixel_values.shape[-3] != num_channels:
        raise ValueError(f"pixel_values have {pixel_values.shape[-3]} channels, but the model takes {num_channels}.")


def check_no_training(model: Any) -> None:
    """Raises a ValueError for a fused copy whose weights, which another model shares, are about to get gradients."""
    if torch.is_grad_enabled() and any(layer.is_fused for layer in model.base_model.layers):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                raise ValueError(f"A fused model is for inference, and {name} requires a gradient: train its original.")


def check_no_mask(attention_mask: Tensor | None) -> None:
    """Raises a ValueError for an attention mask."""
    if attention_mask is not None:
        raise ValueError(
            "attention_mask is not supported: the sequence shrinks on its way, so a mask of its first length cannot "
            "hold in later layers. Leave it out."
        )


def check_not_fused(model: nn.Module, method: str) -> None:
    """Raises a ValueError where a method would change a fused model, whose weights hold its reduction."""
    if is_fused(model):
        raise ValueError(f"{method}: a fused model is fixed; use the model that it was made from, and fuse that again.")


def check_plan(model: ReductionModel, plan: Sequence[LayerPlan], image_size: Iterable[int]) -> None:
    """Raises a ValueError for a plan that was made for another model or image size (height and width in pixels)."""
    config = model.config
    patches = math.prod(config.patch_grid(image_size))
    if not isinstance(plan, Sequence) or not all(hasattr(step, "patches_in") for step in plan):
        kind = type(plan).__name__
        raise ValueError(f"plan must be a list with a LayerPlan for each layer, as config.plan() gives it, not {kind}.")
    if len(plan) != config.num_hidden_layers:
        raise ValueError(f"plan has {len(plan)} layers, and the model {config.num_hidden_layers}: use config.plan().")
    first = plan[0]
    if (first.prefix, first.patches_in) != (config.num_prefix_tokens, patches):
        raise ValueError(
            f"plan begins with {first.prefix} prefix tokens and {first.patches_in} patches, but these images of this "
            f"model have {config.num_prefix_tokens} and {patches}: use config.plan(image_size)."
        )
    if is_fused(model) and config.reweight_attention:
        if [step._replace(prefix_only=False) for step in plan] != config.plan(image_size):
            raise ValueError("plan: a fused model is fixed; give the plan to the model that it was made from.")
        return
    check_parameters(model, plan, config)


def check_parameters(model: ReductionModel, plan: Sequence[LayerPlan], config: ReductionConfig) -> None:
    """Raises a ValueError where a layer lacks a parameter that a plan and a configuration call for."""
    encoder: Any = model.base_model
    for layer, step in zip(encoder.layers, plan, strict=True):
        lacking = []
        if config.reweight_attention and step.follows_reduction and layer.attention.omega1 is None:
            lacking.append("omega1")
        if config.reweight_attention and step.dc_in and layer.attention.omega2 is None:
            lacking.append("omega2")
        if config.dc_position_embeddings and step.reduces and step.dc_out:
            embeddings = layer.reduction.dc_position_embeddings
            if embeddings is None or len(embeddings) != step.dc_out:
                lacking.append(f"DC position embeddings for {' x '.join(map(str, step.windows_out))} windows")
        if lacking:
            raise ValueError(
                f"reduction_layers={config.reduction_layers}, keep_ratio={config.keep_ratio}, "
                f"dc_windows={config.dc_windows} needs parameters that layer {step.layer} of this model does not have: "
                f"{', '.join(lacking)}. Load the unreduced checkpoint with these fields instead."
            )
