"""What the configurations of all rivals share: loading from a stock ViT's, checks, and the token counts."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig

from ..modeling.reduction_config import is_integer
from ..modeling.token_plan import per_layer

Grids = Mapping[int, tuple[int, int]] | None
"""Rows and columns of patch tokens by the length of the sequence, where a rival needs to know them."""

STOCK_MODEL_TYPES = ("vit", "vit_msn")
"""Model types whose encoder and configuration are ViT's: their checkpoints load as any rival."""


@strict
class BaselineConfig(ViTConfig):
    """ViT's configuration and the token counts of all layers, which every rival derives from fields of its own."""

    model_type = "fatr_baseline"

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelt(type(self), kwargs)
        for name in own_fields(type(self)):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, from a stock ViT's configuration too; fields given as arguments are validated.

        Raises:
            ValueError: the configuration of another architecture, or a misspelt field.
        """
        values = dict(config_dict)
        model_type = values.pop("model_type", cls.model_type)
        if model_type in STOCK_MODEL_TYPES:
            values = {name: value for name, value in values.items() if name not in ("architectures", "auto_map")}
        elif model_type != cls.model_type:
            raise ValueError(
                f"A checkpoint of model_type={model_type!r} cannot be loaded with {cls.__name__}: only "
                f"{', '.join((*STOCK_MODEL_TYPES, cls.model_type))} can."
            )
        refuse_misspelt(cls, kwargs)
        # Part of the dictionary, they pass the constructor's checks; transformers parses dtype on its own.
        names = {field.name for field in fields(cls)} - {"dtype"}
        values.update({name: kwargs.pop(name) for name in names if name in kwargs})
        return super().from_dict(values, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """As in transformers, from a stock ViT's checkpoint too; see ``from_dict``."""
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)

    def num_input_tokens(self, image_size: int | Iterable[int] | None = None) -> int:
        """Tokens that enter the first layer, CLS and patches, for height and width in pixels (one number for both)."""
        height, width = as_pair("image_size", self.image_size if image_size is None else image_size)
        patch_height, patch_width = as_pair("patch_size", self.patch_size)
        return 1 + (height // patch_height) * (width // patch_width)

    def tokens_per_layer(self, image_size: int | Iterable[int] | None = None) -> list[int]:
        """Tokens that leave each layer, CLS included.

        Args:
            image_size: height and width in pixels (one number for both); ``config.image_size`` by default.
        """
        raise NotImplementedError

    def token_grids(self, image_size: int | Iterable[int] | None = None) -> Grids:
        """The grid that a sequence of so many tokens is, for rivals whose tokens stay a grid; None for others."""
        return None


@strict
class LayerwiseBaselineConfig(BaselineConfig):
    """Configuration of rivals that reduce in a few layers, each to a share of its tokens."""

    model_type = "fatr_layerwise_baseline"

    reduction_layers: list[int] | tuple[int, ...] | None = None
    keep_ratio: float | int | list[float | int] | tuple[float | int, ...] = 0.7

    def __post_init__(self, **kwargs: Any) -> None:
        if self.reduction_layers is None:
            depth = self.num_hidden_layers
            self.reduction_layers = sorted({depth // 4, depth // 2, 3 * depth // 4})
        super().__post_init__(**kwargs)

    def validate_reduction(self) -> None:
        """Checks layers and ratios (run by `@strict`)."""
        layers, depth = list(self.reduction_layers or ()), self.num_hidden_layers
        if not all(is_integer(layer) and 0 <= layer < depth for layer in layers) or layers != sorted(set(layers)):
            raise ValueError(
                f"reduction_layers={layers} must be strictly increasing integers from 0 to {depth - 1} "
                f"(num_hidden_layers={depth})."
            )
        for ratio in per_layer("keep_ratio", self.keep_ratio, layers):
            if isinstance(ratio, bool) or not 0 < ratio <= 1:
                raise ValueError(f"keep_ratio={self.keep_ratio} must lie in (0, 1]; {ratio!r} does not.")


def own_fields(cls: type[ViTConfig]) -> set[str]:
    """Names of the fields that a configuration adds to stock ViT's."""
    return {field.name for field in fields(cls)} - {field.name for field in fields(ViTConfig)}


def refuse_misspelt(cls: type[ViTConfig], kwargs: dict[str, Any]) -> None:
    """Raises a ValueError for an unknown argument that looks like one of the rival's own fields."""
    own = own_fields(cls)
    for name in kwargs.keys() - own:
        close = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"{cls.__name__} has no field {name!r}: did you mean {close[0]!r}?")


def as_pair(name: str, size: int | Iterable[int]) -> tuple[int, int]:
    """Height and width of a size that is given as one number or as both.

    Raises:
        ValueError: another number of values, or what is no integer of at least 1.
    """
    sides = list(size) if isinstance(size, Iterable) else [size, size]
    # While a graph is traced, sides may be symbols, which are no integers.
    if len(sides) != 2 or any(isinstance(side, (bool, float, str)) or side < 1 for side in sides):
        raise ValueError(f"{name}={size!r} must be an integer, or height and width, each at least 1.")
    return sides[0], sides[1]
