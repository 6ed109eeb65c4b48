"""Arguments of finetune.py, from the command line or from a YAML or JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments


@dataclass
class ModelArguments:
    """Which model to reduce, and how."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "ViT checkpoint (Hub name or folder); by default a small ViT is trained first"}
    )
    model_revision: str = field(default="main", metadata={"help": "revision of a Hub checkpoint"})
    license: str = field(default="unknown", metadata={"help": "Hub identifier of the weights' license, for the card"})
    reduction_layers: list[int] | None = field(default=None, metadata={"help": "0-based layers that reduce"})
    keep_ratio: list[float] | None = field(default=None, metadata={"help": "share kept: one, or one for each layer"})
    dc_windows: list[int] | None = field(default=None, metadata={"help": "windows a side: one, or one for each layer"})
    token_multiple: int = field(default=1, metadata={"help": "reduced lengths are multiples of this"})
    selection: str = field(default="high_frequency", metadata={"help": "how tokens are ranked"})
    dc_size_exponent: float = field(default=0.0, metadata={"help": "raises attention to large DC tokens"})
    base_image_size: int = field(default=8, metadata={"help": "a ViT from scratch: image size in pixels"})
    base_patch_size: int = field(default=1, metadata={"help": "a ViT from scratch: patch size in pixels"})
    base_hidden_size: int = field(default=48, metadata={"help": "a ViT from scratch: hidden size"})
    base_heads: int = field(default=3, metadata={"help": "a ViT from scratch: attention heads"})
    base_layers: int = field(default=12, metadata={"help": "a ViT from scratch: layers"})
    base_epochs: float = field(default=20.0, metadata={"help": "a ViT from scratch: epochs of training"})
    base_learning_rate: float = field(default=2e-3, metadata={"help": "a ViT from scratch: peak learning rate"})

    def reduction_fields(self) -> dict[str, Any]:
        """The configuration fields that were given; the others keep their defaults."""
        fields: dict[str, Any] = {
            "reduction_layers": self.reduction_layers,
            "keep_ratio": single_or_list(self.keep_ratio),
            "dc_windows": single_or_list(self.dc_windows),
            "token_multiple": self.token_multiple,
            "selection": self.selection,
            "dc_size_exponent": self.dc_size_exponent,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass
class DataArguments:
    """Which images to train and test on."""

    dataset: str = field(
        default="digits",
        metadata={"help": "digits, a folder (images, parquet/arrow, idx files) or a data set's name on the Hub"},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    dataset_revision: str | None = field(default=None, metadata={"help": "revision of a Hub data set"})
    train_split: str | None = field(default=None, metadata={"help": "split to train on"})
    test_split: str | None = field(default=None, metadata={"help": "split to test on"})
    image_column: str | None = field(default=None, metadata={"help": "column of images"})
    label_column: str | None = field(default=None, metadata={"help": "column of labels"})
    test_fraction: float = field(default=0.2, metadata={"help": "share tested on where there is only one split"})
    check_images: bool = field(default=True, metadata={"help": "decode every image once before training"})
    augmentation: str = field(default="none", metadata={"help": "none, or light: random crops and flips"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first images only"})
    max_test_samples: int | None = field(default=None, metadata={"help": "test on the first images only"})
    verify_samples: int = field(default=2000, metadata={"help": "test images for the proof of the saved folder"})


@dataclass
class FineTuningArguments(TrainingArguments):
    """Trainer's arguments with defaults for `digits`, and those of the distillation."""

    output_dir: str | None = field(default="outputs/digits", metadata={"help": "folder of this run"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "remove the run that output_dir holds"})
    distillation_weight: float = field(default=1.0, metadata={"help": "factor of the KL to the unreduced model"})
    distillation_temperature: float = field(default=1.0, metadata={"help": "temperature of that KL"})
    learning_rate: float = field(default=5e-4, metadata={"help": "peak learning rate"})
    num_train_epochs: float = field(default=8.0, metadata={"help": "epochs of fine-tuning"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "images a step and process"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "images a step and process"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's weight decay"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "steps of warm-up, or below 1 their share"})
    logging_steps: float = field(default=10, metadata={"help": "steps between logs"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to test"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints to keep"})
    report_to: str = field(default="none", metadata={"help": "where to report"})
    seed: int = field(default=0, metadata={"help": "of everything random"})

    def __post_init__(self) -> None:
        # Several processes without an accelerator would otherwise ask for one each.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        # The image column is decoded by the transform, which the Trainer cannot see.
        self.remove_unused_columns = False


RESULT_ARGUMENTS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "max_grad_norm",
    "optim",
    "mixed_precision",
    "seed",
    "distillation_weight",
    "distillation_temperature",
)
"""Training arguments that the result depends on: a run is resumed only with the same ones."""


def parse_arguments(command_line: list[str]) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    """Parses the command line; a first argument that ends in .yaml, .yml or .json is a file of further arguments.

    What stands on the command line goes before what stands in the file.
    """
    classes: Any = (ModelArguments, DataArguments, FineTuningArguments)
    parser = HfArgumentParser(classes)
    if command_line and command_line[0].endswith((".yaml", ".yml", ".json")):
        command_line = [*read_argument_file(Path(command_line[0])), *command_line[1:]]
    parsed: Any = parser.parse_args_into_dataclasses(command_line)
    return parsed


def read_argument_file(path: Path) -> list[str]:
    """The arguments of a YAML or JSON file, as they would stand on the command line.

    Raises:
        ValueError: a file that is missing or holds anything but names and values.
    """
    if not path.is_file():
        raise ValueError(f"The file of arguments {path} does not exist.")
    content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"The file of arguments {path} must hold names and values, not a {type(content).__name__}.")
    words: list[str] = []
    for name, value in content.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
    return words


def single_or_list(values: list[Any] | None) -> Any:
    """One value stands for all reduction layers; several are one for each."""
    return values[0] if values is not None and len(values) == 1 else values


def result_arguments(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: FineTuningArguments
) -> dict[str, Any]:
    """Everything that the result depends on, as JSON values."""
    training = {name: getattr(arguments, name) for name in RESULT_ARGUMENTS}
    record = {**asdict(model_arguments), **asdict(data_arguments), **training, "processes": arguments.world_size}
    return {name: getattr(value, "value", value) for name, value in record.items()}
