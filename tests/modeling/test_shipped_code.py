"""What the code that travels to the Hub can do, by its syntax, and what it does when it is loaded and run."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fatr_hf.modeling
from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.modeling.operators import SOURCES

FILES = sorted(Path(fatr_hf.modeling.__file__).parent.glob("*.py"))

# Modules that compute; what torch, transformers and huggingface_hub can do beyond that is found by its name.
MODULES = re.findall(
    r"\S+",
    """
    bisect collections.abc contextlib copy dataclasses difflib hashlib itertools json math re statistics time types
    typing torch torch.nn.attention torch.utils.flop_counter
    transformers transformers.activations transformers.conversion_mapping transformers.core_model_loading
    transformers.integrations.sdpa_attention transformers.modeling_layers transformers.modeling_outputs
    transformers.modeling_utils transformers.models.clip.modeling_clip
    transformers.models.clipseg.modeling_clipseg transformers.models.deit.modeling_deit
    transformers.models.dinov2.modeling_dinov2
    transformers.models.dinov2_with_registers.modeling_dinov2_with_registers
    transformers.models.dinov3_vit.modeling_dinov3_vit transformers.models.ijepa.modeling_ijepa
    transformers.models.depth_anything.modeling_depth_anything
    transformers.models.dpt.modeling_dpt
    transformers.models.eomt.modeling_eomt
    transformers.models.gemma3.modeling_gemma3
    transformers.models.idefics3.modeling_idefics3
    transformers.models.internvl.modeling_internvl
    transformers.models.llava.modeling_llava
    transformers.models.llava_onevision.modeling_llava_onevision
    transformers.models.paligemma.modeling_paligemma
    transformers.models.smolvlm.modeling_smolvlm
    transformers.models.upernet.modeling_upernet
    transformers.models.zoedepth.modeling_zoedepth
    transformers.models.siglip.modeling_siglip transformers.models.vit.modeling_vit transformers.utils
    transformers.models.owlv2.modeling_owlv2 transformers.models.owlvit.modeling_owlvit
    transformers.models.vitpose.modeling_vitpose
    transformers.models.vitpose_backbone.modeling_vitpose_backbone transformers.models.yolos.modeling_yolos
    transformers.models.siglip.modeling_siglip transformers.models.videomae.modeling_videomae
    transformers.models.vit.modeling_vit transformers.models.vivit.modeling_vivit
    transformers.models.vjepa2.modeling_vjepa2 transformers.utils
    transformers.backbone_utils
    transformers.utils.generic transformers.utils.output_capturing
    huggingface_hub huggingface_hub.dataclasses huggingface_hub.errors
    """,
)

BUILTINS = ("breakpoint", "compile", "delattr", "eval", "exec", "globals", "input", "locals", "vars")

# Names by which files, processes, the network, the environment or foreign code are reached, whatever they belong to.
NAMES = re.findall(
    r"\w+",
    """
    Path open read read_text read_bytes write write_text write_bytes load loads save dump dumps TemporaryDirectory
    unlink remove rename replace mkdir rmdir rmtree touch chmod symlink_to
    os sys environ getenv putenv system popen Popen fork kill spawn startfile
    hub cpp_extension load_library load_inline ctypes pickle marshal base64 import_module get_class_from_dynamic_module
    HfApi HfFileSystem get_token whoami cached_file hf_hub_download snapshot_download file_exists
    upload_file upload_folder create_commit create_repo create_branch delete_repo save_pretrained push_to_hub
    """,
)
SPECIAL = re.compile(r"__(?!(init|post_init|name|all|file|version)__)\w+__")
OPAQUE = re.compile(r"https?:|[A-Za-z0-9+/=_-]{60,}")


def powers(source):
    """What a source could do beyond computing: modules and names that it uses, computed attributes, opaque strings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {f"import {each.name}" for each in node.names if each.name not in MODULES}
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module not in MODULES:
                found.add(f"import {node.module}")
            found |= {each.name for each in node.names if is_power(each.name)}
        elif isinstance(node, ast.Name) and (node.id in BUILTINS or is_power(node.id)):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and is_power(node.attr):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            attribute = node.args[1]
            constant = isinstance(attribute, ast.Constant)
            if not constant or is_power(attribute.value):
                found.add(attribute.value if constant else f"{node.func.id} of a computed name")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and OPAQUE.search(node.value):
            found.add(f"string {node.value[:10]}")
    return found


def is_power(name):
    return name in NAMES or bool(SPECIAL.fullmatch(name))


# Why each file needs what it uses. A file that is not listed uses none.
ALLOWED = {
    "fused_inference.py": {
        "getattr of a computed name": "the parts of a layer, by written names",
        "import torch.utils._python_dispatch": "tells quantised and sharded tensors",
        "vars": "whether a module has a forward method of its own",
    },
    "hub_repository.py": {
        "import os": "whether a path is there, and the type os.PathLike",
        "os": "the same",
        "import pathlib": "the folder that is saved or pushed",
        "Path": "the same",
        "import tempfile": "push_to_hub saves there what it uploads",
        "TemporaryDirectory": "the same",
        "read_text": "the card of a folder that is saved or pushed",
        "save": "that card",
        "save_pretrained": "on the user's call",
        "push_to_hub": "on the user's call",
        "HfApi": "uploads on the user's call of push_to_hub",
        "create_repo": "on the user's call of push_to_hub",
        "create_branch": "on the user's call of push_to_hub",
        "create_commit": "on the user's call of push_to_hub",
        "file_exists": "whether the repository that is pushed to has a card",
        "replace": "of text in a card",
        "__bases__": "the class of errors of huggingface_hub's HTTP client",
        "__module__": "the file that a class is in",
        "vars": "finds the class that names a family's Auto classes",
        "__class__": "saving a model that FSDP has sharded",
        "__mro__": "the same, and that search",
    },
    "kernels_common.py": {
        "import triton": "the kernels, where triton is installed",
        "import triton.language": "the same",
        "load": "tl.load, inside of kernels: from the tensors that they are given",
    },
    "kernels_similarity.py": {"load": "the same"},
    "kernels_triton.py": {"load": "the same"},
    "reduction_config.py": {
        "import os": "the type os.PathLike",
        "os": "the same",
        "getattr of a computed name": "its own fields, by written names",
        "setattr of a computed name": "the same",
        "vars": "the names of these fields",
    },
    "composite_config.py": {
        "getattr of a computed name": "the field of the tower, by a written name",
        "setattr of a computed name": "the same",
        "__mro__": "finds the stock configuration, whose default tower it takes",
        "__module__": "the same",
    },
    "reduction_classifier.py": {"getattr of a computed name": "fields that ask for more than logits"},
    "reduction_model.py": {
        "getattr of a computed name": "fields of the configuration that set_reduction changes",
        "vars": "changes these fields all at once",
        "import threading": "whether the reduction is switched off, for each thread",
    },
    "operators.py": {
        "import os": "reads the variable TRITON_INTERPRET",
        "os": "the same",
        "environ": "the same",
        "import pathlib": "its own sources, after whose hash the operators are named",
        "Path": "the same",
        "read_bytes": "the same",
        "getattr of a computed name": "the namespace of its own operators",
        "save": "a function of its own, for autograd",
    },
    "stored_weights.py": {
        "import pathlib": "files of weights in a folder that is saved",
        "Path": "the same",
        "unlink": "removes those of an earlier save",
    },
    "weight_checks.py": {
        "import torch.utils._python_dispatch": "tells quantised and sharded tensors",
        "import pathlib": "the headers of the weights, and their index",
        "Path": "the same",
        "open": "the same",
        "read": "the same",
        "read_text": "the same",
        "loads": "json.loads",
        "import transformers.utils.hub": "finds these files, as transformers does",
        "cached_file": "the same",
    },
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_file_uses_what_is_listed_and_no_more(path):
    assert powers(path.read_text()) == set(ALLOWED.get(path.name, {}))


def test_the_list_is_of_shipped_files():
    assert set(ALLOWED) <= {path.name for path in FILES}


def test_no_file_changes_the_environment():
    for path in FILES:
        assert "environ[" not in path.read_text()
        assert not re.search(r"environ\.(?!get\()", path.read_text())


BAD = {
    "file": ("open('x', 'w')", {"open"}),
    "file-of-path": ("from pathlib import Path\nPath('x').write_text('y')", {"import pathlib", "Path", "write_text"}),
    "process": ("import subprocess\nsubprocess.Popen('x')", {"import subprocess", "Popen"}),
    "renamed-module": ("import os as innocent\ninnocent.system('x')", {"import os", "system"}),
    "module-of-a-module": ("import copy\ncopy.sys.modules['os'].system('x')", {"sys", "system"}),
    "network": ("import socket", {"import socket"}),
    "address": ("x = 'https://example.org/x'", {"string https://ex"}),
    "evaluation": ("e = eval\ne('1')", {"eval"}),
    "import-by-name": ("__import__('o' + 's')", {"__import__"}),
    "import-by-importlib": ("from importlib import import_module", {"import importlib", "import_module"}),
    "builtins": ("__builtins__['eval']", {"__builtins__"}),
    "attribute-by-name": ("getattr(torch, 'lo' + 'ad')('x')", {"getattr of a computed name"}),
    "attribute-by-constant": ("getattr(torch, 'load')('x')", {"load"}),
    "classes": ("().__class__.__base__.__subclasses__()", {"__class__", "__base__", "__subclasses__"}),
    "pickle": ("import torch\ntorch.load('x')", {"load"}),
    "foreign-code": ("import torch\ntorch.hub.load('x', 'y')", {"hub", "load"}),
    "native-code": ("import ctypes", {"import ctypes"}),
    "native-code-of-torch": ("from torch.utils import cpp_extension", {"import torch.utils", "cpp_extension"}),
    "native-operators": ("import torch\ntorch.ops.load_library('x')", {"load_library"}),
    "secrets": ("import os\nos.environ['HF_TOKEN']", {"import os", "os", "environ"}),
    "token": ("from huggingface_hub import get_token", {"get_token"}),
    "download": ("from huggingface_hub import snapshot_download as x", {"snapshot_download"}),
    "opaque-data": (f"x = '{'aGVsbG8' * 10}'", {"string aGVsbG8aGV"}),
    "inside-of-a-function": (
        "def f():\n    import pickle\n    return pickle.loads",
        {"import pickle", "pickle", "loads"},
    ),
}


@pytest.mark.parametrize(("source", "found"), BAD.values(), ids=BAD)
def test_what_would_do_harm_is_found(source, found):
    assert found <= powers(source)


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """What the code of a saved folder does, and of one that was tampered with."""
    root = tmp_path_factory.mktemp("audits")
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    model = FATRViTForImageClassification(FATRViTConfig(**size, image_size=32, patch_size=4))
    for name in ("saved", "tampered"):
        model.save_pretrained(root / name)
    schedule, reduction = root / "tampered" / "token_plan.py", root / "tampered" / "token_reduction.py"
    schedule.write_text(schedule.read_text() + "\nopen(__import__('os').devnull, 'w').close()\n")
    head, _, body = reduction.read_text().partition("    positions = torch.arange(math.prod(grid)")
    reduction.write_text(
        f"{head}    __import__('os').system('true')\n    positions = torch.arange(math.prod(grid){body}"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(root / "modules")}
    environment.pop("PYTHONPATH", None)
    script = Path(__file__).with_name("audited_process.py")
    command = [sys.executable, script, root / "audits.json", root / "saved", root / "tampered"]
    finished = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads((root / "audits.json").read_text())


def test_loading_reads_its_own_sources_and_the_header_of_the_weights(audits):
    # Python's dataclasses and named tuples make their methods from text.
    generated = [[event, by, "<string>"] for event in ("compile", "exec") for by in ("collections", "dataclasses")]
    reads = [["open", "pathlib", f"reads {name}"] for name in ("model.safetensors", *SOURCES)]
    assert sorted(audits[0]["loading"]) == sorted(generated + reads)


def test_running_does_nothing_but_compute(audits):
    assert audits[0]["running"] == []


def test_a_folder_that_was_tampered_with_is_found_out(audits):
    assert ["open", None, "writes null"] in audits[1]["loading"]
    assert "os.system" in {event for event, *_ in audits[1]["running"]}
