# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A ZoeDepth whose backbone is reduced: metric depth from a reduced DINOv2."""

from typing import ClassVar

from transformers.models.zoedepth.modeling_zoedepth import ZoeDepthForDepthEstimation

from .composite_model import CompositeModel
from .configuration_fatr_zoedepth import FATRZoeDepthConfig
from .modeling_fatr_dinov2 import FATRDinov2Backbone
from .stock_names import register_stock_names


class FATRZoeDepthForDepthEstimation(CompositeModel, ZoeDepthForDepthEstimation):
    """``ZoeDepthForDepthEstimation`` with a FATR model as ``backbone``."""

    config_class = FATRZoeDepthConfig
    _auto_class = "AutoModelForDepthEstimation"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForDepthEstimation": "FATRZoeDepthForDepthEstimation"}
    tower_name = "backbone"
    tower_classes = (FATRDinov2Backbone,)


register_stock_names(FATRZoeDepthForDepthEstimation, "zoedepth")
