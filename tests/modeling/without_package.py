"""Saved folders in a fresh process that cannot import fatr_hf, offline: their own code must do."""

import os
import subprocess
import sys

from safetensors.torch import load_file, save_file

CODE = """
import sys
sys.modules["fatr_hf"] = None
import torch, transformers
from safetensors.torch import load_file, save_file
auto, model, given, found, again = sys.argv[1:]
auto, given = getattr(transformers, auto), load_file(given)
for place in (model, again):  # what remote code saves is whole
    loaded = auto.from_pretrained(place, trust_remote_code=True).double().eval()
    with torch.no_grad():
        outputs = loaded(**given)
    loaded.save_pretrained(again)
tensors = {name: each.contiguous() for name, each in outputs.items() if isinstance(each, torch.Tensor)}
save_file(tensors, found)
"""


def run_isolated(code, folder, *arguments):
    """What a program prints that can import fatr_hf no more, run in an empty cache of remote code under a folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def outputs_without_package(model, auto_class, given, folder):
    """The tensors that a saved model gives there, loaded by an Auto class, saved again and loaded once more."""
    model.save_pretrained(folder / "model")
    save_file({name: each.contiguous() for name, each in given.items()}, folder / "given.safetensors")
    files = (folder / each for each in ("model", "given.safetensors", "found.safetensors", "again"))
    run_isolated(CODE, folder, auto_class, *files)
    return load_file(folder / "found.safetensors")
