"""transformers' own tests of models and backbones, for every family: ``make test-stock`` fetches and runs them.

They are in transformers' source distribution, not in its wheel. ``TRANSFORMERS_TESTS`` names their folder; without it
nothing here runs. One adapter serves all families: a small configuration that reduces, and what stock's own test files
leave out of vision models too.
"""

import importlib
import os
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch
from transformers.models.auto import modeling_auto

from fatr_hf.families import FAMILIES

FOLDER = os.environ.get("TRANSFORMERS_TESTS")
if FOLDER is None:
    pytest.skip("TRANSFORMERS_TESTS names no folder of transformers' tests: make test-stock", allow_module_level=True)

ABSENT = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
"""Modules that the tests of models import and that are not in the source distribution, and what they import."""

SKIPPED = {
    "test_reverse_loading_mapping": "files hold our names of weights, not the oldest ones of stock",
    "test_model_get_set_embeddings": "for models of text; stock's vision models replace it",
    "test_model_weights_reload_no_missing_tied_weights": "a checkpoint without the model's weights is refused",
}

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {**LAYERS, "image_size": 32, "patch_size": 4}
CLIP = {"num_frames": 8, "image_size": 32, "intermediate_size": 37}
VIDEOS = {
    "fatr_videomae": {**CLIP, "patch_size": 8},
    "fatr_vivit": {**CLIP, "tubelet_size": [2, 8, 8]},
    "fatr_vjepa2": {"frames_per_clip": 8, "crop_size": 32, "patch_size": 8, "mlp_ratio": 2, "num_pooler_layers": 1},
}
"""Fields of the models of videos, whose grid is 4 x 4 x 4."""
REDUCTION = {"reduction_layers": [1], "keep_ratio": 0.5, "dc_windows": 2}


def stock_tests():
    """The modules of transformers that test models and backbones, as a package of their own."""
    package = types.ModuleType("stock_tests")
    package.__path__ = [str(Path(FOLDER))]
    sys.modules["stock_tests"] = package
    for name, mixin in ABSENT.items():
        for part in (name.split(".")[0], name):
            module = types.ModuleType(f"stock_tests.{part}")
            module.__path__ = []
            sys.modules[module.__name__] = module
        setattr(module, mixin, type(mixin, (), {}))
    names = ("test_modeling_common", "test_backbone_common")
    return [importlib.import_module(f"stock_tests.{name}") for name in names]


class Tester:
    """A small model of a family, as transformers' tests ask for it."""

    batch_size, is_training = 3, True
    image_size, patch_size, num_channels = 32, 4, 3
    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32
    num_masks, mask_length = 20, 64

    def __init__(self, family, **reduction):
        self.family, self.reduction = family, reduction
        self.seq_length = self.get_config().num_prefix_tokens + 64  # patches, of images and of videos

    def get_config(self):
        config_class = self.family.config
        if config_class.model_type in VIDEOS:
            return config_class(**LAYERS, **VIDEOS[config_class.model_type], **REDUCTION, **self.reduction)
        own = {"mlp_ratio": 2} if "dinov2" in config_class.model_type else {"intermediate_size": 37}
        if hasattr(config_class, "num_register_tokens"):
            own["num_register_tokens"] = 2
        return config_class(**SMALL, **own, **REDUCTION, **self.reduction)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        return config, {self.family.model.main_input_name: torch.randn(3, *config.input_shape())}


def skipping(reason):
    return lambda self: self.skipTest(reason)


def family_case(mixin, family, model_classes, **others):
    """A test case of a family; ``others`` are further attributes."""

    def prepare(self):
        # Fresh models' scores are all but equal, so that rounding chooses: here both implementations keep the same.
        same_tokens = self._testMethodName.startswith("test_eager_matches_sdpa")
        self.model_tester = Tester(family, **({"selection": "random"} if same_tokens else {}))

    skips = {name: skipping(reason) for name, reason in SKIPPED.items() if hasattr(mixin, name)}
    attributes = {"all_model_classes": model_classes, "setUp": prepare, "__module__": __name__, **skips, **others}
    return type(f"Test{model_classes[0].__name__}", (mixin, unittest.TestCase), attributes)


models, backbones = stock_tests()
# Detectors, backbones of poses and OWL's towers have other inputs and heads: their own tests compare them with stock.
for family in (each for each in FAMILIES if each.classifier is not None):
    classifiers = tuple(each for each in (family.classifier, family.second_classifier) if each is not None)
    # What the tests go by to tell encoders, which have no loss, from classifiers.
    modeling_auto.MODEL_MAPPING_NAMES[family.config.model_type] = family.model.__name__
    takes_videos = family.config.model_type in VIDEOS
    kind = "VIDEO" if takes_videos else "IMAGE"
    names = tuple(each.__name__ for each in classifiers)
    known = getattr(modeling_auto, f"MODEL_FOR_{kind}_CLASSIFICATION_MAPPING_NAMES")
    known[family.config.model_type] = names[0] if takes_videos else names
    # Mask tokens of DINO, the norm of CLIP's CLS and SigLIP's pooling are no part of what their classifiers compute.
    uses_all = takes_videos or family.config.model_type in ("fatr_vit", "fatr_deit", "fatr_ijepa")
    case = family_case(
        models.ModelTesterMixin,
        family,
        (family.model, *classifiers),
        test_resize_embeddings=False,
        test_all_params_have_gradient=uses_all,
    )
    globals()[case.__name__] = case
    if family.backbone is not None:
        case = family_case(
            backbones.BackboneTesterMixin,
            family,
            (family.backbone,),
            config_class=family.config,
            has_attentions=True,
        )
        globals()[case.__name__] = case
del case
