"""The main job as users start it: whole runs in processes of their own, tiny ones."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from rounding import assert_rounded_alike
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification

ROOT = Path(__file__).parents[2]

TINY = {
    "base_image_size": 8,
    "base_layers": 4,
    "base_hidden_size": 16,
    "base_heads": 2,
    "base_epochs": 2,
    "num_train_epochs": 3,
    "max_train_samples": 96,
    "max_test_samples": 48,
    "per_device_train_batch_size": 16,
    "disable_tqdm": True,
    "use_cpu": True,
}


CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def command(*launcher, **arguments):
    words = [word for name, value in {**TINY, **arguments}.items() for word in (f"--{name}", *str(value).split())]
    return [sys.executable, *launcher, str(ROOT / "examples" / "finetune.py"), *words]


def environment():
    paths = (str(ROOT), os.environ.get("PYTHONPATH"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(words, fails=False):
    finished = subprocess.run(words, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (finished.returncode != 0) == fails, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def weights(folder, part="model"):
    return load_file(folder / part / "model.safetensors")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def kill_when_there_is(path, words):
    """Starts a run and kills it, without a chance to clean up, as soon as a file is there."""
    with subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not path.exists():
            assert process.poll() is None, f"the run ended before it wrote {path}"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    return folder, run(command(output_dir=folder))


def test_run_tells_the_whole_story(finished_run):
    folder, printed = finished_run
    results = json.loads((folder / "results.json").read_text())
    names = [model["name"] for model in results["models"]]
    assert names == ["ViT, unreduced", "FATR, before fine-tuning", "FATR, fine-tuned"]
    assert results["test_images"] == results["verified_images"] == 48
    assert results["models"][2]["macs"] < results["models"][0]["macs"]
    for model in results["models"]:
        assert f"| {model['name']} | {100 * model['accuracy']:.2f}% |" in printed
        assert model["images_per_second"] > 0
    assert [tokens["patches_out"] for tokens in results["token_plan"]] == [64, 44, 30, 21]
    assert "Loaded without fatr_hf" in printed


def test_run_leaves_a_folder_for_the_hub(finished_run):
    folder, _ = finished_run
    card = ModelCard.load(folder / "model" / "README.md")
    results = json.loads((folder / "results.json").read_text())
    assert card.data.datasets == ["digits"]
    assert card.data.eval_results[0].metric_value == pytest.approx(results["models"][2]["accuracy"], abs=1e-6)
    assert "| FATR, fine-tuned |" in card.text
    names = {path.name for path in (folder / "model").iterdir()}
    assert {"model.safetensors", "preprocessor_config.json", "modeling_fatr_vit.py"} <= names
    assert json.loads((folder / "model" / "config.json").read_text())["id2label"]["3"] == "3"
    assert ViTForImageClassification.from_pretrained(folder / "base").config.num_labels == 10


def test_a_finished_run_is_neither_overwritten_nor_mixed_with_another(finished_run):
    folder, _ = finished_run
    before = weights(folder)
    printed = run(command(output_dir=folder), fails=True)
    assert "holds another run" in printed
    printed = run(command(output_dir=folder, resume_from_checkpoint=True, learning_rate=0.3), fails=True)
    assert "learning_rate was 0.0005 and is 0.3" in printed
    printed = run(command(output_dir=folder, resume_from_checkpoint=True))
    assert "| FATR, fine-tuned |" in printed
    for name, value in weights(folder).items():
        assert torch.equal(value, before[name]), name


def test_a_run_killed_twice_gives_the_unbroken_result(finished_run, tmp_path):
    unbroken, _ = finished_run
    words = command(output_dir=tmp_path / "broken", resume_from_checkpoint=True)
    kill_when_there_is(tmp_path / "broken" / "base-checkpoints" / "checkpoint-6" / "trainer_state.json", words)
    assert not (tmp_path / "broken" / "base").exists()
    kill_when_there_is(tmp_path / "broken" / "checkpoints" / "checkpoint-6" / "trainer_state.json", words)
    assert not (tmp_path / "broken" / "model").exists()
    run(words)
    for part in ("base", "model"):
        expected, actual = weights(unbroken, part), weights(tmp_path / "broken", part)
        assert set(actual) == set(expected)
        assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_two_processes_equal_one_with_the_same_total_batch(tmp_path):
    """Plain gradient descent: Adam would turn a rounding error in a tiny gradient into a full step."""
    options = {"optim": "sgd", "learning_rate": 0.05, "base_learning_rate": 0.05}
    # Few images, and a seed with which no two scores are near enough for rounding to reorder them.
    options |= {"max_train_samples": 32, "max_test_samples": 24, "seed": 2}
    run(command(output_dir=tmp_path / "one", per_device_train_batch_size=16, **options))
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    settings = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()))
    words = command(*launcher, *settings, output_dir=tmp_path / "two", per_device_train_batch_size=8, **options)
    run(words)
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert record["processes"] == 2
    for part in ("base", "model"):
        one, two = weights(tmp_path / "one", part), weights(tmp_path / "two", part)
        assert_rounded_alike(two, one)
    results = [json.loads((tmp_path / each / "results.json").read_text()) for each in ("one", "two")]
    accuracies = [[model["accuracy"] for model in result["models"]] for result in results]
    assert accuracies[0] == accuracies[1]


def test_paper_recipe_on_any_budget(finished_run, tmp_path):
    """DeiT's augmentation, an average of the weights that teaches, a keep ratio drawn for each step, TensorBoard."""
    folder, _ = finished_run
    options = {"preset": "deit", "teacher": "ema", "ema_decay": 0.9, "elastic": "0.4 0.7", "report_to": "tensorboard"}
    options |= {"model_name_or_path": folder / "base", "num_train_epochs": 1, "learning_rate": 0.5}
    words = command(output_dir=tmp_path / "run", **options)
    printed = run([word for word in words if word])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    accuracies = results["accuracy_by_keep_ratio"]
    assert {"0.4", "0.7"} <= set(accuracies)
    assert accuracies["0.7"] == pytest.approx(results["models"][2]["accuracy"])
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md").text
    for text in (printed, card):
        assert "### Accuracy by budget" in text
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["mixup_alpha"], record["repeats"], record["learning_rate_batch"]) == (0.8, 3, 1024)
    assert list((tmp_path / "run" / "checkpoints").rglob("ema.safetensors"))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


@pytest.mark.parametrize("preset", ["deit", "digits", "fashion_mnist", "light", "photographs"])
def test_presets_parse_and_give_way_to_the_command_line(monkeypatch, preset):
    arguments = importlib.import_module("finetune_arguments")
    assert preset in arguments.RECIPES
    model, _, augmentation, options = arguments.parse_arguments(["--preset", preset, "--use_cpu", "true"])
    augmentation.resolved()
    assert options.preset == preset
    *_, changed = arguments.parse_arguments(["--preset", preset, "--weight_decay", "0.3", "--use_cpu", "true"])
    assert changed.weight_decay == 0.3
    assert model.reduction_fields().get("dc_windows") == ([2, 2, 1] if preset == "light" else None)


def test_real_data_gets_the_papers_recipe_and_digits_theirs():
    """Appendix D: learning rate 1e-4 at 1024 images a step, and in proportion otherwise."""
    arguments = importlib.import_module("finetune_arguments")
    *_, augmentation, options = arguments.parse_arguments(["--dataset", "path/to/images", "--use_cpu", "true"])
    assert options.preset == "deit"
    assert augmentation.resolved() == importlib.import_module("fatr_hf.training.augmentation").AUGMENTATIONS["deit"]
    assert (options.num_train_epochs, options.weight_decay, options.warmup_steps) == (30, 2e-5, 0)
    assert (options.ema_decay, options.teacher, options.lr_scheduler_type) == (0.9998, "start", "cosine")
    assert options.scaled_learning_rate == pytest.approx(1e-4 * 128 / 1024)
    options.gradient_accumulation_steps = 8
    assert options.scaled_learning_rate == pytest.approx(1e-4)
    *_, options = arguments.parse_arguments(["--use_cpu", "true"])
    assert (options.preset, options.ema_decay, options.scaled_learning_rate) == ("digits", None, 5e-4)


def test_checkpoint_and_image_folder_from_a_file_of_arguments(finished_run, tmp_path):
    """A stock checkpoint on somebody's own images, set up in YAML, one argument changed on the command line."""
    folder, _ = finished_run
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        class_folder = tmp_path / "images" / str(label)
        class_folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray((pixels * 15.9).astype(np.uint8)).save(class_folder / f"{index}.png")
    settings = {name: value for name, value in TINY.items() if not name.startswith("base_")}
    settings |= {"model_name_or_path": str(folder / "base"), "dataset": str(tmp_path / "images")}
    settings |= {"output_dir": str(tmp_path / "run"), "keep_ratio": [0.5, 0.8, 0.8], "num_train_epochs": 1}
    (tmp_path / "arguments.yaml").write_text(yaml.safe_dump(settings))
    words = [sys.executable, str(ROOT / "examples" / "finetune.py"), str(tmp_path / "arguments.yaml")]
    printed = run([*words, "--dc_windows", "1", "--augmentation", "light"])
    assert "| FATR, fine-tuned |" in printed
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["keep_ratio"], config["dc_windows"]) == ([0.5, 0.8, 0.8], 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep_ratio": 1.5}, "keep_ratio=1.5 must lie in (0, 1]"),
        ({"reduction_layers": "3 9"}, "reduction_layers=[3, 9] must be strictly increasing integers from 0 to 3"),
        ({"dataset": "./nowhere"}, "'./nowhere' does not exist"),
        ({"push_to_hub": True}, "--push_to_hub needs --hub_model_id"),
        ({"resume_from_checkpoint": "./nowhere"}, "--resume_from_checkpoint ./nowhere must be true, false or"),
        ({"augmentation": "heavy"}, "augmentation='heavy' must be one of none, light"),
        ({"preset": "imagenet"}, "--preset imagenet must be one of deit, digits, fashion_mnist, light"),
        ({"mixup_alpha": -1}, "mixup_alpha=-1.0 of the augmentation must be a finite number that is not negative"),
        ({"reduction_preset": "global"}, "preset='global' must be one of paper, local, faithful"),
        ({"teacher": "ema"}, "--teacher ema is the average of the weights: it needs --ema_decay"),
        ({"ema_decay": 1.5}, "ema_decay=1.5 must be at least 0 and below 1"),
        ({"elastic": "0.5"}, "--elastic [0.5] must be two keep ratios"),
        ({"elastic": "0.7 0.5"}, "from 0.7 to 0.5 must be ascending"),
        ({"max_test_samples": 3}, "There are training images and no test images of"),
        ({"fp16": True}, "Mixed precision fp16 needs a GPU"),
        ({"prediction_loss_only": True}, "--prediction_loss_only true leaves out the predictions"),
        ({"distillation_weight": -1}, "--distillation_weight -1.0 must be at least 0"),
        ({"image_size": 16}, "--image_size is for --model_name_or_path"),
        ({"per_device_train_batch_size": 128, "dataloader_drop_last": True}, "holds 96 images, a step needs 128"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_in_words_before_any_training(tmp_path, monkeypatch, arguments, words):
    finetune = importlib.import_module("finetune")
    monkeypatch.setattr(sys, "argv", command(output_dir=tmp_path / "run", **arguments)[1:])
    with pytest.raises(Exception, match=re.escape(words)):
        finetune.main()
    assert not (tmp_path / "run" / "base-checkpoints").exists()


def test_teacher_with_other_classes_is_refused_before_any_training(tmp_path, monkeypatch):
    ViTForImageClassification(ViTConfig(**CONFIG, num_labels=7)).save_pretrained(tmp_path / "teacher")
    finetune = importlib.import_module("finetune")
    monkeypatch.setattr(sys, "argv", command(output_dir=tmp_path / "run", teacher=tmp_path / "teacher")[1:])
    with pytest.raises(ValueError, match="has 7 classes, digits has 10"):
        finetune.main()
    assert not (tmp_path / "run" / "base-checkpoints").exists()
