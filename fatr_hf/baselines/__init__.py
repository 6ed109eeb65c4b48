"""Rivals on the same backbone, for comparison only: EViT, ToMe, pooling and truncation, the upper bound of speed."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .evit import EViTConfig, EViTForImageClassification, EViTModel
from .pooling import PoolingConfig, PoolingForImageClassification, PoolingModel
from .tome import ToMeConfig, ToMeForImageClassification, ToMeModel
from .truncation import TruncationConfig, TruncationForImageClassification, TruncationModel

AutoConfig.register(EViTConfig.model_type, EViTConfig, exist_ok=True)
AutoModel.register(EViTConfig, EViTModel, exist_ok=True)
AutoModelForImageClassification.register(EViTConfig, EViTForImageClassification, exist_ok=True)
AutoConfig.register(PoolingConfig.model_type, PoolingConfig, exist_ok=True)
AutoModel.register(PoolingConfig, PoolingModel, exist_ok=True)
AutoModelForImageClassification.register(PoolingConfig, PoolingForImageClassification, exist_ok=True)
AutoConfig.register(ToMeConfig.model_type, ToMeConfig, exist_ok=True)
AutoModel.register(ToMeConfig, ToMeModel, exist_ok=True)
AutoModelForImageClassification.register(ToMeConfig, ToMeForImageClassification, exist_ok=True)
AutoConfig.register(TruncationConfig.model_type, TruncationConfig, exist_ok=True)
AutoModel.register(TruncationConfig, TruncationModel, exist_ok=True)
AutoModelForImageClassification.register(TruncationConfig, TruncationForImageClassification, exist_ok=True)

__all__ = [
    "EViTConfig",
    "EViTForImageClassification",
    "EViTModel",
    "PoolingConfig",
    "PoolingForImageClassification",
    "PoolingModel",
    "ToMeConfig",
    "ToMeForImageClassification",
    "ToMeModel",
    "TruncationConfig",
    "TruncationForImageClassification",
    "TruncationModel",
]
