# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""A UperNet whose backbone is reduced: segmentation from a reduced DINO."""

from typing import ClassVar

from transformers.models.upernet.modeling_upernet import UperNetForSemanticSegmentation

from .composite_model import CompositeModel
from .configuration_fatr_upernet import FATRUperNetConfig
from .modeling_fatr_dinov2 import FATRDinov2Backbone
from .modeling_fatr_dinov2_with_registers import FATRDinov2WithRegistersBackbone
from .modeling_fatr_dinov3_vit import FATRDINOv3ViTBackbone
from .stock_names import register_stock_names


class FATRUperNetForSemanticSegmentation(CompositeModel, UperNetForSemanticSegmentation):
    """``UperNetForSemanticSegmentation`` with a FATR model as ``backbone``."""

    config_class = FATRUperNetConfig
    _auto_class = "AutoModelForSemanticSegmentation"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModelForSemanticSegmentation": "FATRUperNetForSemanticSegmentation"}
    tower_name = "backbone"
    tower_classes = (FATRDinov2Backbone, FATRDinov2WithRegistersBackbone, FATRDINOv3ViTBackbone)


register_stock_names(FATRUperNetForSemanticSegmentation, "upernet")
