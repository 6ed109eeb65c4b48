"""Frequency-aware token reduction for Hugging Face vision transformers (arXiv 2511.21477).

Importing the package registers the models with transformers' Auto classes.
"""

from .families import register
from .hub.convert_model import convert
from .modeling.configuration_fatr_clip import FATRCLIPConfig
from .modeling.configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .modeling.configuration_fatr_deit import FATRDeiTConfig
from .modeling.configuration_fatr_dinov2 import FATRDinov2Config
from .modeling.configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .modeling.configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig
from .modeling.configuration_fatr_ijepa import FATRIJepaConfig
from .modeling.configuration_fatr_siglip import FATRSiglipConfig
from .modeling.configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig
from .modeling.configuration_fatr_videomae import FATRVideoMAEConfig
from .modeling.configuration_fatr_vit import FATRViTConfig
from .modeling.configuration_fatr_vivit import FATRVivitConfig
from .modeling.configuration_fatr_vjepa2 import FATRVJEPA2Config
from .modeling.modeling_fatr_clip import FATRCLIPModel
from .modeling.modeling_fatr_clip_vision_model import (
    FATRCLIPForImageClassification,
    FATRCLIPVisionModel,
    FATRCLIPVisionModelWithProjection,
)
from .modeling.modeling_fatr_deit import (
    FATRDeiTForImageClassification,
    FATRDeiTForImageClassificationWithTeacher,
    FATRDeiTModel,
)
from .modeling.modeling_fatr_dinov2 import FATRDinov2Backbone, FATRDinov2ForImageClassification, FATRDinov2Model
from .modeling.modeling_fatr_dinov2_with_registers import (
    FATRDinov2WithRegistersBackbone,
    FATRDinov2WithRegistersForImageClassification,
    FATRDinov2WithRegistersModel,
)
from .modeling.modeling_fatr_dinov3_vit import (
    FATRDINOv3ViTBackbone,
    FATRDINOv3ViTForImageClassification,
    FATRDINOv3ViTModel,
)
from .modeling.modeling_fatr_ijepa import FATRIJepaForImageClassification, FATRIJepaModel
from .modeling.modeling_fatr_siglip import FATRSiglipModel
from .modeling.modeling_fatr_siglip_vision_model import FATRSiglipForImageClassification, FATRSiglipVisionModel
from .modeling.modeling_fatr_videomae import FATRVideoMAEForVideoClassification, FATRVideoMAEModel
from .modeling.modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from .modeling.modeling_fatr_vivit import FATRVivitForVideoClassification, FATRVivitModel
from .modeling.modeling_fatr_vjepa2 import FATRVJEPA2ForVideoClassification, FATRVJEPA2Model
from .modeling.token_reduction import restore_tokens
from .version import __version__

register()

__all__ = [
    "FATRCLIPConfig",
    "FATRCLIPForImageClassification",
    "FATRCLIPModel",
    "FATRCLIPVisionConfig",
    "FATRCLIPVisionModel",
    "FATRCLIPVisionModelWithProjection",
    "FATRDINOv3ViTBackbone",
    "FATRDINOv3ViTConfig",
    "FATRDINOv3ViTForImageClassification",
    "FATRDINOv3ViTModel",
    "FATRDeiTConfig",
    "FATRDeiTForImageClassification",
    "FATRDeiTForImageClassificationWithTeacher",
    "FATRDeiTModel",
    "FATRDinov2Backbone",
    "FATRDinov2Config",
    "FATRDinov2ForImageClassification",
    "FATRDinov2Model",
    "FATRDinov2WithRegistersBackbone",
    "FATRDinov2WithRegistersConfig",
    "FATRDinov2WithRegistersForImageClassification",
    "FATRDinov2WithRegistersModel",
    "FATRIJepaConfig",
    "FATRIJepaForImageClassification",
    "FATRIJepaModel",
    "FATRSiglipConfig",
    "FATRSiglipForImageClassification",
    "FATRSiglipModel",
    "FATRSiglipVisionConfig",
    "FATRSiglipVisionModel",
    "FATRVJEPA2Config",
    "FATRVJEPA2ForVideoClassification",
    "FATRVJEPA2Model",
    "FATRViTConfig",
    "FATRViTForImageClassification",
    "FATRViTModel",
    "FATRVideoMAEConfig",
    "FATRVideoMAEForVideoClassification",
    "FATRVideoMAEModel",
    "FATRVivitConfig",
    "FATRVivitForVideoClassification",
    "FATRVivitModel",
    "__version__",
    "convert",
    "restore_tokens",
]
