# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a SmolVLM vision tower with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SmolVLMVisionConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_smolvlm_vision import FATRSmolVLMVisionTransformer  # noqa: F401


@strict
class FATRSmolVLMVisionConfig(ReductionConfig, SmolVLMVisionConfig):
    """Configuration of ``FATRSmolVLMVisionTransformer``: the stock fields and the reduction's.

    Takes every argument of `SmolVLMVisionConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_smolvlm_vision"
    _auto_class = "AutoConfig"
    has_square_size: ClassVar[bool] = True
    stock_model_types: ClassVar[tuple[str, ...]] = ("smolvlm_vision", "smolvlm")
    has_cls: ClassVar[bool] = False
    classifier_reads: ClassVar[str | None] = None
    takes_any_size: ClassVar[bool] = True
