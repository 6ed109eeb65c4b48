"""ToMe, token merging (arXiv 2210.09461): every layer merges its r most similar pairs of tokens.

Matching, order of tokens and size weighting are those of the authors' implementation. What differs is how it is
computed: similarities in float32 or better, proportional attention by further channels of queries and keys instead
of a mask, so that fused attention kernels serve, and merging by a small matrix product instead of scattered sums,
whose order of addition is not fixed.
"""

from collections.abc import Iterable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from ..modeling.frequency_attention import append_dc_size
from ..modeling.reduction_config import is_integer
from ..modeling.token_plan import per_layer
from ..modeling.token_reduction import take_tokens, without_autocast
from .backbone import BaselineAttention, BaselineForImageClassification, BaselineLayer, BaselineModel
from .configuration import BaselineConfig, Grids


@strict
class ToMeConfig(BaselineConfig):
    r"""Configuration of ``ToMeForImageClassification``.

    Takes every argument of `ViTConfig` and:

    Args:
        merges_per_layer (int or list[int], defaults to 13):
            The paper's r: pairs of tokens that each layer merges, so many tokens fewer leave it; one value, or one
            per layer. Of the tokens beside CLS at most half merge: a higher value means as many as can.
        proportional_attention (bool, defaults to True):
            Whether the logarithm of a token's size is added to the attention logits towards it (equation 1).
    """

    model_type = "fatr_tome"

    merges_per_layer: int | list[int] | tuple[int, ...] = 13
    proportional_attention: bool = True

    def tokens_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[int]:
        """Tokens that leave each layer, CLS included.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        tokens, counts = self.num_input_tokens(image_size), []
        for merges in per_layer("merges_per_layer", self.merges_per_layer, range(self.num_hidden_layers)):
            tokens -= min(merges, (tokens - 1) // 2)
            counts.append(tokens)
        return counts

    def validate_reduction(self) -> None:
        """Checks the numbers of merges (run by `@strict`)."""
        for merges in per_layer("merges_per_layer", self.merges_per_layer, range(self.num_hidden_layers)):
            if not is_integer(merges) or merges < 0:
                raise ValueError(
                    f"merges_per_layer={self.merges_per_layer} must be integers of at least 0; {merges!r} is not."
                )


class ToMeAttention(BaselineAttention):
    """Proportional attention that, in a layer that merges, also returns what tokens are compared by."""

    def forward(
        self,
        hidden_states: Tensor,
        sizes: Tensor | None,
        reduces: bool,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As every rival's attention; the third is the keys' mean over heads, (batch, tokens, head_dim)."""
        query, key, value = self.project(hidden_states, num_queries)
        metric = None
        if reduces:
            metric = key.detach().mean(dim=1, dtype=torch.promote_types(key.dtype, torch.float32))
        if sizes is not None and self.config.proportional_attention:
            query, key, value = append_dc_size(query, key, value, sizes, 1.0, self.scaling)
        output, result = self.attend(query, key, value, **kwargs)
        return output, result.weights, metric


class ToMeLayer(BaselineLayer):
    """A layer that may merge tokens."""

    attention_class = ToMeAttention

    def reduce(
        self, hidden_states: Tensor, evidence: Tensor | None, sizes: Tensor | None, tokens_out: int, grids: Grids
    ) -> tuple[Tensor, Tensor | None]:
        """Merges as many pairs as there are tokens too many; every token starts with size 1."""
        assert evidence is not None
        merged, unmerged, targets = match_tokens(evidence, hidden_states.shape[1] - tokens_out)
        if sizes is None:
            sizes = torch.ones(hidden_states.shape[:2], dtype=evidence.dtype, device=hidden_states.device)
        return merge_tokens(hidden_states, sizes, merged, unmerged, targets)


@torch.no_grad()
def match_tokens(metric: Tensor, merges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching (section 3): which tokens merge, and into which.

    Every other token, from CLS on, forms set A, the rest set B. Each token of A but CLS draws an edge to the token of
    B with the highest cosine similarity; the ``merges`` highest edges merge. Of equal ones the first win.

    Args:
        metric: (batch, tokens, head_dim) in float32 or better.
        merges: at least 1, at most half the tokens beside CLS.

    Returns:
        Places in the sequence of the tokens of A that merge (batch, merges), and of those that do not, ascending and
        with CLS (batch, A - merges); for each merging token the place of its target in set B (batch, merges). All
        int64.
    """
    directions = nn.functional.normalize(metric, dim=2)
    with without_autocast(metric.device):
        similarity = directions[:, 2::2] @ directions[:, 1::2].transpose(1, 2)
    highest, nearest = similarity.max(dim=2)
    order = highest.argsort(dim=1, descending=True, stable=True)
    merged, unmerged = order[:, :merges], order[:, merges:].sort(dim=1).values
    return 2 * merged + 2, nn.functional.pad(2 * unmerged + 2, (1, 0)), nearest.gather(1, merged)


def merge_tokens(
    hidden_states: Tensor, sizes: Tensor, merged: Tensor, unmerged: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Merges tokens by their mean, weighted by size: what is left of set A, then set B ("Tracking Token Size").

    A token into which none is merged stays as it is, bit for bit.

    Args:
        hidden_states: (batch, tokens, hidden).
        sizes: (batch, tokens), patches behind each token, in float32 or better.
        merged, unmerged, targets: as ``match_tokens`` returns them.

    Returns:
        The new sequence (batch, tokens - merges, hidden) and its sizes (batch, tokens - merges).
    """
    from_a = take_tokens(hidden_states, torch.cat([unmerged, merged], dim=1))
    left, sources = from_a.split([unmerged.shape[1], merged.shape[1]], dim=1)
    old_sizes = sizes[:, 1::2]
    places = torch.arange(old_sizes.shape[1], device=sizes.device)[:, None]
    weights = (targets[:, None, :] == places) * sizes.gather(1, merged)[:, None, :]
    new_sizes = old_sizes + weights.sum(dim=2)
    with without_autocast(sizes.device):
        added = (weights / new_sizes[:, :, None]) @ sources.to(sizes.dtype)
    share = (old_sizes / new_sizes)[:, :, None]
    means = torch.addcmul(added, hidden_states[:, 1::2], share).to(hidden_states.dtype)
    return torch.cat([left, means], dim=1), torch.cat([sizes.gather(1, unmerged), new_sizes], dim=1)


class ToMeModel(BaselineModel):
    """The encoder: ``ViTModel`` with token merging."""

    config_class = ToMeConfig
    config: ToMeConfig
    layer_class = ToMeLayer
    _no_split_modules = ["BaselineEmbeddings", "ToMeLayer"]


class ToMeForImageClassification(BaselineForImageClassification):
    """``ViTForImageClassification`` with token merging."""

    config_class = ToMeConfig
    config: ToMeConfig
    model_class = ToMeModel


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("ToMeModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
