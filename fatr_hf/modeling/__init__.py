"""The model: flat files that travel to the Hub beside the weights, importing torch, transformers and each other."""

from .configuration_fatr_vit import FATRViTConfig
from .model_card import build_model_card
from .modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from .token_reduction import restore_tokens
from .token_schedule import LayerTokens

__all__ = [
    "FATRViTConfig",
    "FATRViTForImageClassification",
    "FATRViTModel",
    "LayerTokens",
    "build_model_card",
    "restore_tokens",
]
