"""Plain truncation: the first tokens go on, the others are cut off, with neither scores nor pooling.

No method with the same token counts can be faster: it bounds the speed of every token reduction from above.
"""

from collections.abc import Iterable
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from ..modeling.reduction_config import is_integer
from .backbone import BaselineForImageClassification, BaselineLayer, BaselineModel
from .configuration import BaselineConfig, Grids


@strict
class TruncationConfig(BaselineConfig):
    r"""Configuration of ``TruncationForImageClassification``.

    Takes every argument of `ViTConfig` and:

    Args:
        tokens_out (list[int], optional):
            Tokens that leave each layer, CLS included, never more than entered it; one entry per layer. That of a
            FATR model is `[layer.tokens_out for layer in fatr_config.plan()]`. By default nothing is cut.
    """

    model_type = "fatr_truncation"

    tokens_out: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.tokens_out is None:
            self.tokens_out = [self.num_input_tokens()] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    def tokens_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[int]:
        """Tokens that leave each layer, CLS included; an image with fewer tokens than that keeps all it has.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        tokens_in = self.num_input_tokens(image_size)
        return [min(tokens, tokens_in) for tokens in self.tokens_out or ()]

    def validate_tokens(self) -> None:
        """Checks the token counts (run by `@strict`)."""
        counts, depth = list(self.tokens_out or ()), self.num_hidden_layers
        if len(counts) != depth:
            raise ValueError(f"tokens_out={counts} has {len(counts)} entries: give one for each of the {depth} layers.")
        most = self.num_input_tokens()
        for count in counts:
            if not is_integer(count) or not 1 <= count <= most:
                raise ValueError(
                    f"tokens_out={counts} must be integers of at least 1 and at most the {most} tokens at hand there; "
                    f"{count!r} is not."
                )
            most = count


class TruncationLayer(BaselineLayer):
    """A layer that may cut its sequence off."""

    def reduce(
        self, hidden_states: Tensor, evidence: Tensor | None, sizes: Tensor | None, tokens_out: int, grids: Grids
    ) -> tuple[Tensor, Tensor | None]:
        """The first ``tokens_out`` tokens; sizes are not tracked."""
        return hidden_states[:, :tokens_out], sizes


class TruncationModel(BaselineModel):
    """The encoder: ``ViTModel`` with truncation."""

    config_class = TruncationConfig
    config: TruncationConfig
    layer_class = TruncationLayer
    _no_split_modules = ["BaselineEmbeddings", "TruncationLayer"]


class TruncationForImageClassification(BaselineForImageClassification):
    """``ViTForImageClassification`` with truncation."""

    config_class = TruncationConfig
    config: TruncationConfig
    model_class = TruncationModel


# Hub checkpoints of ViT carry older parameter names; transformers renames them by class name.
register_checkpoint_conversion_mapping("TruncationModel", get_checkpoint_conversion_mapping("ViTModel"), overwrite=True)
