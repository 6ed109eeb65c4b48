"""Folders of every family work by themselves: in one process that cannot import fatr_hf, offline."""

import json

import pytest
import torch
from family_cases import (
    BACKBONES,
    CLASSIFIERS,
    DETECTORS,
    ENCODERS,
    OTHERS,
    VIDEO_CLASSIFIERS,
    built,
    name_of_pixels,
    samples,
)
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor, YolosImageProcessor
from without_package import run_isolated

import fatr_hf

CODE = """
import sys
sys.modules["fatr_hf"] = None
import json, torch
from pathlib import Path
from PIL import Image
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module

root, results = Path(sys.argv[1]), {}
with torch.no_grad():
    for folder in sorted(root.iterdir()):
        auto = getattr(transformers, (folder / "auto").read_text())
        if auto is transformers.AutoBackbone:  # which asks the Hub for every name, folders included
            where = json.loads((folder / "config.json").read_text())["auto_map"]["AutoBackbone"]
            auto = get_class_from_dynamic_module(where, str(folder))
        model = auto.from_pretrained(str(folder), trust_remote_code=True).double().eval()
        shape = (3, 8, 3, 32, 32) if hasattr(model.config, "tubelet_size") else (3, 3, 32, 32)
        pixel_values = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        named = model.main_input_name == "pixel_values_videos"
        arguments = {"pixel_values_videos" if named else "pixel_values": pixel_values}
        if hasattr(model, "text_model"):
            arguments["input_ids"] = torch.arange(14).reshape(2, 7) % 80 + 3
        output = model(**arguments)
        chosen = next(output[name] for name in ("logits", "logits_per_image", "feature_maps", "last_hidden_state")
                      if output.get(name) is not None)
        if auto is transformers.AutoModelForImageClassification:
            classify = transformers.pipeline("image-classification", model=str(folder), trust_remote_code=True)
            assert len(classify(Image.new("RGB", (40, 30), (200, 30, 90)), top_k=5)) == 5
        if auto is transformers.AutoModelForObjectDetection:
            detect = transformers.pipeline("object-detection", model=str(folder), trust_remote_code=True)
            assert len(detect(Image.new("RGB", (40, 30), (200, 30, 90)), threshold=0.0)) == 5
        chosen = chosen[-1] if isinstance(chosen, (tuple, list)) else chosen
        copy = str(root.parent / "again" / folder.name)
        model.save_pretrained(copy)  # what remote code saves is whole
        again = auto.from_pretrained(copy, trust_remote_code=True).double().eval()
        output = again(**arguments)
        assert any(torch.allclose(value, chosen, rtol=1e-12, atol=1e-12) for value in output.values()
                   for value in (value if isinstance(value, (tuple, list)) else [value]) if value.shape == chosen.shape)
        results[folder.name] = chosen.tolist()
assert not any(name.startswith("fatr_hf") and module for name, module in sys.modules.items())
print(json.dumps(results))
"""

FOLDERS = {
    **{f"encoder-{name}": ("AutoModel", build) for name, build in ENCODERS.items()},
    **{
        f"classifier-{name}": (f"AutoModelFor{'Video' if name in VIDEO_CLASSIFIERS else 'Image'}Classification", build)
        for name, build in CLASSIFIERS.items()
    },
    **{f"backbone-{name}": ("AutoBackbone", build) for name, build in BACKBONES.items() if "-" not in name},
    **{f"detector-{name}": ("AutoModelForObjectDetection", build) for name, build in DETECTORS.items()},
    "whole-clip": ("AutoModelForZeroShotImageClassification", OTHERS["clip-whole"]),
    "whole-siglip": ("AutoModel", OTHERS["siglip-whole"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved folder of every kind, and the models."""
    root, models = tmp_path_factory.mktemp("families") / "saved", {}
    for name, (auto, build) in FOLDERS.items():
        models[name] = fatr_hf.convert(built(build), keep_ratio=0.6)
        models[name].save_pretrained(root / name)
        (root / name / "auto").write_text(auto)
        size = {"height": 32, "width": 32}
        processor = YolosImageProcessor(size=size) if "yolos" in name else ViTImageProcessor(size=size)
        processor.save_pretrained(root / name)
    return root, models


@torch.no_grad()
def test_every_family_loads_without_the_package(folders, tmp_path):
    root, models = folders
    results = json.loads(run_isolated(CODE, tmp_path, root).splitlines()[-1])
    assert results.keys() == models.keys()
    for name, model in models.items():
        arguments = {name_of_pixels(model): samples(model)}
        if hasattr(model, "text_model"):
            arguments["input_ids"] = torch.arange(14).reshape(2, 7) % 80 + 3
        output = model(**arguments)
        keys = ("logits", "logits_per_image", "feature_maps", "last_hidden_state")
        expected = next(output[key] for key in keys if output.get(key) is not None)
        expected = expected[-1] if isinstance(expected, (tuple, list)) else expected
        assert_rounded_alike(torch.tensor(results[name], dtype=torch.float64), expected)


def test_a_folder_names_the_classes_of_its_family(folders):
    root, _ = folders
    config = json.loads((root / "classifier-dinov2" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_fatr_dinov2.FATRDinov2Config",
        "AutoModel": "modeling_fatr_dinov2.FATRDinov2Model",
        "AutoModelForImageClassification": "modeling_fatr_dinov2.FATRDinov2ForImageClassification",
        "AutoBackbone": "modeling_fatr_dinov2.FATRDinov2Backbone",
    }
    others = ("clip", "siglip", "ijepa", "deit", "dinov3", "registers", "_vit.py")
    assert not [path.name for path in (root / "classifier-dinov2").glob("*.py") if any(map(path.name.count, others))]
    whole = json.loads((root / "whole-clip" / "config.json").read_text())
    assert whole["vision_config"]["model_type"] == "fatr_clip_vision_model"
    assert "auto_map" not in whole["vision_config"]
