# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a YOLOS with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import YolosConfig

from .reduction_config import ReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_yolos import FATRYolosModel  # noqa: F401


@strict
class FATRYolosConfig(ReductionConfig, YolosConfig):
    """Configuration of ``FATRYolosModel`` and its detector: the stock fields and the reduction's.

    Takes every argument of `YolosConfig` and of `ReductionConfig`.
    """

    model_type = "fatr_yolos"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("yolos",)
    takes_any_size: ClassVar[bool] = True

    @property
    def num_prefix_tokens(self) -> int:
        """CLS, and the detection tokens that are read."""
        return 1 + self.num_detection_tokens

    def head_macs(self, num_tokens: int, is_reduced: bool) -> int:
        """Multiply-accumulates of the two heads, of three layers each, on every detection token."""
        outputs = (self.num_labels or 0) + 1 + 4  # classes, no object, a box
        return self.num_detection_tokens * self.hidden_size * (4 * self.hidden_size + outputs)

    def validate_losses(self) -> None:
        """Checks that no losses of every layer are asked for, which stock cannot compute either (run by `@strict`)."""
        if self.auxiliary_loss:
            raise ValueError("auxiliary_loss=True is not supported: set it to False.")
