"""What a checkpoint must have in common with the run that is resumed from it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .run_folder import TRAINER_STATE, is_complete, write_json
from .teachers import different_classes

logger = logging.get_logger(__name__)

BATCH_FILE = "batch.json"
"""The file of a checkpoint folder that holds its ``BatchRecord``."""


@dataclass(frozen=True)
class BatchRecord:
    """What one step of training is made of.

    Attributes:
        batch: images of one process in one forward pass.
        accumulation_steps: forward passes of a step.
        total: images of a step, on all processes.
    """

    batch: int
    accumulation_steps: int
    total: int

    def save(self, folder: Path) -> None:
        """Writes the record into a checkpoint folder, which is created where needed."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / BATCH_FILE, asdict(self))

    def __str__(self) -> str:
        processes = self.total // (self.batch * self.accumulation_steps)
        factors = f"batch {self.batch} x accumulation {self.accumulation_steps} x processes {processes}"
        return f"{self.total} images a step ({factors})"


def check_same_batch(checkpoint: Path, current: BatchRecord) -> None:
    """Refuses to resume with another number of images a step: the count of steps would mean another place in the data.

    Of a checkpoint without a record, which transformers' own Trainer wrote, only the batch of a process is known.

    Raises:
        ValueError: another total batch; names both.
    """
    cure = "Resume with the batch size, accumulation steps and processes that it had, or train anew from its weights."
    record = checkpoint / BATCH_FILE
    if record.is_file():
        was = BatchRecord(**json.loads(record.read_text()))
        if was.total != current.total:
            raise ValueError(f"{checkpoint} was trained with {was}, and this run has {current}. {cure}")
        return
    state = checkpoint / TRAINER_STATE
    batch = json.loads(state.read_text()).get("train_batch_size") if state.is_file() else None
    if batch is not None and batch != current.batch:
        raise ValueError(
            f"{checkpoint} was trained with a per_device_train_batch_size of {batch}, and this run has "
            f"{current.batch}. {cure}"
        )


def check_complete(checkpoint: Path) -> None:
    """Raises a ValueError for a checkpoint from which a run cannot go on as it was."""
    if not is_complete(checkpoint):
        raise ValueError(
            f"{checkpoint} does not hold all that resuming needs: optimizer and scheduler would start anew. It was "
            "saved with save_only_model=True, or broke off. Load its weights with from_pretrained, and train from them."
        )


class LastStep(TrainerCallback):
    """Says that a finished run which is resumed has nothing left to train, and refuses one that is beyond its end."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compares the step of the checkpoint with the last one.

        Raises:
            ValueError: the checkpoint is of a later step.
        """
        step, end = state.global_step, state.max_steps
        if step > end:
            raise ValueError(
                f"The checkpoint is of step {step}, and training ends at step {end} (max_steps, num_train_epochs): "
                "resume from an earlier one, or raise them."
            )
        if step == end:
            logger.warning(
                f"The checkpoint is of step {step}, and training ends at step {end} (max_steps, num_train_epochs): "
                "nothing is left to train."
            )


def check_same_model(checkpoint: Path, restored: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuses a checkpoint whose model has other classes or weights of other shapes than the one that is trained.

    Args:
        checkpoint: its folder.
        restored: the checkpoint's model.
        model: the one that is trained.

    Raises:
        ValueError: names what differs.
    """
    there, here = ({name: (*value.shape,) for name, value in each.state_dict().items()} for each in (restored, model))
    different = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if different:
        name = different[0]
        shapes = [each.get(name, "absent") for each in (there, here)]
        raise ValueError(
            f"{checkpoint} is of another model: {name} is {shapes[0]} there and {shapes[1]} here; {len(different)} of "
            f"{len(here)} weights differ."
        )
    classes = different_classes(restored.config, model.config)
    if classes:
        raise ValueError(f"{checkpoint} is of a model with other classes, or another order of them: {classes}.")
