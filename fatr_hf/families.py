"""The families of vision transformers, and transformers' Auto classes for them."""

from typing import Any, NamedTuple

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
)

from .modeling.configuration_fatr_clip_vision_model import FATRCLIPVisionConfig
from .modeling.configuration_fatr_deit import FATRDeiTConfig
from .modeling.configuration_fatr_dinov2 import FATRDinov2Config
from .modeling.configuration_fatr_dinov2_with_registers import FATRDinov2WithRegistersConfig
from .modeling.configuration_fatr_dinov3_vit import FATRDINOv3ViTConfig
from .modeling.configuration_fatr_ijepa import FATRIJepaConfig
from .modeling.configuration_fatr_siglip_vision_model import FATRSiglipVisionConfig
from .modeling.configuration_fatr_videomae import FATRVideoMAEConfig
from .modeling.configuration_fatr_vit import FATRViTConfig
from .modeling.configuration_fatr_vivit import FATRVivitConfig
from .modeling.configuration_fatr_vjepa2 import FATRVJEPA2Config
from .modeling.modeling_fatr_clip import FATRCLIPModel
from .modeling.modeling_fatr_clip_vision_model import FATRCLIPForImageClassification, FATRCLIPVisionModel
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


class Family(NamedTuple):
    """The classes of one family."""

    config: Any
    model: Any
    classifier: Any
    backbone: Any = None
    second_classifier: Any = None
    """Loaded instead of ``classifier`` where a checkpoint names it as its architecture."""


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
    Family(FATRVideoMAEConfig, FATRVideoMAEModel, FATRVideoMAEForVideoClassification),
    Family(FATRVivitConfig, FATRVivitModel, FATRVivitForVideoClassification),
    Family(FATRVJEPA2Config, FATRVJEPA2Model, FATRVJEPA2ForVideoClassification),
)


AUTO_CLASSIFIERS: dict[str, Any] = {
    each.__name__: each for each in (AutoModelForImageClassification, AutoModelForVideoClassification)
}
"""Transformers' Auto classes of classifiers by their names."""

COMPOSITES = (FATRCLIPModel, FATRSiglipModel)
"""Whole models with a tower of one of the families in them."""


def family_of(model_type: str) -> Family | None:
    """The family that loads checkpoints of a model type, FATR's own or a stock one's; None where there is none."""
    for family in FAMILIES:
        if model_type in (family.config.model_type, *family.config.stock_model_types):
            return family
    return None


def register() -> None:
    """Registers every family with transformers' Auto classes."""
    for family in FAMILIES:
        AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
        AutoModel.register(family.config, family.model, exist_ok=True)
        classifier = family.classifier
        if family.second_classifier is not None:
            classifier = (classifier, family.second_classifier)
        auto_class = AUTO_CLASSIFIERS[str(family.classifier._auto_class)]
        auto_class.register(family.config, classifier, exist_ok=True)
        if family.backbone is not None:
            AutoBackbone.register(family.config, family.backbone, exist_ok=True)
    for composite in COMPOSITES:
        config: Any = composite.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, composite, exist_ok=True)
        AutoModelForZeroShotImageClassification.register(config, composite, exist_ok=True)
