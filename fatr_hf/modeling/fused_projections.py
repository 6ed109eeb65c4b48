# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""ViT's projections in fewer and larger matrix products, with the stock model's parameters.

Patches that do not overlap are projected by one matrix product instead of a convolution. For inference a copy of a
model can also hold query, key and value projections as one (``fuse_projections``).
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.models.vit.modeling_vit import ViTAttention, ViTPatchEmbeddings

Model = TypeVar("Model", bound=nn.Module)

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where PyTorch keeps what runs around a module's call."""


def why_not_plain(module: nn.Module, cls: type[nn.Module]) -> str | None:
    """Why a module does not compute what its class says from its own weights; None where it does.

    Adapters, parametrisations and quantised layers are other classes. Hooks run around a call, accelerate's replace
    ``forward``. Pruning and weight normalisation compute the weight before each call, and a quantised or sharded tensor
    takes part in no other product than its own.
    """
    if type(module) is not cls:
        name = type(module).__name__
        kind = f"a {name} of another library" if name == cls.__name__ else name  # as peft's
        return f"is {kind}, not a plain {cls.__name__} layer"
    if "forward" in vars(module) or hasattr(module, "_hf_hook"):
        return "has a forward method of its own, as accelerate's offloading gives it"
    if any(getattr(module, name) for name in HOOKS):
        return "has hooks"
    if "weight" not in module._parameters:
        return "computes its weight before each call, as pruning and weight normalisation do"
    weight = module._parameters["weight"]
    if weight is None or is_traceable_wrapper_subclass(weight) or not weight.is_floating_point():
        return f"has a weight of type {type(weight).__name__}, which is quantised or sharded"
    return None


def is_plain(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module computes what its class says from its own weights (see ``why_not_plain``)."""
    return why_not_plain(module, cls) is None


def check_pixel_values(pixel_values: Any) -> None:
    """Raises a ValueError for what no image processor gives: pictures, bytes, an image that is no batch."""
    if not isinstance(pixel_values, Tensor):
        kind = type(pixel_values).__name__
        raise ValueError(f"pixel_values must be a tensor, as the image processor gives, not {kind}.")
    if pixel_values.dim() != 4:
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values of the shape {shape} must be (batch, channels, height, width).")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values of {pixel_values.dtype} must be of floating point, as the image processor gives: bytes are "
            "neither scaled nor normalised."
        )


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
        if self.training or (torch.is_grad_enabled() and self.qkv_proj.weight.requires_grad):
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

    def check_fusible(self) -> None:
        """Raises a ValueError for a projection whose weights alone do not say what it computes."""
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            reason = why_not_plain(getattr(self, name), nn.Linear)
            if reason is not None:
                raise ValueError(
                    f"{name} {reason}, so there is no fused copy: remove hooks, merge adapters (merge_and_unload of "
                    "peft), make pruning permanent (torch.nn.utils.prune.remove), and quantise the fused copy instead."
                )

    @torch.no_grad()
    def fuse(self) -> None:
        """Puts one projection in the place of three; only ever on a copy (see ``fuse_projections``)."""
        parts = [self.q_proj, self.k_proj, self.v_proj]
        for name in ("q_proj", "k_proj", "v_proj"):
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
    """A copy of a model that shares the memory of all weights and nothing else.

    Parameters, buffers and configuration are the copy's own: casting, moving, freezing or replacing them changes one
    of the two. Only what writes into the weights, as training does, changes both.

    Raises:
        ValueError: a model with weights that are computed before each call, such as pruned ones.
    """
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    shared |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    try:
        return copy.deepcopy(model, shared)
    except RuntimeError as error:
        raise ValueError(
            "A model whose weights are computed before each call cannot be copied: make pruning permanent "
            f"(torch.nn.utils.prune.remove), and remove weight normalisation. {error}"
        ) from error


def check_fusible(model: nn.Module) -> None:
    """Raises a ValueError for a model that is fused already, or has a projection that is more than its weights."""
    if is_fused(model):
        raise ValueError("This model is fused already: use it as it is.")
    for module in model.modules():
        if isinstance(module, ProjectingAttention):
            module.check_fusible()


def fuse_projections(model: Model) -> Model:
    """A copy of a model for inference in which every ``ProjectingAttention`` is fused; it shares other weights' memory.

    Its parameters are frozen, since whatever wrote into them would change the model.

    Raises:
        ValueError: a projection that is more than its weights, or a model that is fused already.
    """
    check_fusible(model)
    fused = shared_copy(model).eval().requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, ProjectingAttention):
            module.fuse()
    return fused
