# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a CLIP vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_clip_vision_model import FATRCLIPVisionModel  # noqa: F401


@strict
class FATRCLIPVisionConfig(ReductionConfig, CLIPVisionConfig):
    """Configuration of ``FATRCLIPVisionModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `CLIPVisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_clip_vision_model"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = (
        "clip_vision_model",
        "clip",
    )
    classifier_reads: ClassVar[str | None] = "patches"
