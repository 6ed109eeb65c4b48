# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The fast copy of a model, for inference: the same numbers with fewer and larger products.

Query, key and value come from one product, and so do the two branches of a gated MLP. omega1 goes into the value's
rows, learned scales go into the projections behind which they stand, and sums overwrite memory that is free.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .encoder import FATRMLP, FATRAttention, FATRLayer, LayerScale, Rows, attend_tokens
from .frequency_attention import Evidence, change_last, mean_keys, reweight_values, value_energies
from .operators import add_residual, token_means
from .positions import rotate
from .token_plan import LayerPlan
from .token_reduction import TokenLayout

Model = TypeVar("Model", bound=nn.Module)

SMALLEST_GAIN = 0.1
"""Below this ``1 + omega1`` nothing is divided by it."""

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


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of given weight (out, in) and bias (out,) that is not trained."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def scaled_linear(linear: nn.Linear, scale: nn.Module) -> nn.Linear:
    """A projection with the learned scale that follows it, if any."""
    if not isinstance(scale, LayerScale):
        return linear
    factor = scale.lambda1
    return frozen_linear(linear.weight * factor[:, None], None if linear.bias is None else linear.bias * factor)


def joined_linear(parts: list[nn.Linear]) -> nn.Linear:
    """Projections of one input as one; a missing bias is zero where another has one."""
    biases = [part.bias for part in parts]
    bias = None
    if any(each is not None for each in biases):
        bias = torch.cat(
            [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
        )
    return frozen_linear(torch.cat([part.weight for part in parts]), bias)


class FusedAttention(nn.Module):
    """``FATRAttention`` with one projection for query, key and value, and re-weighting within it.

    ``A V'' = A (1 + omega1) V - omega1 mean(V)`` for tokens that are no DC tokens; the second term is the same for
    every token of an image and goes through the output projection as one vector.
    """

    is_causal = False

    def __init__(self, attention: FATRAttention, scale: nn.Module, reweights: bool):
        super().__init__()
        self.config = attention.config
        self.num_attention_heads, self.head_dim = attention.num_attention_heads, attention.head_dim
        self.scaling, self.attention_dropout = attention.scaling, attention.attention_dropout
        self.rotates_neighbours = attention.rotates_neighbours
        self.qkv_proj = joined_linear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o_proj = scaled_linear(attention.o_proj, scale)
        self.omega1: nn.Parameter | None = None
        self.omega2: nn.Parameter | None = None
        self.mean_proj: nn.Linear | None = None
        self.register_buffer("dc_gain", None, persistent=False)
        self.register_buffer("gain", None, persistent=False)
        if reweights:
            self.fuse_omegas(attention)

    def fuse_omegas(self, attention: FATRAttention) -> None:
        """Puts omega1 into the projections, and omega2 into a factor of the DC tokens' values."""
        value_weight, value_bias = attention.v_proj.weight, attention.v_proj.bias
        zeros = value_weight.new_zeros(self.num_attention_heads)
        omega1, omega2 = (zeros if each is None else each for each in (attention.omega1, attention.omega2))
        divides = bool(omega2.any()) or self.config.selection == "high_frequency_energy"
        if divides and (1 + omega1).abs().min() < SMALLEST_GAIN:
            # What is divided by a gain near zero loses its digits: leave the omegas as they are.
            self.omega1, self.omega2 = attention.omega1, attention.omega2
            return
        if omega2.any():
            self.dc_gain = 1 + (omega2 / (1 + omega1))[:, None, None]
        if not omega1.any():
            return
        mixed = -self.o_proj.weight * omega1.repeat_interleave(self.head_dim)
        self.mean_proj = frozen_linear(mixed @ value_weight, None if value_bias is None else mixed @ value_bias)
        self.gain = (1 + omega1).abs()
        gain = (1 + omega1).repeat_interleave(self.head_dim)
        self.qkv_proj.weight[-len(gain) :] *= gain[:, None]
        if self.qkv_proj.bias is not None:
            self.qkv_proj.bias[-len(gain) :] *= gain

    def forward(
        self,
        hidden_states: Tensor,
        layout: TokenLayout,
        plan: LayerPlan,
        rows: Rows | None = None,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Evidence, Tensor | None]:
        """Attention over (batch, tokens, hidden), of all tokens or the first ``num_queries``.

        Returns:
            What ``FATRAttention`` returns, and what re-weighting adds to the output of every token (batch, hidden).
        """
        query, key, value = self.project(hidden_states, num_queries)
        keys = mean_keys(key) if plan.reduces and plan.compares_keys else None
        energies = None
        if plan.scores_energy and not plan.prefix_only:
            energies = value_energies(value, layout)
            energies = energies if self.gain is None else energies / self.gain[:, None]
        if rows is not None:
            turned = query if num_queries else rotate(query, rows, self.rotates_neighbours)
            query, key = turned, rotate(key, rows, self.rotates_neighbours)
        if self.omega1 is not None or self.omega2 is not None:
            value = reweight_values(value, self.omega1, self.omega2, layout.num_dc)
        if layout.num_dc and self.dc_gain is not None:
            value = change_last(value, value[:, :, -layout.num_dc :] * self.dc_gain)
        output, weights, scores = attend_tokens(self, query, key, value, layout, plan, energies, **kwargs)
        shift = None if self.mean_proj is None else self.mean_proj(token_means(hidden_states))
        return self.o_proj(output), weights, Evidence(scores, keys), shift

    def project(self, hidden_states: Tensor, num_queries: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (batch, heads, tokens, head_dim); queries of the first ``num_queries`` or all."""
        heads = (self.num_attention_heads, self.head_dim)
        if num_queries is None:
            packed = self.qkv_proj(hidden_states).unflatten(2, (3, *heads)).transpose(1, 3)
            return packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
        width = self.num_attention_heads * self.head_dim
        weights = self.qkv_proj.weight.split([width, 2 * width])
        biases = (None, None) if self.qkv_proj.bias is None else self.qkv_proj.bias.split([width, 2 * width])
        query = nn.functional.linear(hidden_states[:, :num_queries], weights[0], biases[0]).unflatten(2, heads)
        packed = nn.functional.linear(hidden_states, weights[1], biases[1]).unflatten(2, (2, *heads)).transpose(1, 3)
        return query.transpose(1, 2), packed[:, :, 0], packed[:, :, 1]


class FusedMLP(nn.Module):
    """``FATRMLP`` with the two branches of a gated one as one product, and the learned scale within the last."""

    def __init__(self, mlp: FATRMLP, scale: nn.Module):
        super().__init__()
        self.activation_fn = mlp.activation_fn
        self.is_gated = mlp.gate is not None
        self.fc1 = mlp.fc1 if mlp.gate is None else joined_linear([mlp.gate, mlp.fc1])
        self.fc2 = scaled_linear(mlp.fc2, scale)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Of (batch, tokens, hidden), the same shape."""
        inner = self.fc1(hidden_states)
        if not self.is_gated:
            return self.fc2(self.activation_fn(inner))
        gate, inner = inner.chunk(2, dim=2)
        return self.fc2(self.activation_fn(gate) * inner)


class FusedLayer(nn.Module):
    """``FATRLayer`` for inference; of a last layer whose prefix alone is read, it computes no more."""

    is_fused = True

    def __init__(self, layer: FATRLayer, reweights: bool):
        super().__init__()
        self.attention = FusedAttention(layer.attention, layer.layer_scale1, reweights)
        self.reduction = layer.reduction
        # A family's own MLP stays as it is.
        self.mlp = FusedMLP(layer.mlp, layer.layer_scale2) if type(layer.mlp) is FATRMLP else layer.mlp
        self.layernorm_before, self.layernorm_after = layer.layernorm_before, layer.layernorm_after

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
        """As ``FATRLayer.forward``.

        Raises:
            ValueError: a fused copy in training mode.
        """
        if self.training:
            raise ValueError(
                "A fused model is for inference: train the model that it was made from, then fuse that again."
            )
        hidden_states, _, evidence = self.attention_block(hidden_states, layout, plan, rows, **kwargs)
        if plan.reduces and not plan.prefix_only:
            hidden_states, layout = self.reduction(hidden_states, evidence, layout, plan, reduction_implementation)
        return self.mlp_block(hidden_states, *mlp_inputs), layout

    def attention_block(
        self, hidden_states: Tensor, layout: TokenLayout, plan: LayerPlan, rows: Rows | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Evidence]:
        """As ``FATRLayer.attention_block``, of the prefix tokens alone where the plan says so."""
        queries = layout.num_prefix if plan.prefix_only else None
        normed = self.layernorm_before(hidden_states)
        update, weights, evidence, shift = self.attention(normed, layout, plan, rows, queries, **kwargs)
        return add_residual(hidden_states[:, :queries], update, shift, in_place=True), weights, evidence

    def mlp_block(self, hidden_states: Tensor, *mlp_inputs: Tensor) -> Tensor:
        """As ``FATRLayer.mlp_block``."""
        return add_residual(hidden_states, self.mlp(self.layernorm_after(hidden_states), *mlp_inputs), in_place=True)


def is_fused(model: nn.Module) -> bool:
    """Whether a model is a fused copy."""
    return any(getattr(module, "is_fused", False) is True for module in model.modules())


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


def combined_projections(layer: FATRLayer) -> list[str]:
    """Names of a layer's projections whose weights a fused copy combines with others or with a scale."""
    names = [f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    if layer.mlp.gate is not None:
        names += ["mlp.gate", "mlp.fc1"]
    return names if isinstance(layer.layer_scale2, nn.Identity) else [*names, "mlp.fc2"]


def check_fusible(model: nn.Module) -> None:
    """Raises a ValueError for a model that is fused already, or has a projection that is more than its weights."""
    if is_fused(model):
        raise ValueError("This model is fused already: use it as it is.")
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, FATRLayer)]
    for place, layer in layers:
        for name in ("attention", "mlp"):
            part = getattr(layer, name)
            if not isinstance(part, (FATRAttention, FATRMLP)):
                kind = type(part).__name__
                raise ValueError(f"{place}.{name} is {kind}: merge adapters first (merge_and_unload of peft).")
        for name in combined_projections(layer):
            reason = why_not_plain(layer.get_submodule(name), nn.Linear)
            if reason is not None:
                raise ValueError(
                    f"{place}.{name} {reason}, so there is no fused copy: remove hooks, merge adapters "
                    "(merge_and_unload of peft), make pruning permanent (torch.nn.utils.prune.remove), and quantise "
                    "the fused copy instead."
                )


@torch.no_grad()
def fuse_model(model: Model, plan: list[LayerPlan]) -> Model:
    """A copy of a model for inference whose layers are fused; it shares the memory of its other weights.

    Its parameters are frozen, since whatever wrote into them would change the model.

    Args:
        plan: what the copy will do; omegas of layers before its first reduction do not act.

    Raises:
        ValueError: a projection that is more than its weights, or a model that is fused already.
    """
    check_fusible(model)
    fused = shared_copy(model).eval().requires_grad_(False)
    encoder: Any = getattr(fused, "base_model", fused)
    parts = zip(encoder.layers, plan, strict=True)
    encoder.layers = nn.ModuleList([FusedLayer(layer, step.follows_reduction) for layer, step in parts])
    return fused.eval().requires_grad_(False)
