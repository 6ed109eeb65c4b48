# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a CLIPSeg vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPSegVisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_clipseg_vision_model import FATRCLIPSegVisionModel  # noqa: F401


@strict
class FATRCLIPSegVisionConfig(ReductionConfig, CLIPSegVisionConfig):
    """Configuration of ``FATRCLIPSegVisionModel``: the stock fields and the reduction's.

    Takes every argument of `CLIPSegVisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_clipseg_vision_model"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("clipseg_vision_model", "clipseg")
    classifier_reads: ClassVar[str | None] = None
    takes_any_size: ClassVar[bool] = True

    dense_outputs: bool = True  # the decoder reads every patch
