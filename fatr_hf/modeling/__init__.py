"""The model: flat files that travel to the Hub beside the weights, importing torch, transformers and each other."""

from .budget import admissible_keep_ratios, schedule_macs
from .configuration_fatr_vit import FATRViTConfig
from .modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from .token_plan import LayerPlan
from .token_reduction import restore_tokens

__all__ = [
    "FATRViTConfig",
    "FATRViTForImageClassification",
    "FATRViTModel",
    "LayerPlan",
    "admissible_keep_ratios",
    "restore_tokens",
    "schedule_macs",
]
