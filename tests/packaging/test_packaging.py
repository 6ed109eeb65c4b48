"""What `pip install` gives: built, installed and used in environments that hold nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from environments import make_environment, pip
from packaging.requirements import Requirement

import fatr_hf

ROOT = Path(__file__).parents[2]

USE = """
import importlib.util, json, subprocess, sys
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

import fatr_hf

torch.manual_seed(0)
fields = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
stock = ViTForImageClassification(ViTConfig(**fields, image_size=32, patch_size=4, num_labels=5)).eval()
stock.save_pretrained("stock")
command = Path(sys.executable).with_name("fatr-hf")
subprocess.run([command, "convert", "stock", "converted", "--keep-ratio", "0.5"], check=True)
model = AutoModelForImageClassification.from_pretrained("converted")
model.save_pretrained("saved")
pixel_values = torch.randn(2, 3, 32, 32)
with torch.inference_mode(), model.reduction(False):
    difference = (model.double()(pixel_values).logits - stock.double()(pixel_values).logits).abs().max().item()
print(json.dumps({
    "place": fatr_hf.__file__,
    "version": fatr_hf.__version__,
    "class": type(model).__name__,
    "keep_ratio": model.config.keep_ratio,
    "difference": difference,
    "saved": sorted(path.name for path in Path("saved").iterdir()),
    "absent": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None],
}))
"""

SEARCH = """
import subprocess, sys
from pathlib import Path
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
fields = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
ViTForImageClassification(ViTConfig(**fields, image_size=32, patch_size=4)).save_pretrained("model")
ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("model")
search = "search model photographs --trials 1 --plot search.png"
subprocess.run([Path(sys.executable).with_name("fatr-hf"), *search.split()], check=True)
"""

DEMO = f"""
import sys
sys.path.append({str(ROOT / "examples" / "demo")!r})
import app
app.sample_photograph("cat")
"""

SERVING = f"""
import sys
sys.path.append({str(ROOT / "examples")!r})
import http_load, python_multipart
http_load.as_jpeg(http_load.load_images("photographs", limit=1)[0].picture)
"""

EXTRAS = {
    "training": "from fatr_hf.training import augmentation, data, trainer; print(data.load_image_data('digits').name)",
    "benchmark": "from fatr_hf.analysis.figure_files import check_matplotlib; check_matplotlib()",
    "analysis": SEARCH,
    "export": "import onnx, onnxruntime, onnxscript",
    "openvino": "import nncf, openvino",
    "demo": DEMO,
    "scale": "import ray.data",
    "serving": SERVING,
    "docs": "import material, mkdocs, mkdocstrings_handlers.python",
}
"""What each extra is for, in code that needs it."""


def run(python, code, folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    finished = subprocess.run(
        [python, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {name for name in names if not name.startswith(f"fatr_hf-{fatr_hf.__version__}.dist-info/")}
    files = [path for path in (ROOT / "fatr_hf").rglob("*") if path.suffix == ".py" or path.name == "py.typed"]
    assert package == {"fatr_hf_cli.py", *(str(path.relative_to(ROOT)) for path in files)}
    assert f"fatr_hf-{fatr_hf.__version__}.dist-info/licenses/LICENSE" in names


def test_the_sdist_can_be_built_from(distributions):
    [path] = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    for needed in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "fatr_hf/py.typed", "fatr_hf_cli.py"):
        assert f"fatr_hf-{fatr_hf.__version__}/{needed}" in names


def test_the_wheel_works_with_its_base_requirements_alone(base_python, tmp_path):
    pip(base_python, "check")
    extras = ["torchvision", "matplotlib", "sklearn", "optuna", "gradio", "pytest"]
    found = json.loads(run(base_python, USE, tmp_path, *extras).splitlines()[-1])
    assert Path(found["place"]).is_relative_to(base_python.parents[1])
    assert found["version"] == fatr_hf.__version__
    assert (found["class"], found["keep_ratio"]) == ("FATRViTForImageClassification", 0.5)
    assert found["difference"] < 1e-10
    assert {"config.json", "model.safetensors", "README.md", "modeling_fatr_vit.py"} <= {*found["saved"]}
    assert found["absent"] == extras


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_what_it_is_for(wheel, tmp_path, extra):
    python = make_environment(tmp_path / "environment", wheel, [extra])
    pip(python, "check")
    run(python, EXTRAS[extra], tmp_path)


def test_every_extra_is_tested():
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert {*settings["options.extras_require"]} == {*EXTRAS, "dev"}  # dev is the environment of the tests


def test_type_checkers_see_the_types_of_the_installed_package(base_python, tmp_path):
    # torch's own types are not what is tested, and take half a minute to read.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-torch.*,transformers.*,huggingface_hub.*]\nfollow_imports = skip\n"
    )
    shutil.copy(Path(__file__).with_name("typed_example.py"), tmp_path)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--python-executable", base_python]
    finished = subprocess.run([*command, "typed_example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_version_is_the_same_wherever_it_is_told():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    [latest, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == fatr_hf.__version__
    assert latest == fatr_hf.__version__


def test_lower_bounds_are_the_tested_oldest_versions():
    oldest = {}
    for line in (ROOT / "constraints-oldest.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            oldest[requirement.name.replace("_", "-")] = str(requirement.specifier).removeprefix("==")
    for line in requires("fatr-hf"):
        requirement = Requirement(line)
        if requirement.name in oldest and requirement.specifier:
            bounds = [each.version for each in requirement.specifier if each.operator == ">="]
            assert [oldest[requirement.name].startswith(bound) for bound in bounds] == [True], requirement
