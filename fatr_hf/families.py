"""The families of vision transformers, and transformers' Auto classes for them."""

import sys
from typing import Any, NamedTuple

import transformers
from transformers import AutoConfig

from .modeling.configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .modeling.configuration_fatr_clipseg_vision_model import FATRCLIPSegVisionConfig
from .modeling.configuration_fatr_deit import FATRDeiTConfig
from .modeling.configuration_fatr_dinov2 import FATRDinov2Config
from .modeling.configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .modeling.configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig
from .modeling.configuration_fatr_eomt import FATREomtConfig
from .modeling.configuration_fatr_idefics3_vision import FATRIdefics3VisionConfig
from .modeling.configuration_fatr_ijepa import FATRIJepaConfig
from .modeling.configuration_fatr_internvl_vision import FATRInternVLVisionConfig
from .modeling.configuration_fatr_owlv2_vision_model import FATROwlv2VisionConfig
from .modeling.configuration_fatr_owlvit_vision_model import FATROwlViTVisionConfig
from .modeling.configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig
from .modeling.configuration_fatr_smolvlm_vision import FATRSmolVLMVisionConfig
from .modeling.configuration_fatr_videomae import FATRVideoMAEConfig
from .modeling.configuration_fatr_vit import FATRViTConfig
from .modeling.configuration_fatr_vitpose_backbone import FATRVitPoseBackboneConfig
from .modeling.configuration_fatr_vivit import FATRVivitConfig
from .modeling.configuration_fatr_vjepa2 import FATRVJEPA2Config
from .modeling.configuration_fatr_yolos import FATRYolosConfig
from .modeling.modeling_fatr_clip import FATRCLIPModel
from .modeling.modeling_fatr_clip_vision_model import FATRCLIPForImageClassification, FATRCLIPVisionModel
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


class Family(NamedTuple):
    """The classes of one family."""

    config: Any
    model: Any
    classifier: Any = None
    backbone: Any = None
    second_classifier: Any = None
    """Loaded instead of ``classifier`` where a checkpoint names it as its architecture."""
    detector: Any = None


FAMILIES = (
    Family(FATRViTConfig, FATRViTModel, FATRViTForImageClassification),
    Family(
        FATRDeiTConfig,
        FATRDeiTModel,
        FATRDeiTForImageClassification,
        second_classifier=FATRDeiTForImageClassificationWithTeacher,
    ),
    Family(FATRDinov2Config, FATRDinov2Model, FATRDinov2ForImageClassification, FATRDinov2Backbone),
    Family(
        FATRDinov2WithRegistersConfig,
        FATRDinov2WithRegistersModel,
        FATRDinov2WithRegistersForImageClassification,
        FATRDinov2WithRegistersBackbone,
    ),
    Family(FATRDINOv3ViTConfig, FATRDINOv3ViTModel, FATRDINOv3ViTForImageClassification, FATRDINOv3ViTBackbone),
    Family(FATRCLIPVisionConfig, FATRCLIPVisionModel, FATRCLIPForImageClassification),
    Family(FATRSiglipVisionConfig, FATRSiglipVisionModel, FATRSiglipForImageClassification),
    Family(FATRIJepaConfig, FATRIJepaModel, FATRIJepaForImageClassification),
    Family(FATRInternVLVisionConfig, FATRInternVLVisionModel),
    Family(FATRIdefics3VisionConfig, FATRIdefics3VisionTransformer),
    Family(FATRSmolVLMVisionConfig, FATRSmolVLMVisionTransformer),
    Family(FATRCLIPSegVisionConfig, FATRCLIPSegVisionModel),
    Family(FATROwlViTVisionConfig, FATROwlViTVisionModel),
    Family(FATROwlv2VisionConfig, FATROwlv2VisionModel),
    Family(FATRVitPoseBackboneConfig, FATRVitPoseBackbone, backbone=FATRVitPoseBackbone),
    Family(FATRYolosConfig, FATRYolosModel, detector=FATRYolosForObjectDetection),
    Family(FATREomtConfig, FATREomtForUniversalSegmentation),
    Family(FATRVideoMAEConfig, FATRVideoMAEModel, FATRVideoMAEForVideoClassification),
    Family(FATRVivitConfig, FATRVivitModel, FATRVivitForVideoClassification),
    Family(FATRVJEPA2Config, FATRVJEPA2Model, FATRVJEPA2ForVideoClassification),
)


COMPOSITES = (
    FATRCLIPModel,
    FATRSiglipModel,
    FATRDepthAnythingForDepthEstimation,
    FATRDPTForDepthEstimation,
    FATRUperNetForSemanticSegmentation,
    FATRZoeDepthForDepthEstimation,
    FATRLlavaForConditionalGeneration,
    FATRLlavaOnevisionForConditionalGeneration,
    FATRPaliGemmaForConditionalGeneration,
    FATRGemma3ForConditionalGeneration,
    FATRInternVLForConditionalGeneration,
    FATRIdefics3ForConditionalGeneration,
    FATRSmolVLMForConditionalGeneration,
    FATRCLIPSegModel,
    FATRCLIPSegForImageSegmentation,
    FATROwlViTModel,
    FATROwlViTForObjectDetection,
    FATROwlv2Model,
    FATROwlv2ForObjectDetection,
    FATRVitPoseForPoseEstimation,
)
"""Whole models with a tower or a backbone of one of the families in them."""


def family_of(model_type: str) -> Family | None:
    """The family that loads checkpoints of a model type, FATR's own or a stock one's; None where there is none."""
    for family in FAMILIES:
        if model_type in (family.config.model_type, *family.config.stock_model_types):
            return family
    return None


def register() -> None:
    """Registers every family and composite with transformers' Auto classes, by its ``auto_classes``."""
    for family in FAMILIES:
        AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        for auto_class, model_class in auto_classes(family.model).items():
            if model_class is family.classifier and family.second_classifier is not None:
                model_class = (family.classifier, family.second_classifier)
            auto_class.register(family.config, model_class, exist_ok=True)
    for composite in COMPOSITES:
        config: Any = composite.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto_class, model_class in auto_classes(composite).items():
            auto_class.register(config, model_class, exist_ok=True)


def auto_classes(model: Any) -> dict[Any, Any]:
    """By Auto class the class that it loads, of those in a model's file; the oldest transformers lacks some of them."""
    module = sys.modules[model.__module__]
    found = {getattr(transformers, auto, None): getattr(module, name) for auto, name in model.auto_classes.items()}
    return {auto: each for auto, each in found.items() if auto is not None}
