"""What test_processes.py starts in several processes: ``process_job.py FOLDER CHECK...``.

Every check trains tiny models under FOLDER and returns what it found; process 0 writes all of it to ``report.json``.
Imported, the same functions give what a single process finds.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import EvalPrediction, TrainingArguments

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.training.metrics import classification_metrics
from fatr_hf.training.preprocessing import collate
from fatr_hf.training.trainer import FATRTrainer

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
USES_FSDP = os.environ.get("ACCELERATE_USE_FSDP") == "true"

TEST_IMAGES = 37
"""Two batches of 8 on two processes and 5 images over."""


def images(count: int) -> list[dict[str, Any]]:
    """Random images of 16 x 16 pixels, always the same ones, whose label can be learned from their brightness."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (count,), generator=generator)
    pixel_values = torch.randn(count, 3, 16, 16, generator=generator) + labels[:, None, None, None] - 2
    return [
        {"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels.tolist(), strict=True)
    ]


def new_model(dropout: float = 0.0) -> FATRViTForImageClassification:
    """A tiny model, always with the same weights; its own parameters are not zero, as after training."""
    torch.manual_seed(0)
    config = FATRViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        reduction_layers=[1, 2],
        num_labels=5,
        hidden_dropout_prob=dropout,
    )
    model = FATRViTForImageClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("omega1", "omega2", "dc_position_embeddings")):
                parameter.normal_(std=0.3)
    return model


def new_trainer(
    folder: Path, total_batch: int = 16, dropout: float = 0.0, options: dict[str, Any] | None = None, **arguments: Any
) -> FATRTrainer:
    """A trainer of a new model on 64 images: plain gradient descent in float64 unless told otherwise.

    ``total_batch`` counts the images of all processes, so that the number of processes should not matter.
    """
    settings: dict[str, Any] = {"learning_rate": 0.1, "optim": "sgd", "max_steps": 6, "seed": 3, "report_to": "none"}
    settings |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "remove_unused_columns": False}
    settings |= {"dataloader_pin_memory": False, "per_device_train_batch_size": total_batch // PROCESSES}
    training_arguments = TrainingArguments(str(folder), per_device_eval_batch_size=8, **{**settings, **arguments})
    if USES_FSDP:
        # accelerate shards what trains on several GPUs and nothing else: on the CPU its FSDP is DDP, without a word.
        assert training_arguments.device.type == "cpu"
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    model = new_model(dropout)
    return FATRTrainer(
        model if training_arguments.bf16 else model.double(),
        training_arguments,
        data_collator=collate,
        train_dataset=images(64),
        eval_dataset=images(TEST_IMAGES),
        compute_metrics=classification_metrics,
        **(options or {}),
    )


def whole_weights(trainer: FATRTrainer) -> dict[str, Tensor]:
    """The weights of the trained model, gathered from all processes; empty on those that do not write."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return {name: value.contiguous() for name, value in state.items()}


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def train(folder: Path) -> dict[str, Any]:
    """Trains three steps on two batch sizes, the second accumulated; writes the weights.

    Accumulation: 8 batches of a quarter of the images, 4 for each step.
    """
    trainer = new_trainer(folder, max_steps=3)
    trainer.train()
    save(whole_weights(trainer), folder / "plain.safetensors")
    wrapped = trainer.model_wrapped
    found = {
        "find_unused_parameters": getattr(wrapped, "find_unused_parameters", None),
        "without_gradient": [name for name, each in trainer.model.named_parameters() if not each.requires_grad],
        "sharded_modules": sorted(type(each).__name__ for each in wrapped.modules() if isinstance(each, FSDPModule)),
        "sharded_share": min(
            [each.to_local().numel() / each.numel() for each in wrapped.parameters() if isinstance(each, DTensor)],
            default=1.0,
        ),
    }
    trainer = new_trainer(folder, total_batch=8, gradient_accumulation_steps=4, max_steps=2)
    trainer.train()
    save(whole_weights(trainer), folder / "accumulated.safetensors")
    return found


def evaluate(folder: Path) -> dict[str, Any]:
    """Evaluates before and after training, which must have the same effect as without the evaluation."""
    counted = []

    def count_and_measure(prediction: EvalPrediction) -> dict[str, float]:
        counted.append(len(prediction.label_ids))
        return classification_metrics(prediction)

    trainer = new_trainer(folder, max_steps=3)
    trainer.compute_metrics = count_and_measure
    before = trainer.evaluate()
    trainer.train()
    after, prediction = trainer.evaluate(), trainer.predict(images(TEST_IMAGES))
    save(whole_weights(trainer), folder / "evaluated_first.safetensors")
    save({"logits": torch.from_numpy(prediction.predictions)}, folder / "logits.safetensors")
    names = ("eval_accuracy", "eval_loss")
    return {"images": counted, "before": [before[name] for name in names], "after": [after[name] for name in names]}


def resume(folder: Path) -> dict[str, Any]:
    """Resumes in the middle of the first epoch of 4 steps; AdamW, dropout, a falling learning rate, an average."""
    settings: dict[str, Any] = {"dropout": 0.1, "optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 6}
    settings |= {"save_strategy": "steps", "save_steps": 2, "options": {"ema_decay": 0.9}}
    states = []
    for checkpoint in (None, str(folder / "checkpoint-2")):
        trainer = new_trainer(folder, **settings)
        if transformers.__version__.startswith("5.17.") and not USES_FSDP:
            return {"skipped": "transformers 5.17 resumes on cpu:0 where several processes share a CPU: torch refuses"}
        trainer.train(resume_from_checkpoint=checkpoint)
        state = {f"weights {name}": value for name, value in whole_weights(trainer).items()}
        for number, values in trainer.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                state[f"optimizer {number} {name}"] = value.to_local() if isinstance(value, DTensor) else value
        average = trainer.ema.local_averages(trainer.model)
        state |= {f"average {name}": value.clone() for name, value in average.items()}
        state["random state"] = torch.random.get_rng_state()
        state["learning rate"] = torch.tensor([each["lr"] for each in trainer.optimizer.param_groups])
        states.append(state)
    save(whole_weights(trainer), folder / "resumed.safetensors")
    kinds = sorted({name.split()[0] for name in states[0]})
    return {"kinds": kinds, "different": differences(*states)}


def resume_sharded(folder: Path) -> dict[str, Any]:
    """As ``resume``, from FSDP's checkpoints in parts."""
    os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    return resume(folder)


def half(folder: Path) -> dict[str, Any]:
    """Trains in bfloat16: what the layers compute in and what the weights stay in, and the loss."""
    trainer, kinds = new_trainer(folder, bf16=True, max_steps=20, logging_steps=1), set()
    hook = trainer.model.vit.layers[0].mlp.register_forward_hook(lambda _, inputs, output: kinds.add(str(output.dtype)))
    trainer.train()
    hook.remove()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "computed": sorted(kinds),
        "weights": sorted({str(parameter.dtype) for parameter in trainer.model.parameters()}),
        "first": sum(losses[:4]) / 4,
        "last": sum(losses[-4:]) / 4,
    }


def die_while_saving(folder: Path) -> None:
    """Process 0 is killed when it has written a part of the second checkpoint's optimizer state."""
    write = torch.save

    def write_or_die(content: Any, path: Any, *arguments: Any, **options: Any) -> None:
        write(content, path, *arguments, **options)
        if str(path).endswith("checkpoint-4/optimizer.pt"):
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_or_die
    new_trainer(folder, save_strategy="steps", save_steps=2).train()


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes on process 0."""
    if PartialState().is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


def main(folder: Path, names: list[str]) -> None:
    """Runs the checks one after the other; the report grows by each."""
    report = {}
    for name in names:
        report[name] = globals()[name](folder / name)
        if PartialState().is_main_process:
            (folder / "report.json").write_text(json.dumps(report))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # All is done and written. At the interpreter's end threads of libraries may abort the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
