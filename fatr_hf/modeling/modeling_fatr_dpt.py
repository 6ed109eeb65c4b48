# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A DPT whose backbone is reduced: depth from a reduced DINOv2."""

from typing import ClassVar

from transformers.models.dpt.modeling_dpt import DPTForDepthEstimation

from .composite_model import CompositeModel
from .configuration_fatr_dpt import FATRDPTConfig
from .modeling_fatr_dinov2 import FATRDinov2Backbone
from .stock_names import register_stock_names


class FATRDPTForDepthEstimation(CompositeModel, DPTForDepthEstimation):
    """``DPTForDepthEstimation`` with a FATR model as ``backbone``."""

    config_class = FATRDPTConfig
    _auto_class = "AutoModelForDepthEstimation"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForDepthEstimation": "FATRDPTForDepthEstimation"}
    tower_name = "backbone"
    tower_classes = (FATRDinov2Backbone,)


register_stock_names(FATRDPTForDepthEstimation, "dpt")
