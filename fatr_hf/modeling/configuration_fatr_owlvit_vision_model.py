# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an OWL-ViT vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import OwlViTVisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_owlvit_vision_model import FATROwlViTVisionModel  # noqa: F401


@strict
class FATROwlViTVisionConfig(ReductionConfig, OwlViTVisionConfig):
    """Configuration of ``FATROwlViTVisionModel``: the stock fields and the reduction's.

    Takes every argument of `OwlViTVisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_owlvit_vision_model"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("owlvit_vision_model", "owlvit")
    classifier_reads: ClassVar[str | None] = None

    dense_outputs: bool = True  # every patch asks for a box
