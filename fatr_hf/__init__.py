"""Frequency-aware token reduction for Hugging Face Vision Transformers (arXiv 2511.21477).

Importing the package registers the model with transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .modeling import FATRViTConfig, FATRViTForImageClassification, FATRViTModel, restore_tokens
from .version import __version__

AutoConfig.register(FATRViTConfig.model_type, FATRViTConfig, exist_ok=True)
AutoModel.register(FATRViTConfig, FATRViTModel, exist_ok=True)
AutoModelForImageClassification.register(FATRViTConfig, FATRViTForImageClassification, exist_ok=True)

__all__ = ["FATRViTConfig", "FATRViTForImageClassification", "FATRViTModel", "__version__", "restore_tokens"]
