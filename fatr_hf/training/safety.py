"""What stops a run before it spoils its result: a loss or weights that are no numbers, a disk that is full."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.accelerator import Accelerator
from accelerate.utils import gather
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from .run_folder import last_checkpoint

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What safetensors and torch raise are no OSErrors; torch's archive writer says only that it could not write.
_WORDS_OF_A_FULL_DISK = ("No space left on device", "Disk quota exceeded", "inline_container", "iostream error")


class NonFiniteLossGuard(TrainerCallback):
    """Stops training at the first loss that is nan or inf, on all processes alike, before the optimiser's step.

    ``watch`` takes every batch's loss and reads it, as the Trainer itself does unless ``logging_nan_inf_filter`` is off
    (which hides such losses from the logs and goes on). Before each optimiser step the processes gather one number
    each, so that all raise at the same place and none waits for one that has gone. Infinite gradients, which a
    gradient scaler meets in fp16 and skips, are no reason to stop.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.findings: list[tuple[int, str]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets the batches of a run that an error ended."""
        self.findings, self.batches = [], 0

    def watch(self, loss: Tensor, inputs: Mapping[str, Any]) -> None:
        """Notes the loss of a batch, a scalar, and what the batch was if the loss is no number."""
        self.batches += 1
        if not torch.isfinite(loss):
            self.findings.append((self.batches, f"{loss.item()} for {describe_batch(inputs)}"))

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Goes on where the losses of all processes are numbers.

        Raises:
            FloatingPointError: they are not; names step, epoch, batch and the last complete checkpoint.
        """
        findings, self.findings, self.batches = self.findings, [], 0
        flag = torch.tensor([bool(findings)], dtype=torch.int32, device=args.device)
        flags = gather(flag).tolist()
        if not any(flags):
            return
        epoch = state.epoch or 0.0
        batches = len(train_dataloader) if train_dataloader is not None and hasattr(train_dataloader, "__len__") else 0
        done = round((epoch - int(epoch)) * batches)
        own = "".join(f" Batch {done + batch} of {batches or '?'} of the epoch: {text}." for batch, text in findings)
        where = ", ".join(str(process) for process, flag in enumerate(flags) if flag)
        raise FloatingPointError(
            f"The loss is nan or inf in training step {state.global_step + 1}, in epoch {int(epoch) + 1}, on process "
            f"{where}.{own} Training stops before this step and saves nothing more. "
            f"{name_last_checkpoint(Path(str(args.output_dir)))} A lower learning rate, clipped gradients "
            "(max_grad_norm) or bf16 instead of fp16 may help; inputs that are not finite must be mended."
        )


def describe_batch(inputs: Mapping[str, Any]) -> str:
    """The number of images, whether all floating-point values are finite, and the range of the labels."""
    parts: list[str] = []
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or not value.numel():
            continue
        if name != "labels":
            parts += [] if parts else [f"{len(value)} images"]
        else:
            parts.append(f"labels from {value.min().item():g} to {value.max().item():g}")
        if value.is_floating_point():
            wrong = value.numel() - int(torch.isfinite(value).sum())
            parts.append(f"{name} not finite in {wrong} of {value.numel()} places" if wrong else f"{name} finite")
    return ", ".join(parts)


@torch.no_grad()
def check_finite_parameters(model: nn.Module, folder: Path, accelerator: Accelerator) -> None:
    """Keeps weights that are no numbers out of a checkpoint; all processes must call.

    Gradients can be nan where the loss is not, and the next loss tells only after the weights have been saved.

    Raises:
        FloatingPointError: such weights, on any process; names the first parameter and the last complete checkpoint.
    """
    locals_ = {name: getattr(each, "_local_tensor", each) for name, each in model.named_parameters()}
    wrong = [name for name, each in locals_.items() if not torch.isfinite(each).all()]
    flag = torch.tensor([bool(wrong)], dtype=torch.int32, device=accelerator.device)
    if accelerator.gather(flag).any():
        names = f" ({wrong[0]} and {len(wrong) - 1} more)" if wrong else ""
        raise FloatingPointError(
            f"Weights are nan or inf{names}, so {folder} is not saved. {name_last_checkpoint(folder.parent)} A lower "
            "learning rate or clipped gradients (max_grad_norm) may help."
        )


@contextmanager
def whole_checkpoint(folder: Path, writes_state: bool = True) -> Iterator[None]:
    """Within a ``with`` block a checkpoint is written: as a whole, or it does not stay.

    The Trainer's state, which is written last, marks a checkpoint as complete; that of an earlier run which left the
    same folder is removed first. A process that fails here raises alone; the launcher (``accelerate launch``,
    ``torchrun``) then ends the others.

    Args:
        folder: the checkpoint's.
        writes_state: whether this process writes the Trainer's state.

    Raises:
        OSError: the disk is full; names the folder and the last complete checkpoint. Other errors pass as they are.
    """
    if writes_state:
        (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        is_complete = last_checkpoint(folder.parent) == str(folder)  # only older ones were being removed
        if not is_complete:
            shutil.rmtree(folder, ignore_errors=True)
        if not is_full_disk(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"The disk is full, so the checkpoint {folder} could not be written and was removed. "
            f"{name_last_checkpoint(folder.parent)} Make room, or keep fewer checkpoints (save_total_limit). "
            f"What was said: {error}",
        ) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an error tells of a disk without room, by itself or by what it came from."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _WORDS_OF_A_FULL_DISK)


def name_last_checkpoint(folder: Path) -> str:
    """A sentence that names the last complete checkpoint in a folder."""
    last = last_checkpoint(folder)
    return f"The last complete checkpoint is {last}." if last else f"There is no complete checkpoint in {folder}."
