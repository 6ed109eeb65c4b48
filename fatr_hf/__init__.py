"""Frequency-aware token reduction for Hugging Face vision transformers (arXiv 2511.21477).

Importing the package registers the models with transformers' Auto classes.
"""

from .families import register
from .hub.convert_model import convert
from .modeling.configuration_fatr_clip import FATRCLIPConfig
from .modeling.configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .modeling.configuration_fatr_clipseg import FATRCLIPSegConfig
from .modeling.configuration_fatr_clipseg_vision_model import FATRCLIPSegVisionConfig
from .modeling.configuration_fatr_deit import FATRDeiTConfig
from .modeling.configuration_fatr_depth_anything import FATRDepthAnythingConfig
from .modeling.configuration_fatr_dinov2 import FATRDinov2Config
from .modeling.configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .modeling.configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig
from .modeling.configuration_fatr_dpt import FATRDPTConfig
from .modeling.configuration_fatr_eomt import FATREomtConfig
from .modeling.configuration_fatr_gemma3 import FATRGemma3Config
from .modeling.configuration_fatr_idefics3 import FATRIdefics3Config
from .modeling.configuration_fatr_idefics3_vision import FATRIdefics3VisionConfig
from .modeling.configuration_fatr_ijepa import FATRIJepaConfig
from .modeling.configuration_fatr_internvl import FATRInternVLConfig
from .modeling.configuration_fatr_internvl_vision import FATRInternVLVisionConfig
from .modeling.configuration_fatr_llava import FATRLlavaConfig
from .modeling.configuration_fatr_llava_onevision import FATRLlavaOnevisionConfig
from .modeling.configuration_fatr_owlv2 import FATROwlv2Config
from .modeling.configuration_fatr_owlv2_vision_model import FATROwlv2VisionConfig
from .modeling.configuration_fatr_owlvit import FATROwlViTConfig
from .modeling.configuration_fatr_owlvit_vision_model import FATROwlViTVisionConfig
from .modeling.configuration_fatr_paligemma import FATRPaliGemmaConfig
from .modeling.configuration_fatr_siglip import FATRSiglipConfig
from .modeling.configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig
from .modeling.configuration_fatr_smolvlm import FATRSmolVLMConfig
from .modeling.configuration_fatr_smolvlm_vision import FATRSmolVLMVisionConfig
from .modeling.configuration_fatr_upernet import FATRUperNetConfig
from .modeling.configuration_fatr_videomae import FATRVideoMAEConfig
from .modeling.configuration_fatr_vit import FATRViTConfig
from .modeling.configuration_fatr_vitpose import FATRVitPoseConfig
from .modeling.configuration_fatr_vitpose_backbone import FATRVitPoseBackboneConfig
from .modeling.configuration_fatr_vivit import FATRVivitConfig
from .modeling.configuration_fatr_vjepa2 import FATRVJEPA2Config
from .modeling.configuration_fatr_yolos import FATRYolosConfig
from .modeling.configuration_fatr_zoedepth import FATRZoeDepthConfig
from .modeling.modeling_fatr_clip import FATRCLIPModel
from .modeling.modeling_fatr_clip_vision_model import (
    FATRCLIPForImageClassification,
    FATRCLIPVisionModel,
    FATRCLIPVisionModelWithProjection,
)
from .modeling.modeling_fatr_clipseg import FATRCLIPSegForImageSegmentation, FATRCLIPSegModel
from .modeling.modeling_fatr_clipseg_vision_model import FATRCLIPSegVisionModel
from .modeling.modeling_fatr_deit import (
    FATRDeiTForImageClassification,
    FATRDeiTForImageClassificationWithTeacher,
    FATRDeiTModel,
)
from .modeling.modeling_fatr_depth_anything import FATRDepthAnythingForDepthEstimation
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
from .modeling.modeling_fatr_dpt import FATRDPTForDepthEstimation
from .modeling.modeling_fatr_eomt import FATREomtForUniversalSegmentation
from .modeling.modeling_fatr_gemma3 import FATRGemma3ForConditionalGeneration
from .modeling.modeling_fatr_idefics3 import FATRIdefics3ForConditionalGeneration
from .modeling.modeling_fatr_idefics3_vision import FATRIdefics3VisionTransformer
from .modeling.modeling_fatr_ijepa import FATRIJepaForImageClassification, FATRIJepaModel
from .modeling.modeling_fatr_internvl import FATRInternVLForConditionalGeneration
from .modeling.modeling_fatr_internvl_vision import FATRInternVLVisionModel
from .modeling.modeling_fatr_llava import FATRLlavaForConditionalGeneration
from .modeling.modeling_fatr_llava_onevision import FATRLlavaOnevisionForConditionalGeneration
from .modeling.modeling_fatr_owlv2 import FATROwlv2ForObjectDetection, FATROwlv2Model
from .modeling.modeling_fatr_owlv2_vision_model import FATROwlv2VisionModel
from .modeling.modeling_fatr_owlvit import FATROwlViTForObjectDetection, FATROwlViTModel
from .modeling.modeling_fatr_owlvit_vision_model import FATROwlViTVisionModel
from .modeling.modeling_fatr_paligemma import FATRPaliGemmaForConditionalGeneration
from .modeling.modeling_fatr_siglip import FATRSiglipModel
from .modeling.modeling_fatr_siglip_vision_model import FATRSiglipForImageClassification, FATRSiglipVisionModel
from .modeling.modeling_fatr_smolvlm import FATRSmolVLMForConditionalGeneration
from .modeling.modeling_fatr_smolvlm_vision import FATRSmolVLMVisionTransformer
from .modeling.modeling_fatr_upernet import FATRUperNetForSemanticSegmentation
from .modeling.modeling_fatr_videomae import FATRVideoMAEForVideoClassification, FATRVideoMAEModel
from .modeling.modeling_fatr_vit import FATRViTForImageClassification, FATRViTModel
from .modeling.modeling_fatr_vitpose import FATRVitPoseForPoseEstimation
from .modeling.modeling_fatr_vitpose_backbone import FATRVitPoseBackbone
from .modeling.modeling_fatr_vivit import FATRVivitForVideoClassification, FATRVivitModel
from .modeling.modeling_fatr_vjepa2 import FATRVJEPA2ForVideoClassification, FATRVJEPA2Model
from .modeling.modeling_fatr_yolos import FATRYolosForObjectDetection, FATRYolosModel
from .modeling.modeling_fatr_zoedepth import FATRZoeDepthForDepthEstimation
from .modeling.token_reduction import restore_tokens
from .version import __version__

register()

__all__ = [
    "FATRCLIPConfig",
    "FATRCLIPForImageClassification",
    "FATRCLIPModel",
    "FATRCLIPSegConfig",
    "FATRCLIPSegForImageSegmentation",
    "FATRCLIPSegModel",
    "FATRCLIPSegVisionConfig",
    "FATRCLIPSegVisionModel",
    "FATRCLIPVisionConfig",
    "FATRCLIPVisionModel",
    "FATRCLIPVisionModelWithProjection",
    "FATRDINOv3ViTBackbone",
    "FATRDINOv3ViTConfig",
    "FATRDINOv3ViTForImageClassification",
    "FATRDINOv3ViTModel",
    "FATRDPTConfig",
    "FATRDPTForDepthEstimation",
    "FATRDeiTConfig",
    "FATRDeiTForImageClassification",
    "FATRDeiTForImageClassificationWithTeacher",
    "FATRDeiTModel",
    "FATRDepthAnythingConfig",
    "FATRDepthAnythingForDepthEstimation",
    "FATRDinov2Backbone",
    "FATRDinov2Config",
    "FATRDinov2ForImageClassification",
    "FATRDinov2Model",
    "FATRDinov2WithRegistersBackbone",
    "FATRDinov2WithRegistersConfig",
    "FATRDinov2WithRegistersForImageClassification",
    "FATRDinov2WithRegistersModel",
    "FATREomtConfig",
    "FATREomtForUniversalSegmentation",
    "FATRGemma3Config",
    "FATRGemma3ForConditionalGeneration",
    "FATRIJepaConfig",
    "FATRIJepaForImageClassification",
    "FATRIJepaModel",
    "FATRIdefics3Config",
    "FATRIdefics3ForConditionalGeneration",
    "FATRIdefics3VisionConfig",
    "FATRIdefics3VisionTransformer",
    "FATRInternVLConfig",
    "FATRInternVLForConditionalGeneration",
    "FATRInternVLVisionConfig",
    "FATRInternVLVisionModel",
    "FATRLlavaConfig",
    "FATRLlavaForConditionalGeneration",
    "FATRLlavaOnevisionConfig",
    "FATRLlavaOnevisionForConditionalGeneration",
    "FATROwlViTConfig",
    "FATROwlViTForObjectDetection",
    "FATROwlViTModel",
    "FATROwlViTVisionConfig",
    "FATROwlViTVisionModel",
    "FATROwlv2Config",
    "FATROwlv2ForObjectDetection",
    "FATROwlv2Model",
    "FATROwlv2VisionConfig",
    "FATROwlv2VisionModel",
    "FATRPaliGemmaConfig",
    "FATRPaliGemmaForConditionalGeneration",
    "FATRSiglipConfig",
    "FATRSiglipForImageClassification",
    "FATRSiglipModel",
    "FATRSiglipVisionConfig",
    "FATRSiglipVisionModel",
    "FATRSmolVLMConfig",
    "FATRSmolVLMForConditionalGeneration",
    "FATRSmolVLMVisionConfig",
    "FATRSmolVLMVisionTransformer",
    "FATRUperNetConfig",
    "FATRUperNetForSemanticSegmentation",
    "FATRVJEPA2Config",
    "FATRVJEPA2ForVideoClassification",
    "FATRVJEPA2Model",
    "FATRViTConfig",
    "FATRViTForImageClassification",
    "FATRViTModel",
    "FATRVideoMAEConfig",
    "FATRVideoMAEForVideoClassification",
    "FATRVideoMAEModel",
    "FATRVitPoseBackbone",
    "FATRVitPoseBackboneConfig",
    "FATRVitPoseConfig",
    "FATRVitPoseForPoseEstimation",
    "FATRVivitConfig",
    "FATRVivitForVideoClassification",
    "FATRVivitModel",
    "FATRYolosConfig",
    "FATRYolosForObjectDetection",
    "FATRYolosModel",
    "FATRZoeDepthConfig",
    "FATRZoeDepthForDepthEstimation",
    "__version__",
    "convert",
    "restore_tokens",
]
