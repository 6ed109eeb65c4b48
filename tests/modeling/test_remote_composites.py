"""Folders of every composite work by themselves: in one process that cannot import fatr_hf, offline."""

import json

import pytest
import torch
from composite_cases import COMPOSITES, answer_of, arguments_of
from family_cases import built
from rounding import assert_rounded_alike
from safetensors.torch import save_file
from transformers import DPTImageProcessor
from without_package import run_isolated

import fatr_hf

CODE = """
import sys
sys.modules["fatr_hf"] = None
import json, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file
import transformers

root, results = Path(sys.argv[1]), {}
for folder in sorted(root.iterdir()):
    task = (folder / "auto").read_text()
    auto, arguments = getattr(transformers, task), load_file(folder / "arguments.safetensors")
    answers = []
    for place in (str(folder), str(root.parent / "again" / folder.name)):  # what remote code saves is whole
        model = auto.from_pretrained(place, trust_remote_code=True).eval()
        with torch.no_grad():
            output = model(**arguments)
        answers.append(output["predicted_depth"] if "predicted_depth" in output else output["logits"])
        model.save_pretrained(str(root.parent / "again" / folder.name))
    assert torch.allclose(*answers, rtol=1e-12, atol=1e-12)
    if task == "AutoModelForDepthEstimation":
        estimate = transformers.pipeline("depth-estimation", model=str(folder), trust_remote_code=True)
        assert estimate(Image.new("RGB", (40, 30), (200, 30, 90)))["depth"].size == (40, 30)
    results[folder.name] = answers[0].tolist()
assert not any(name.startswith("fatr_hf") and module for name, module in sys.modules.items())
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved folder of every composite, and the models."""
    root, models = tmp_path_factory.mktemp("composites"), {}
    for name, build in COMPOSITES.items():
        built(build).save_pretrained(root / "stock" / name)
        model = fatr_hf.convert(root / "stock" / name, keep_ratio=0.6)
        model.save_pretrained(root / "saved" / name)
        (root / "saved" / name / "auto").write_text(model._auto_class)
        save_file(
            {key: value.contiguous() for key, value in arguments_of(name).items()},
            root / "saved" / name / "arguments.safetensors",
        )
        size = {"height": 32, "width": 32}
        DPTImageProcessor(size=size, ensure_multiple_of=4).save_pretrained(root / "saved" / name)
        models[name] = model
    return root / "saved", models


@torch.no_grad()
def test_every_composite_loads_without_the_package(folders, tmp_path):
    root, models = folders
    results = json.loads(run_isolated(CODE, tmp_path, root).splitlines()[-1])
    assert results.keys() == models.keys()
    for name, model in models.items():
        found = torch.tensor(results[name], dtype=torch.float64)
        assert_rounded_alike(found, answer_of(model(**arguments_of(name))))


def test_a_folder_holds_the_code_of_its_towers_alone(folders):
    root, _ = folders
    config = json.loads((root / "depth_anything" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_fatr_depth_anything.FATRDepthAnythingConfig",
        "AutoModelForDepthEstimation": "modeling_fatr_depth_anything.FATRDepthAnythingForDepthEstimation",
    }
    assert config["backbone_config"]["model_type"] == "fatr_dinov2"
    assert "auto_map" not in config["backbone_config"]
    families = {path.name for path in (root / "depth_anything").glob("modeling_fatr_*.py")}
    assert families == {"modeling_fatr_depth_anything.py", "modeling_fatr_dinov2.py"}
