# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a SigLIP vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SiglipVisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_siglip_vision_model import FATRSiglipVisionModel  # noqa: F401


@strict
class FATRSiglipVisionConfig(ReductionConfig, SiglipVisionConfig):
    """Configuration of ``FATRSiglipVisionModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `SiglipVisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_siglip_vision_model"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = (
        "siglip_vision_model",
        "siglip",
    )
    has_cls: ClassVar[bool] = False
    classifier_reads: ClassVar[str | None] = "patches"
