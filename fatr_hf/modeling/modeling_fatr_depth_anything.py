# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A Depth Anything whose backbone is reduced: depth from a reduced DINOv2."""

from typing import ClassVar

from transformers.models.depth_anything.modeling_depth_anything import DepthAnythingForDepthEstimation

from .composite_model import CompositeModel
from .configuration_fatr_depth_anything import FATRDepthAnythingConfig
from .modeling_fatr_dinov2 import FATRDinov2Backbone
from .stock_names import register_stock_names


class FATRDepthAnythingForDepthEstimation(CompositeModel, DepthAnythingForDepthEstimation):
    """``DepthAnythingForDepthEstimation`` with a FATR model as ``backbone``."""

    config_class = FATRDepthAnythingConfig
    _auto_class = "AutoModelForDepthEstimation"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForDepthEstimation": "FATRDepthAnythingForDepthEstimation"}
    tower_name = "backbone"
    tower_classes = (FATRDinov2Backbone,)


register_stock_names(FATRDepthAnythingForDepthEstimation, "depth_anything")
