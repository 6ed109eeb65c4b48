# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a VideoMAE with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import VideoMAEConfig

from .token_plan import EncoderSpec
from .video_config import VideoReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_videomae import FATRVideoMAEModel  # noqa: F401


@strict
class FATRVideoMAEConfig(VideoReductionConfig, VideoMAEConfig):
    """Configuration of ``FATRVideoMAEModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `VideoMAEConfig` and of `VideoReductionConfig`.
    """

    model_type = "fatr_videomae"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("videomae",)
    stock_only_fields: ClassVar[tuple[str, ...]] = (  # of the decoder
        "decoder_num_attention_heads",
        "decoder_hidden_size",
        "decoder_num_hidden_layers",
        "decoder_intermediate_size",
        "norm_pix_loss",
    )

    @property
    def classifier_reads(self) -> str:
        """The mean of all patches, or the token that stands for the first one."""
        return "patches" if self.use_mean_pooling else "first_patch"

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What VideoMAE's layers are made of: keys have no bias."""
        bias = getattr(self, "qv_bias", getattr(self, "qkv_bias", True))  # before transformers 5.18 the latter
        return self.spec(query_bias=bias, key_bias=False, value_bias=bias)
