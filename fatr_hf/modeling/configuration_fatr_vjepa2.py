# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a V-JEPA 2 with frequency-aware token reduction."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import VJEPA2Config

from .token_plan import SIZE_CHANNELS, EncoderSpec
from .video_config import VideoReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_vjepa2 import FATRVJEPA2Model  # noqa: F401


@strict
class FATRVJEPA2Config(VideoReductionConfig, VJEPA2Config):
    """Configuration of ``FATRVJEPA2Model`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `VJEPA2Config` and of `VideoReductionConfig`.
    """

    model_type = "fatr_vjepa2"
    _auto_class = "AutoConfig"
    attribute_map = {"image_size": "crop_size", "num_frames": "frames_per_clip", "num_channels": "in_chans"}
    stock_model_types: ClassVar[tuple[str, ...]] = ("vjepa2",)
    classifier_reads: ClassVar[str | None] = "patches"
    takes_any_length: ClassVar[bool] = True

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What V-JEPA 2's layers are made of."""
        inner, rate = int(self.hidden_size * self.mlp_ratio), self.drop_path_rate
        return self.spec(inner_size=inner, drop_path=rate, drop_path_rises=True, rotates_neighbours=True)

    def input_sides(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """As in `VideoReductionConfig`; frames that fill no tubelet are repeated, as an image's single one."""
        frames, height, width = super().input_sides(image_size)
        return frames * (self.tubelet_size if frames < self.tubelet_size else 1), height, width

    def head_macs(self, num_tokens: int, is_reduced: bool) -> int:
        """Multiply-accumulates of a classifier that pools so many tokens by attention."""
        attended = self.hidden_size + (SIZE_CHANNELS * self.num_attention_heads if is_reduced else 0)
        layers = self.num_pooler_layers * (12 * num_tokens * self.hidden_size**2 + 2 * num_tokens**2 * attended)
        query = (2 * num_tokens + 9) * self.hidden_size**2 + 2 * num_tokens * attended
        return layers + query + super().head_macs(num_tokens, is_reduced)
