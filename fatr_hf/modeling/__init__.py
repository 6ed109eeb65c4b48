"""The model: flat files that travel to the Hub beside the weights, importing torch, transformers and each other."""

from .budget import admissible_keep_ratios, schedule_macs
from .configuration_fatr_vit import FATRViTConfig
from .input_budget import InputBudgetOutput
from .model_card import budget_table, build_model_card
from .modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from .token_plan import LayerPlan
from .token_reduction import restore_tokens

__all__ = [
    "FATRViTConfig",
    "FATRViTForImageClassification",
    "FATRViTModel",
    "InputBudgetOutput",
    "LayerPlan",
    "admissible_keep_ratios",
    "budget_table",
    "build_model_card",
    "restore_tokens",
    "schedule_macs",
]
