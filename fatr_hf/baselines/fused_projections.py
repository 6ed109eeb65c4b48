"""A stock ViT's attention with its projections apart from the rest, three of them or, in a fused copy, one."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.models.vit.modeling_vit import ViTAttention

from ..modeling.fused_inference import frozen_linear, is_fused, shared_copy, why_not_plain

Model = TypeVar("Model", bound=nn.Module)


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
