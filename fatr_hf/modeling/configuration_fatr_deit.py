# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a DeiT with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import DeiTConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_deit import FATRDeiTModel  # noqa: F401


@strict
class FATRDeiTConfig(ReductionConfig, DeiTConfig):
    """Configuration of ``FATRDeiTModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `DeiTConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_deit"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("deit",)

    @property
    def num_prefix_tokens(self) -> int:
        """CLS and the distillation token."""
        return 2
