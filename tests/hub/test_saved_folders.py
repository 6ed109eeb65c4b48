"""A folder is what was saved last, and runs its own code."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf import FATRViTForImageClassification


def load(folder, **options):
    return FATRViTForImageClassification.from_pretrained(folder, **options).eval()


def weight_names(folder):
    return sorted(path.name for path in folder.iterdir() if ".safetensors" in path.name)


@pytest.fixture
def trained(make_fatr):
    """A model, and the same after more training."""
    model = make_fatr()
    more = make_fatr()
    more.load_state_dict(model.state_dict())
    with torch.no_grad():
        more.classifier.bias.add_(5)
    return model, more


@pytest.mark.parametrize(
    ("first", "second"),
    [("50GB", "50KB"), ("50KB", "50GB"), ("30KB", "60KB"), ("50GB", "50GB")],
    ids=["parts-over-whole", "whole-over-parts", "fewer-parts", "whole-over-whole"],
)
@pytest.mark.parametrize("variant", [None, "fp16"], ids=["plain", "variant"])
def test_what_was_saved_last_is_loaded(trained, pixel_values, tmp_path, first, second, variant):
    for model, size in zip(trained, (first, second), strict=True):
        model.save_pretrained(tmp_path / "saved", max_shard_size=size, variant=variant)
    trained[1].save_pretrained(tmp_path / "fresh", max_shard_size=second, variant=variant)
    assert weight_names(tmp_path / "saved") == weight_names(tmp_path / "fresh")
    assert_rounded_alike(
        load(tmp_path / "saved", variant=variant)(pixel_values).logits, trained[1](pixel_values).logits
    )


def test_another_variant_stays(trained, pixel_values, tmp_path):
    model, more = trained
    model.save_pretrained(tmp_path, variant="old")
    more.save_pretrained(tmp_path)
    assert_rounded_alike(load(tmp_path, variant="old")(pixel_values).logits, model(pixel_values).logits)
    assert_rounded_alike(load(tmp_path)(pixel_values).logits, more(pixel_values).logits)


def test_a_save_that_fails_leaves_the_older_weights(trained, pixel_values, tmp_path, monkeypatch):
    model, more = trained
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(
        "transformers.modeling_utils.safe_save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        more.save_pretrained(tmp_path, max_shard_size="50KB")
    monkeypatch.undo()
    assert_rounded_alike(load(tmp_path)(pixel_values).logits, model(pixel_values).logits)


def test_other_processes_remove_nothing(trained, tmp_path):
    model, _ = trained
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, is_main_process=False)
    assert weight_names(tmp_path) == ["model.safetensors"]


def test_a_broken_index_beside_whole_weights_is_not_read(trained, pixel_values, tmp_path):
    model, _ = trained
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    assert_rounded_alike(load(tmp_path)(pixel_values).logits, model(pixel_values).logits)


def test_an_index_without_metadata_says_what_to_do(trained, tmp_path):
    trained[0].save_pretrained(tmp_path, max_shard_size="50KB")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    with pytest.raises(ValueError, match=r"no index of sharded weights: KeyError: 'metadata'\. Save or download"):
        load(tmp_path)


# Code

LOAD = """
import sys
sys.modules["fatr_hf"] = None
from transformers import AutoModelForImageClassification
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    place = sys.modules[type(model.vit.layers[0]).__module__].__file__.rsplit("/", 1)[0]
    print([line for line in open(place + "/FILE").read().splitlines() if line.startswith("MARK")])
"""


@pytest.mark.parametrize("file", ["encoder.py", "kernels_triton.py"])
def test_folders_of_one_name_run_their_own_code(make_fatr, tmp_path, file):
    for name in "abc":
        if name == "a":
            make_fatr().save_pretrained(tmp_path / name / "model")
        else:
            shutil.copytree(tmp_path / "a" / "model", tmp_path / name / "model")
            path = tmp_path / name / "model" / file
            path.write_text(f"{path.read_text()}\nMARK = {name!r}\n")
    folders = [str(tmp_path / name / "model") for name in ("a", "b", "a", "c")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    words = [sys.executable, "-c", LOAD.replace("FILE", file), *folders]
    finished = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.split("\n")[:4] == ["[]", "[\"MARK = 'b'\"]", "[]", "[\"MARK = 'c'\"]"]
