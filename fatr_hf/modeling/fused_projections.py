# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViT's projections in fewer and larger matrix products, with the stock model's parameters.

Patches that do not overlap are projected by one matrix product instead of a convolution. For inference a copy of a
model can also hold query, key and value projections as one (``fuse_projections``).
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.models.vit.modeling_vit import ViTAttention, ViTPatchEmbeddings

Model = TypeVar("Model", bound=nn.Module)


def is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module computes what its class says from its own weights.

    Adapters and quantised layers are other classes; accelerate's offloading brings the weights in a hook.
    """
    return type(module) is cls and not hasattr(module, "_hf_hook")


class PatchEmbeddings(ViTPatchEmbeddings):
    """ViT's patch embedding as one matrix product: the convolution's weights, (hidden, channels, height, width)."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeds pixels (batch, channels, height, width) as (batch, patches, hidden), patches row by row."""
        if not is_plain(self.projection, nn.Conv2d) or pixel_values.shape[1] != self.num_channels:
            return super().forward(pixel_values)
        height, width = self.projection.kernel_size
        rows, columns = pixel_values.shape[2] // height, pixel_values.shape[3] // width
        image = pixel_values[:, :, : rows * height, : columns * width]
        patches = image.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5)
        weight = self.projection.weight.flatten(1)
        return nn.functional.linear(patches.flatten(3).flatten(1, 2), weight, self.projection.bias)


class ProjectingAttention(ViTAttention):
    """ViT's attention with its projections apart from the rest, three of them or, in a fused copy, one."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.qkv_proj: nn.Linear | None = None

    @property
    def is_fused(self) -> bool:
        """Whether this is a fused copy."""
        return self.qkv_proj is not None

    def project(self, hidden_states: Tensor, num_queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (batch, heads, tokens, head_dim).

        Args:
            hidden_states: (batch, tokens, hidden).
            num_queries: queries of so many first tokens only; by default of all.

        Raises:
            ValueError: a fused copy in training.
        """
        heads = (self.num_attention_heads, self.head_dim)
        if self.qkv_proj is None:
            inputs = (hidden_states[:, :num_queries], hidden_states, hidden_states)
            projections = (self.q_proj, self.k_proj, self.v_proj)
            parts = [projection(tokens) for projection, tokens in zip(projections, inputs, strict=True)]
            query, key, value = (part.unflatten(2, heads).transpose(1, 2) for part in parts)
            return query, key, value
        if self.training:
            raise ValueError("A fused model is for inference: train the model that it was made from, then fuse again.")
        if num_queries is None:
            packed = self.qkv_proj(hidden_states).unflatten(2, (3, *heads)).transpose(1, 3)
            return packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
        width = self.num_attention_heads * self.head_dim
        weights = self.qkv_proj.weight.split([width, 2 * width])
        biases = (None, None) if self.qkv_proj.bias is None else self.qkv_proj.bias.split([width, 2 * width])
        query = nn.functional.linear(hidden_states[:, :num_queries], weights[0], biases[0]).unflatten(2, heads)
        packed = nn.functional.linear(hidden_states, weights[1], biases[1]).unflatten(2, (2, *heads)).transpose(1, 3)
        return query.transpose(1, 2), packed[:, :, 0], packed[:, :, 1]

    @torch.no_grad()
    def fuse(self) -> None:
        """Puts one projection in the place of three; only ever on a copy (see ``fuse_projections``)."""
        parts = [self.q_proj, self.k_proj, self.v_proj]
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            if not is_plain(part, nn.Linear):
                raise ValueError(
                    f"{name} is {type(part).__name__}, not a plain Linear layer: merge adapters first; of a quantised "
                    "or offloaded model there is no fused copy."
                )
            delattr(self, name)
        weight = torch.cat([part.weight for part in parts])
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        self.qkv_proj = frozen_linear(weight, bias)


def reads_prefix_alone(encoder: Any, arguments: dict[str, Any]) -> bool:
    """Whether a classifier's last layer need compute no more than its prefix tokens: in a fused copy, asked for logits.

    Args:
        encoder: whose ``layers`` have a ``ProjectingAttention`` each.
        arguments: keyword arguments of the classifier; where hidden states or attention maps are asked for, all
            tokens are computed.
    """
    asked = ("output_hidden_states", "output_attentions", "output_token_sources")
    if any(arguments.get(name, getattr(encoder.config, name, False)) for name in asked):
        return False
    return bool(encoder.layers[-1].attention.is_fused)


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of given weight (out, in) and bias (out,) that is not trained."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def is_fused(model: nn.Module) -> bool:
    """Whether a model is a copy that ``fuse_projections`` made."""
    return any(module.is_fused for module in model.modules() if isinstance(module, ProjectingAttention))


def shared_copy(model: Model) -> Model:
    """A copy of a model, with a configuration of its own, that shares all weights."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def fuse_projections(model: Model) -> Model:
    """A copy of a model for inference in which every ``ProjectingAttention`` is fused; other weights are shared.

    Raises:
        ValueError: a projection that is no plain linear layer, or a model that is fused already.
    """
    if is_fused(model):
        raise ValueError("This model is fused already: use it as it is.")
    fused = shared_copy(model).eval()
    for module in fused.modules():
        if isinstance(module, ProjectingAttention):
            module.fuse()
    return fused
