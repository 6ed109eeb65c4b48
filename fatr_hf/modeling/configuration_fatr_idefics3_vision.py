# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an Idefics3 vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import Idefics3VisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_idefics3_vision import FATRIdefics3VisionTransformer  # noqa: F401


@strict
class FATRIdefics3VisionConfig(ReductionConfig, Idefics3VisionConfig):
    """Configuration of ``FATRIdefics3VisionTransformer``: the stock fields and the reduction's.

    Takes every argument of `Idefics3VisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_idefics3_vision"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("idefics3_vision", "idefics3")
    has_cls: ClassVar[bool] = False
    classifier_reads: ClassVar[str | None] = None
    takes_any_size: ClassVar[bool] = True
