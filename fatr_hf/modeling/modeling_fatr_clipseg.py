# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole CLIPSeg whose vision tower is reduced: the region that a text, or another image, describes."""

from typing import ClassVar

from transformers.models.clipseg.modeling_clipseg import CLIPSegForImageSegmentation, CLIPSegModel

from .composite_model import CompositeModel
from .configuration_fatr_clipseg import FATRCLIPSegConfig
from .modeling_fatr_clipseg_vision_model import FATRCLIPSegVisionModel


class FATRCLIPSegRepository(CompositeModel):
    """What the whole model and its segmenter are loaded and saved by; stock's segmenter is in no Auto class."""

    config_class = FATRCLIPSegConfig
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "FATRCLIPSegModel",
        "AutoModelForImageSegmentation": "FATRCLIPSegForImageSegmentation",
    }
    position_table = "vision_model.embeddings.position_embedding.weight"


class FATRCLIPSegModel(FATRCLIPSegRepository, CLIPSegModel):
    """``CLIPSegModel`` with a ``FATRCLIPSegVisionModel`` as ``vision_model``, which has the reduction's methods."""

    config: FATRCLIPSegConfig  # type: ignore[assignment]
    _auto_class = "AutoModel"
    tower_name = "vision_model"

    def __init__(self, config: FATRCLIPSegConfig):
        super().__init__(config)
        self.vision_model = FATRCLIPSegVisionModel._from_config(config.vision_config)
        self.post_init()


class FATRCLIPSegForImageSegmentation(FATRCLIPSegRepository, CLIPSegForImageSegmentation):
    """``CLIPSegForImageSegmentation`` with a ``FATRCLIPSegModel`` as ``clip``, frozen as in stock.

    The decoder reads hidden states of the tower on the full grid.
    """

    config: FATRCLIPSegConfig  # type: ignore[assignment]
    _auto_class = "AutoModelForImageSegmentation"
    tower_name = "clip.vision_model"

    def __init__(self, config: FATRCLIPSegConfig):
        super().__init__(config)
        self.clip = FATRCLIPSegModel(config)
        self.post_init()
