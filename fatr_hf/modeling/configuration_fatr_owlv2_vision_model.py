# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an OWLv2 vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Owlv2VisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_owlv2_vision_model import FATROwlv2VisionModel  # noqa: F401


@strict
class FATROwlv2VisionConfig(ReductionConfig, Owlv2VisionConfig):
    """Configuration of ``FATROwlv2VisionModel``: the stock fields and the reduction's.

    Takes every argument of `Owlv2VisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_owlv2_vision_model"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("owlv2_vision_model", "owlv2")
    classifier_reads: ClassVar[str | None] = None

    dense_outputs: bool = True  # every patch asks for a box
