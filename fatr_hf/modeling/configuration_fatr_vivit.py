# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a ViViT with frequency-aware token reduction."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import VivitConfig

from .video_config import VideoReductionConfig

if TYPE_CHECKING:  # names the model's files as part of this code (see configuration_fatr_vit.py)
    from .modeling_fatr_vivit import FATRVivitModel  # noqa: F401


@strict
class FATRVivitConfig(VideoReductionConfig, VivitConfig):
    """Configuration of ``FATRVivitModel`` and its classifier: the stock fields and the reduction's.

    Takes every argument of `VivitConfig` and of `VideoReductionConfig`.
    """

    model_type = "fatr_vivit"
    _auto_class = "AutoConfig"
    stock_model_types: ClassVar[tuple[str, ...]] = ("vivit",)
    has_cls: ClassVar[bool] = True

    @property
    def patch_sides(self) -> tuple[int, ...]:
        """Frames, height and width of a tubelet."""
        sides = tuple(self.tubelet_size)
        if len(sides) != 3:
            raise ValueError(f"tubelet_size={self.tubelet_size} must be frames, height and width of a tubelet.")
        return sides
