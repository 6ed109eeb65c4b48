# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""V-JEPA 2's pooling by layers of attention, over tokens that stand for several patches."""

from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from .encoder import eager_attention
from .frequency_attention import append_sizes


class FATRVJEPA2AttentivePooler(VJEPA2AttentivePooler):
    """Stock's pooling by attention, to which a token that stands for ``c`` patches counts as ``c`` tokens."""

    def forward(self, hidden_state: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The pooled video (batch, hidden) of (batch, tokens, hidden): that of the restored grid.

        Args:
            sizes: (batch, tokens), of ``token_sizes``; None where every token stands for one patch.
        """
        if sizes is None:
            return super().forward(hidden_state)
        layers: Any = self.self_attention_layers
        for layer in layers:
            attention, normed = layer.self_attn, layer.layer_norm1(hidden_state)
            hidden_state = hidden_state + attention.out_proj(attend_sized(attention, normed, normed, sizes))
            hidden_state = hidden_state + layer.mlp(layer.layer_norm2(hidden_state))
        last, query = self.cross_attention_layer, self.query_tokens.expand(hidden_state.shape[0], -1, -1)
        pooled = query + attend_sized(last.cross_attn, query, last.layer_norm1(hidden_state), sizes)
        return (pooled + last.mlp(last.layer_norm2(pooled))).squeeze(1)


def attend_sized(attention: Any, queries: Tensor, tokens: Tensor, sizes: Tensor) -> Tensor:
    """Attention of the pooler, its logits raised by the logarithm of the sizes; a token of size 0 is left out.

    Args:
        attention: the pooler's module, whose projections are used.
        queries: (batch, queries, hidden).
        tokens: (batch, tokens, hidden).
        sizes: (batch, tokens).

    Returns:
        (batch, queries, hidden), before any output projection.
    """
    heads = (attention.num_heads, attention.head_dim)
    pairs = ((attention.q_proj, queries), (attention.k_proj, tokens), (attention.v_proj, tokens))
    query, key, value = (projection(given).unflatten(2, heads).transpose(1, 2) for projection, given in pairs)
    query, key, value = append_sizes(query, key, value, sizes, 1.0, attention.scale)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention)
    dropout = attention.dropout if attention.training else 0.0
    output, _ = attend(attention, query, key, value, None, scaling=attention.scale, dropout=dropout)
    return output[..., : attention.head_dim].flatten(2)
