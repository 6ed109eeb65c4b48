"""What all rivals share: a stock ViT whose layers may shorten the sequence between attention and MLP.

No rival has parameters of its own, so the state dict is stock ViT's, name for name. The token counts of all layers
are integers that follow from configuration and image size; the sizes of merged tokens go from layer to layer as an
argument.
"""

import os
from typing import Any

from torch import Tensor, nn
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
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..modeling.frequency_attention import AttentionResult, attend
from ..modeling.fused_inference import is_fused
from ..modeling.operators import add_residual
from ..modeling.patch_embedding import use_products
from ..modeling.reduction_model import check_pixel_values
from .configuration import BaselineConfig, Grids
from .fused_projections import ProjectingAttention, reads_prefix_alone


class BaselineEmbeddings(ViTEmbeddings):
    """Stock ViT's embeddings; the patches by one matrix product."""

    def __init__(self, config: BaselineConfig, use_mask_token: bool = False):
        super().__init__(config, use_mask_token)
        use_products(self)


class BaselineAttention(ProjectingAttention):
    """Stock ViT's attention; rivals override ``forward`` to return what their reduction goes by."""

    def forward(
        self,
        hidden_states: Tensor,
        sizes: Tensor | None,
        reduces: bool,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Attention over a sequence (batch, tokens, hidden), of all tokens or the first ``num_queries``.

        Args:
            sizes: (batch, tokens), patches that each token stands for; None while every token stands for one.
            reduces: whether the layer shortens its sequence.

        Returns:
            Output (batch, queries, hidden); the map (batch, heads, tokens, tokens) under eager attention; what the
            layer's reduction goes by, here nothing.
        """
        output, result = self.attend(*self.project(hidden_states, num_queries), **kwargs)
        return output, result.weights, None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, selection: str | None = None, **kwargs: Any
    ) -> tuple[Tensor, AttentionResult]:
        """The attention's projected output (batch, tokens, hidden), and what ``modeling``'s ``attend`` returns."""
        result = attend(
            ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward),
            self,
            query,
            key,
            value,
            self.scaling,
            selection=selection,
            dropout=self.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.o_proj(result.output[..., : self.head_dim].flatten(2)), result


class BaselineLayer(ViTLayer):
    """A pre-norm transformer layer that reduces its sequence, where it has to, between attention and MLP."""

    attention_class: type[BaselineAttention] = BaselineAttention

    def __init__(self, config: BaselineConfig):
        super(ViTLayer, self).__init__()
        self.attention = self.attention_class(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        sizes: Tensor | None,
        tokens_out: int,
        num_outputs: int | None = None,
        grids: Grids = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The next sequence (batch, tokens_out, hidden), and its sizes (batch, tokens_out) or None.

        With ``num_outputs`` only what becomes of so many first tokens is computed, and nothing reduced.
        """
        reduces = tokens_out < hidden_states.shape[1] and num_outputs is None
        hidden_states, _, evidence = self.attend(hidden_states, sizes, reduces, num_outputs, **kwargs)
        if reduces:
            hidden_states, sizes = self.reduce(hidden_states, evidence, sizes, tokens_out, grids)
        return self.mix(hidden_states), sizes

    def attend(
        self,
        hidden_states: Tensor,
        sizes: Tensor | None,
        reduces: bool,
        num_outputs: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The layer up to its reduction: the sequence after attention's residual, the map, what a reduction goes by."""
        normalized = self.layernorm_before(hidden_states)
        attended, weights, evidence = self.attention(normalized, sizes, reduces, num_outputs, **kwargs)
        residual, in_place = hidden_states[:, :num_outputs], bool(self.attention.is_fused)
        return add_residual(residual, self.dropout(attended), in_place=in_place), weights, evidence

    def mix(self, hidden_states: Tensor) -> Tensor:
        """The layer from its reduction on: the MLP and its residual."""
        update = self.dropout(self.mlp(self.layernorm_after(hidden_states)))
        return add_residual(hidden_states, update, in_place=bool(self.attention.is_fused))

    def reduce(
        self, hidden_states: Tensor, evidence: Tensor | None, sizes: Tensor | None, tokens_out: int, grids: Grids
    ) -> tuple[Tensor, Tensor | None]:
        """The shortened sequence (batch, tokens_out, hidden) and its sizes (batch, tokens_out) or None.

        Args:
            hidden_states: (batch, tokens, hidden), more than ``tokens_out`` tokens.
            evidence: what the layer's attention returned for this.
            sizes: (batch, tokens) or None.
            grids: rows and columns that a sequence of so many tokens has, for rivals whose tokens stay a grid.
        """
        raise NotImplementedError


class BaselinePreTrainedModel(ViTPreTrainedModel):
    """What encoders and classifiers of all rivals share."""

    config: BaselineConfig
    _can_record_outputs = {"hidden_states": BaselineLayer, "attentions": BaselineAttention}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in transformers, under the state dict's names, which a resumed Trainer reads without renaming.

        Raises:
            ValueError: a fused copy, whose weights have other names.
        """
        if is_fused(self):
            raise ValueError("A fused model cannot be saved: save the model that it was made from.")
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)


class BaselineModel(BaselinePreTrainedModel, ViTModel):
    """The encoder of a rival. Its last hidden state is the reduced sequence."""

    layer_class: type[BaselineLayer] = BaselineLayer

    def __init__(self, config: BaselineConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super(ViTModel, self).__init__(config)
        self.embeddings = BaselineEmbeddings(config, use_mask_token)
        self.layers = nn.ModuleList([self.layer_class(config) for _ in range(config.num_hidden_layers)])
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
        prefix_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: (batch, channels, height, width).
            bool_masked_pos: (batch, patches) bool, patches to replace by the mask token.
            interpolate_pos_encoding: allow an image size other than the configured one.
            attention_mask: not supported.
            prefix_only: compute no more of the last layer than CLS, which then is all of the last hidden state.

        Raises:
            ValueError: an attention mask, pixel values of another shape or kind, or an image size that the model cannot
                take.
        """
        check_pixel_values(pixel_values)
        if attention_mask is not None:
            raise ValueError(
                "attention_mask is not supported: layers shorten the sequence, so that a mask made for the first of "
                "them does not fit the later ones. Leave it out."
            )
        image_size = (pixel_values.shape[-2], pixel_values.shape[-1])
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(pixel_values, bool_masked_pos, bool(interpolate_pos_encoding))
        sizes: Tensor | None = None
        counts, kwargs["grids"] = self.config.tokens_per_layer(image_size), self.config.token_grids(image_size)
        for place, (layer, tokens_out) in enumerate(zip(self.layers, counts, strict=True), start=1):
            if prefix_only and place == len(self.layers):
                kwargs["num_outputs"] = 1
            hidden_states, sizes = layer(hidden_states, sizes, tokens_out, **kwargs)
        sequence = self.layernorm(hidden_states)
        pooled = None if self.pooler is None else self.pooler(sequence)
        return BaseModelOutputWithPooling(last_hidden_state=sequence, pooler_output=pooled)


class BaselineForImageClassification(BaselinePreTrainedModel, ViTForImageClassification):
    """A rival's encoder and a linear classifier on the CLS token."""

    model_class: type[BaselineModel] = BaselineModel

    def __init__(self, config: BaselineConfig):
        super(ViTForImageClassification, self).__init__(config)
        self.num_labels = config.num_labels or 0
        self.vit = self.model_class(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """As stock ViT's; in a fused copy no more of the last layer is computed than the logits need."""
        return super().forward(pixel_values, labels, prefix_only=reads_prefix_alone(self.vit, kwargs), **kwargs)
