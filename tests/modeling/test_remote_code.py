"""A saved folder works by itself: in a process that cannot import fatr_hf, offline."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from huggingface_hub import ModelCard
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

from fatr_hf import FATRViTForImageClassification, FATRViTModel
from fatr_hf.hub.model_card import build_model_card, model_card_of
from fatr_hf.modeling.hub_repository import auto_map

PREAMBLE = """
import sys
sys.modules["fatr_hf"] = None
import json, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, pipeline
folder = sys.argv[1]
pixel_values = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
"""


def run_without_package(code, folder, tmp_path):
    """Runs code in a clean process and returns what it printed last, as JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), str(folder)]
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture
def repository(make_fatr, tmp_path):
    folder = tmp_path / "repository"
    model = make_fatr(size_exponent=0.5)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder, model


def test_auto_classes_and_pipelines(repository, tmp_path):
    folder, model = repository
    printed = run_without_package(
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
        classifier = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        assert not any(name.startswith("fatr_hf") and module for name, module in sys.modules.items())
        image = Image.new("RGB", (40, 30), (200, 30, 90))
        classify = pipeline("image-classification", model=folder, trust_remote_code=True)
        extract = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
        with torch.no_grad():
            logits, hidden = classifier(pixel_values).logits, encoder(pixel_values).last_hidden_state
        classifier.save_pretrained("again")
        again = AutoModelForImageClassification.from_pretrained("again", trust_remote_code=True)
        with torch.no_grad():
            torch.testing.assert_close(again(pixel_values).logits, logits)
        tokens = [layer.tokens_out for layer in config.plan()]
        labels, features = classify(image, top_k=5), extract(image)
        print(json.dumps([logits.tolist(), list(hidden.shape), tokens, len(labels), len(features[0])]))
        """,
        folder,
        tmp_path,
    )
    pixel_values = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    logits, shape, tokens, num_labels, num_features = printed
    assert_rounded_alike(torch.tensor(logits), model(pixel_values).logits)
    expected_tokens = [layer.tokens_out for layer in model.config.plan()]
    assert tokens == expected_tokens
    assert shape == [2, expected_tokens[-1], 32]
    assert (num_labels, num_features) == (5, expected_tokens[-1])


def test_a_stock_checkpoint_converts_with_the_code_of_a_repository(repository, stock, tmp_path):
    folder, _ = repository
    stock.save_pretrained(tmp_path / "stock")
    printed = run_without_package(
        f"""
        from transformers.dynamic_module_utils import get_class_from_dynamic_module
        fatr_class = get_class_from_dynamic_module("modeling_fatr_vit.FATRViTForImageClassification", folder)
        model = fatr_class.from_pretrained({str(tmp_path / "stock")!r}, keep_ratio=1.0, dtype=torch.float64)
        with torch.no_grad():
            print(json.dumps(model(pixel_values).logits.tolist()))
        """,
        folder,
        tmp_path,
    )
    pixel_values = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    assert_rounded_alike(torch.tensor(printed, dtype=torch.float64), stock.double()(pixel_values).logits)


def test_folder_holds_code_weights_card_and_nothing_pickled(repository):
    folder, _ = repository
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "modeling_fatr_vit.py", "token_reduction.py"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads((folder / "config.json").read_text())["auto_map"] == auto_map(FATRViTModel)
    for path in folder.glob("*.py"):
        relative = re.findall(r"^from \.(\w+) import", path.read_text(), flags=re.MULTILINE)
        assert {f"{name}.py" for name in relative} <= names, path.name


def test_card_says_what_the_model_is(make_fatr, tmp_path):
    model = make_fatr()
    card = build_model_card(
        model.config,
        repo_id="someone/vit-fatr",
        license="apache-2.0",
        base_model="google/vit-base-patch16-224",
        dataset="digits",
        accuracy=0.9712,
        results="| model | top-1 |",
    )
    model.save_pretrained(tmp_path, model_card=card)
    saved = ModelCard.load(tmp_path / "README.md")
    assert saved.data.pipeline_tag == "image-classification"
    assert saved.data.library_name == "transformers"
    assert saved.data.license == "apache-2.0"
    assert saved.data.base_model == "google/vit-base-patch16-224"
    assert saved.data.datasets == ["digits"]
    [result] = saved.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9712, "digits")
    for words in ("trust_remote_code=True", 'revision="', "someone/vit-fatr", "| model | top-1 |", "| 1 | 65 | 49 |"):
        assert words in saved.text, words


def test_saving_again_keeps_a_card_unless_one_is_given(make_fatr, tmp_path):
    model = make_fatr()
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("written by hand")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "written by hand"
    model.save_pretrained(tmp_path, model_card=model_card_of(model, license="mit"))
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"


def test_encoder_folder_loads_as_encoder(make_fatr, pixel_values, tmp_path):
    encoder = FATRViTModel(make_fatr().config).eval()
    encoder.save_pretrained(tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "image-feature-extraction"
    again = FATRViTModel.from_pretrained(tmp_path)
    assert_rounded_alike(again(pixel_values).pooler_output, encoder(pixel_values).pooler_output)


def test_base_model_of_the_plain_card_is_a_hub_name_only(make_fatr, tmp_path):
    model = make_fatr()
    model.save_pretrained(tmp_path)
    loaded = FATRViTForImageClassification.from_pretrained(tmp_path)
    assert model_card_of(loaded).data.base_model is None
    model.config._name_or_path = "google/vit-base-patch16-224"
    assert model_card_of(model).data.base_model == "google/vit-base-patch16-224"
