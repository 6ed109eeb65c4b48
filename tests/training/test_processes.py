"""Training on several processes of the CPU, which talk through gloo, against one; `process_job.py` is the job."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import process_job
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from rounding import assert_rounded_alike
from safetensors.torch import load_file
from transformers import TrainingArguments

from fatr_hf import FATRViTForImageClassification
from fatr_hf.modeling.hub_repository import auto_map
from fatr_hf.training.processes import check_data_size, check_float16
from fatr_hf.training.run_folder import last_checkpoint

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = ROOT / "examples" / "accelerate"


def start(configuration, folder, *checks, **options):
    """Starts the job as users start theirs; on the CPU, in full precision."""
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / configuration)]
    for name, value in {"num_processes": 2, "mixed_precision": "no", **options}.items():
        words += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # What a failed job prints is why: where it was, and no warnings of torch's that hide it.
    environment |= {"PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "ignore"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"log-{options.get('machine_rank', 0)}.txt").open("w") as log:
        return subprocess.Popen(
            [*words, process_job.__file__, str(folder), *checks],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(process, folder, fails=False):
    """Waits for a started job and reads its report."""
    try:
        code = process.wait(timeout=120)
    finally:
        # The launcher and the processes it has started: none outlives a job that hangs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    printed = "\n".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))
    assert (code != 0) == fails, printed
    return json.loads((folder / "report.json").read_text())


def run(configuration, root, *checks, fails=False):
    """Starts a job, waits for it and gives its folder and report.

    A native thread of torch may abort a process (SIGABRT, seen once where the tests run): such a job is started a
    second time, and must pass then. Nothing of ours is native.
    """
    folder = root / "first"
    try:
        return folder, finish(start(configuration, folder, *checks), folder, fails)
    except AssertionError as error:
        if "SIGABRT" not in str(error):
            raise
    folder = root / "second"
    return folder, finish(start(configuration, folder, *checks), folder, fails)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, {name: getattr(process_job, name)(folder / name) for name in ("train", "evaluate")}


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    checks = ("train", "evaluate", "resume", "half", "die_while_saving")
    return run("cpu_2processes.yaml", folder, *checks, fails=True)


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    checks = ("train", "evaluate", "resume", "resume_sharded", "half")
    return run("fsdp2.yaml", folder, *checks)


@pytest.fixture(params=["ddp", "fsdp"])
def two(request):
    return request.getfixturevalue(request.param)


def assert_same_tensors(one, other):
    expected, actual = load_file(one), load_file(other)
    assert {tensor.dtype for tensor in expected.values()} == {torch.float64}
    assert_rounded_alike(actual, expected)


EXPECTED = {
    "cpu.yaml": ("NO", 1, 1, "no"),
    "cpu_2processes.yaml": ("MULTI_GPU", 2, 1, "no"),
    "ddp_1gpu.yaml": ("NO", 1, 1, "bf16"),
    "ddp_2gpu.yaml": ("MULTI_GPU", 2, 1, "bf16"),
    "ddp_8gpu.yaml": ("MULTI_GPU", 8, 1, "bf16"),
    "deepspeed_zero2.yaml": ("DEEPSPEED", 8, 1, "bf16"),
    "fsdp2.yaml": ("FSDP", 8, 1, "bf16"),
    "two_nodes.yaml": ("MULTI_GPU", 16, 2, "bf16"),
}


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.iterdir()), ids=lambda path: path.name)
def test_configurations_say_what_their_names_say(path):
    config = load_config_from_file(str(path))
    kind, processes, machines, precision = EXPECTED[path.name]
    assert (config.distributed_type.value, config.num_processes, config.num_machines) == (kind, processes, machines)
    assert config.mixed_precision == precision
    assert config.use_cpu == path.name.startswith("cpu")
    assert config.deepspeed_config.get("zero_stage") == (2 if kind == "DEEPSPEED" else None)
    assert config.fsdp_config.get("fsdp_version") == (2 if kind == "FSDP" else None)


def test_configured_fsdp_layers_are_the_model_s():
    name = load_config_from_file(str(CONFIGURATIONS / "fsdp2.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert name in FATRViTForImageClassification._no_split_modules
    assert name in {type(module).__name__ for module in process_job.new_model().modules()}


@pytest.mark.parametrize("weights", ["plain", "accumulated"])
def test_two_processes_equal_one_with_the_same_total_batch(one, two, weights):
    """Two with 8 images each against 16, and 4 accumulated batches of 4 each against 4 of 8."""
    assert_same_tensors(*(folder / "train" / f"{weights}.safetensors" for folder, _ in (one, two)))


def test_accumulation_of_8x4_equals_32x1_on_two_processes(ddp, tmp_path):
    trainer = process_job.new_trainer(tmp_path, total_batch=32, max_steps=2)
    trainer.train()
    process_job.save(process_job.whole_weights(trainer), tmp_path / "whole.safetensors")
    assert_same_tensors(tmp_path / "whole.safetensors", ddp[0] / "train" / "accumulated.safetensors")


def test_ddp_looks_for_no_unused_parameters_and_there_are_none(ddp):
    assert ddp[1]["train"]["find_unused_parameters"] is False
    assert ddp[1]["train"]["without_gradient"] == []


def test_fsdp_shards_layer_by_layer(fsdp):
    found = fsdp[1]["train"]
    assert found["sharded_modules"].count("FSDPFATRLayer") == 4
    assert found["sharded_share"] == 0.5


def test_evaluation_counts_every_image_once(one, two):
    """37 images: after two batches of 8 on each process 5 remain, which accelerate fills up."""
    (single_folder, single), (folder, found) = one, two
    assert found["evaluate"]["images"] == single["evaluate"]["images"] == [process_job.TEST_IMAGES] * 3
    for moment in ("before", "after"):
        accuracy, loss = found["evaluate"][moment]
        assert accuracy == single["evaluate"][moment][0]
        # A mean over batches, in which the last one counts with the images that fill it up.
        assert loss == pytest.approx(single["evaluate"][moment][1], abs=0.05)
    assert_same_tensors(*(each / "evaluate" / "logits.safetensors" for each in (single_folder, folder)))


def test_evaluation_before_training_changes_nothing(two):
    folder, _ = two
    assert_same_tensors(folder / "train" / "plain.safetensors", folder / "evaluate" / "evaluated_first.safetensors")


@pytest.mark.parametrize(
    ("launched", "check"), [("ddp", "resume"), ("fsdp", "resume"), ("fsdp", "resume_sharded")], ids=lambda word: word
)
def test_resuming_within_an_epoch_gives_the_unbroken_result(request, launched, check):
    folder, found = request.getfixturevalue(launched)
    if "skipped" in found[check]:
        pytest.skip(found[check]["skipped"])
    assert found[check]["kinds"] == ["average", "learning", "optimizer", "random", "weights"]
    assert found[check]["different"] == []
    checkpoint = last_checkpoint(folder / check, processes=2)
    assert checkpoint == str(folder / check / "checkpoint-6")


def test_folder_saved_from_shards_loads_like_any_other(fsdp):
    folder = fsdp[0] / "resume"
    config = json.loads((folder / "checkpoint-6" / "config.json").read_text())
    assert config["auto_map"] == auto_map(FATRViTForImageClassification)
    assert config["architectures"] == ["FATRViTForImageClassification"]
    assert list((folder / "checkpoint-6").glob("*fsdp*.py")) == []
    loaded = FATRViTForImageClassification.from_pretrained(folder / "checkpoint-6").state_dict()
    assert process_job.differences(load_file(folder / "resumed.safetensors"), loaded) == []


def test_bfloat16_trains(two):
    found = two[1]["half"]
    assert (found["computed"], found["weights"]) == (["torch.bfloat16"], ["torch.float32"])
    assert found["last"] < 0.85 * found["first"]


def test_killed_while_saving_a_run_goes_on_from_the_checkpoint_before(ddp, tmp_path):
    """On one process, with the same total batch, it gives the weights of an unbroken run."""
    folder = ddp[0] / "die_while_saving"
    assert (folder / "checkpoint-4" / "optimizer.pt").exists()
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    unbroken, resumed = process_job.new_trainer(tmp_path), process_job.new_trainer(tmp_path)
    unbroken.train()
    resumed.train(resume_from_checkpoint=last_checkpoint(folder))
    assert_rounded_alike(resumed.model.state_dict(), unbroken.model.state_dict())


def test_two_machines_equal_one_process(one, tmp_path):
    """Two launchers on this machine, as they would be started on two."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    machines = [
        start("two_nodes.yaml", tmp_path, "train", machine_rank=rank, main_process_port=port) for rank in (0, 1)
    ]
    for process in reversed(machines):
        finish(process, tmp_path)
    assert_same_tensors(*(folder / "train" / "plain.safetensors" for folder in (one[0], tmp_path)))


@pytest.mark.parametrize(
    ("images", "processes", "drop_last", "words"),
    [
        (0, 1, False, "holds no images"),
        (15, 2, False, r"15 images, a step needs 16.*=8 on 2 processes.*at most 7 or at most 1 processes"),
        (7, 1, True, r"7 images, a step needs 8.*on 1 process\. Use more images or .* at most 7"),
        (3, 4, False, r"3 images, a step needs 32.*Use more images\.$"),
    ],
    ids=["none", "two-processes", "drop-last", "fewer-than-processes"],
)
def test_too_few_images_are_refused_in_words(images, processes, drop_last, words):
    arguments = SimpleNamespace(world_size=processes, train_batch_size=8, dataloader_drop_last=drop_last)
    with pytest.raises(ValueError, match=words):
        check_data_size(images, arguments)


@pytest.mark.parametrize(("images", "processes", "drop_last"), [(16, 2, False), (8, 1, True), (1, 1, False)])
def test_enough_images_are_not_refused(images, processes, drop_last):
    arguments = SimpleNamespace(world_size=processes, train_batch_size=8, dataloader_drop_last=drop_last)
    check_data_size(images, arguments)


def test_float16_on_the_cpu_is_refused(tmp_path):
    """accelerate would train in float32 and call it fp16."""
    with pytest.raises(ValueError, match=r"fp16 needs a GPU.*use bf16"):
        check_float16(TrainingArguments(str(tmp_path), use_cpu=True, fp16=True))
    check_float16(TrainingArguments(str(tmp_path), use_cpu=True, bf16=True))
