# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an EoMT with frequency-aware token reduction."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import EomtConfig

from .reduction_config import ReductionConfig
from .token_plan import EncoderSpec, LayerPlan

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_eomt import FATREomtForUniversalSegmentation  # noqa: F401


@strict
class FATREomtConfig(ReductionConfig, EomtConfig):
    """Configuration of ``FATREomtForUniversalSegmentation``: the stock fields and the reduction's.

    Takes every argument of `EomtConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_eomt"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("eomt",)

    dense_outputs: bool = True  # a mask is read off every patch

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What EoMT's layers are made of: DINOv2's."""
        inner = int(self.hidden_size * self.mlp_ratio)
        return self.spec(
            inner_size=(int(inner * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else inner,
            activation="silu" if self.use_swiglu_ffn else self.hidden_act,
            gated=self.use_swiglu_ffn,
            scale=self.layerscale_value,
            drop_path=self.drop_path_rate,
            dropout=0.0,
        )

    def plan(self, image_size: int | Iterable[int] | None = None, reduce: bool = True) -> list[LayerPlan]:
        """As of every family; the queries are part of the prefix of the last ``num_blocks`` layers."""
        first = self.num_hidden_layers - self.num_blocks
        plan = super().plan(image_size, reduce)
        return [*plan[:first], *(step._replace(prefix=step.prefix + self.num_queries) for step in plan[first:])]

    def head_macs(self, num_tokens: int, is_reduced: bool) -> int:
        """Multiply-accumulates of classes and masks off every query, on a map that each block makes twice as fine."""
        rows, columns = self.patch_grid()
        hidden, total = self.hidden_size, 0
        for block in range(self.num_upscale_blocks):
            total += rows * columns * 4**block * 4 * hidden * (hidden + 9)
        pixels = rows * columns * 4**self.num_upscale_blocks
        return total + self.num_queries * hidden * (3 * hidden + (self.num_labels or 0) + 1 + pixels)

    def validate_queries(self) -> None:
        """Checks where the queries join and what is read behind them (run by `@strict`)."""
        if not 0 < self.num_blocks < self.num_hidden_layers:
            raise ValueError(f"num_blocks={self.num_blocks} must be from 1 to {self.num_hidden_layers - 1}.")
        if self.num_queries < 1:
            raise ValueError(f"num_queries={self.num_queries} must be at least 1.")
        if not self.dense_outputs:
            raise ValueError("dense_outputs=False must be True: masks are read off the whole grid of patches.")
        if self.token_multiple and self.num_queries % self.token_multiple:
            raise ValueError(
                f"token_multiple={self.token_multiple} must divide num_queries={self.num_queries}, which join."
            )
        late = [layer for layer in self.reduction_layers or () if layer >= self.num_hidden_layers - self.num_blocks]
        if self.selection == "cls_attention" and late:
            raise ValueError(
                f"selection='cls_attention' cannot go with reduction_layers={self.reduction_layers}: in layers "
                f"{late} a query is the first token."
            )
