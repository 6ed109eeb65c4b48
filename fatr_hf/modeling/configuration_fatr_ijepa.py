# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a I-JEPA with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import IJepaConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_ijepa import FATRIJepaModel  # noqa: F401


@strict
class FATRIJepaConfig(ReductionConfig, IJepaConfig):
    """Configuration of ``FATRIJepaModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `IJepaConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_ijepa"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("ijepa",)
    has_cls: ClassVar[bool] = False
    classifier_reads: ClassVar[str | None] = "patches"
