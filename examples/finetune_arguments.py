"""Arguments of finetune.py, from the command line or from a YAML or JSON file."""

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from fatr_hf.modeling.presets import PRESETS
from fatr_hf.modeling.reduction_config import REDUCTION_FIELDS
from fatr_hf.training.augmentation import AUGMENTATIONS, CROPS, Augmentation, find_augmentation

CONFIGS = Path(__file__).parent / "configs"

RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
"""Recipes by name: files of arguments in ``examples/configs``."""


@dataclass
class ModelArguments:
    """Which model to reduce, and how."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "checkpoint (Hub name or folder); by default a small ViT is trained first"},
    )
    model_revision: str = field(default="main", metadata={"help": "revision of a Hub checkpoint"})
    image_size: list[int] | None = field(
        default=None, metadata={"help": "image size for fine-tuning in pixels: one side, or height and width"}
    )
    license: str = field(default="unknown", metadata={"help": "Hub identifier of the weights' license, for the card"})
    reduction_preset: str | None = field(default=None, metadata={"help": f"named reduction: {', '.join(PRESETS)}"})
    reduction_layers: list[int] | None = field(default=None, metadata={"help": REDUCTION_FIELDS["reduction_layers"]})
    keep_ratio: list[float] | None = field(default=None, metadata={"help": REDUCTION_FIELDS["keep_ratio"]})
    dc_windows: list[int] | None = field(default=None, metadata={"help": REDUCTION_FIELDS["dc_windows"]})
    fold: str | None = field(default=None, metadata={"help": REDUCTION_FIELDS["fold"]})
    token_multiple: int | None = field(default=None, metadata={"help": REDUCTION_FIELDS["token_multiple"]})
    selection: str | None = field(default=None, metadata={"help": REDUCTION_FIELDS["selection"]})
    size_exponent: float | None = field(default=None, metadata={"help": REDUCTION_FIELDS["size_exponent"]})
    base_image_size: int = field(default=8, metadata={"help": "ViT from scratch: image size in pixels"})
    base_patch_size: int = field(default=1, metadata={"help": "ViT from scratch: patch size in pixels"})
    base_hidden_size: int = field(default=48, metadata={"help": "ViT from scratch: hidden size"})
    base_heads: int = field(default=3, metadata={"help": "ViT from scratch: attention heads"})
    base_layers: int = field(default=12, metadata={"help": "ViT from scratch: layers"})
    # ViT's own 0.02 suits wide models; it leaves a narrow one without a signal for many epochs.
    base_initializer_range: float = field(
        default=0.1, metadata={"help": "ViT from scratch: standard deviation of initial weights"}
    )
    base_epochs: float = field(default=20.0, metadata={"help": "ViT from scratch: training epochs"})
    base_learning_rate: float = field(default=2e-3, metadata={"help": "ViT from scratch: peak learning rate"})
    base_weight_decay: float = field(default=0.05, metadata={"help": "ViT from scratch: AdamW's weight decay"})
    base_warmup_steps: float = field(default=0.1, metadata={"help": "ViT from scratch: warm-up steps, or their share"})
    base_augmentation: str = field(default="none", metadata={"help": "ViT from scratch: named augmentation"})

    def size_fields(self) -> dict[str, Any]:
        """The image size, if one was given; loading interpolates the position embeddings for it."""
        return {} if self.image_size is None else {"image_size": single_or_list(self.image_size)}

    def reduction_fields(self) -> dict[str, Any]:
        """The configuration fields that were given; the others keep their defaults."""
        fields: dict[str, Any] = {
            "reduction_layers": self.reduction_layers,
            "keep_ratio": single_or_list(self.keep_ratio),
            "dc_windows": single_or_list(self.dc_windows),
            "fold": self.fold,
            "token_multiple": self.token_multiple,
            "selection": self.selection,
            "size_exponent": self.size_exponent,
            "preset": self.reduction_preset,
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
    test_fraction: float = field(default=0.2, metadata={"help": "share of test images if there is only one split"})
    allow_untested_classes: bool = field(default=False, metadata={"help": "permit classes without test images"})
    check_images: bool = field(default=True, metadata={"help": "decode every image once before training"})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "number of training images, balanced over the classes"}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "number of test images, balanced over the classes"}
    )
    verify_samples: int = field(default=2000, metadata={"help": "test images that verify the saved folder; 0: none"})


@dataclass
class AugmentationArguments:
    """What happens to training images: an augmentation by name, and parts of it replaced."""

    augmentation: str = field(default="none", metadata={"help": f"one of {', '.join(AUGMENTATIONS)}"})
    crop: str | None = field(default=None, metadata={"help": f"one of {', '.join(CROPS)}"})
    crop_scale: list[float] | None = field(default=None, metadata={"help": "lowest and highest share of the area"})
    horizontal_flip: float | None = field(default=None, metadata={"help": "probability of mirroring an image"})
    rand_augment_magnitude: float | None = field(default=None, metadata={"help": "RandAugment's level, 0 (off) to 10"})
    rand_augment_std: float | None = field(default=None, metadata={"help": "standard deviation of RandAugment's level"})
    rand_augment_ops: int | None = field(default=None, metadata={"help": "RandAugment's operations per image"})
    rand_augment_probability: float | None = field(default=None, metadata={"help": "probability of each operation"})
    random_erasing: float | None = field(default=None, metadata={"help": "probability of erasing a rectangle"})
    mixup_alpha: float | None = field(default=None, metadata={"help": "MixUp's parameter; 0 switches it off"})
    cutmix_alpha: float | None = field(default=None, metadata={"help": "CutMix's parameter; 0 switches it off"})
    mix_probability: float | None = field(default=None, metadata={"help": "probability that a batch is mixed"})
    mix_switch_probability: float | None = field(default=None, metadata={"help": "share of CutMix if both are on"})
    repeats: int | None = field(default=None, metadata={"help": "repetitions of each image in an epoch"})

    def resolved(self) -> Augmentation:
        """The augmentation that was named, with what was given beside it.

        Raises:
            ValueError: an unknown name or a value that is not allowed.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None and name != "augmentation"}
        if "crop_scale" in given:
            given["crop_scale"] = tuple(given["crop_scale"])
        return replace(find_augmentation(self.augmentation), **given)


@dataclass
class FineTuningArguments(TrainingArguments):
    """Trainer's arguments, and those of the recipe; presets set most of them."""

    preset: str = field(default="deit", metadata={"help": f"one of {', '.join(RECIPES)}; digits for digits"})
    output_dir: str | None = field(default="outputs/finetuned", metadata={"help": "folder of this run"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "delete the run in output_dir and start over"})
    teacher: str = field(
        default="start", metadata={"help": "start (the unreduced model), ema, or a checkpoint's name or folder"}
    )
    teacher_revision: str = field(default="main", metadata={"help": "revision of a teacher on the Hub"})
    distillation_weight: float = field(default=1.0, metadata={"help": "weight of the KL divergence to the teacher"})
    distillation_temperature: float = field(default=1.0, metadata={"help": "temperature of the KL divergence"})
    ema_decay: float | None = field(default=None, metadata={"help": "average the weights with this decay; 0: off"})
    learning_rate_batch: int = field(
        default=0, metadata={"help": "total images a step that learning_rate is for; 0: do not scale it"}
    )
    elastic: list[float] | None = field(
        default=None, metadata={"help": "lowest and highest keep ratio: draw one for each step, to serve any budget"}
    )
    keep_ratio_warmup: float = field(
        default=0.0, metadata={"help": "steps (below 1: their share) over which the keep ratio falls"}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    logging_steps: float = field(default=10, metadata={"help": "steps between logs"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to test"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints to keep"})
    report_to: str = field(default="none", metadata={"help": "where to report"})
    seed: int = field(default=0, metadata={"help": "seed of all random draws"})

    def __post_init__(self) -> None:
        # Several processes without an accelerator would otherwise ask for one each.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        # The image column is decoded by the transform, which the Trainer cannot see.
        self.remove_unused_columns = False

    @property
    def scaled_learning_rate(self) -> float:
        """``learning_rate``, in proportion to a step's images where ``learning_rate_batch`` is set."""
        if not self.learning_rate_batch:
            return float(self.learning_rate)
        images = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return float(self.learning_rate * images / self.learning_rate_batch)


RESULT_ARGUMENTS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "learning_rate_batch",
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
    "teacher",
    "teacher_revision",
    "ema_decay",
    "elastic",
    "keep_ratio_warmup",
)
"""Training arguments that the result depends on: a run is resumed only with the same ones."""


Parsed = tuple[ModelArguments, DataArguments, AugmentationArguments, FineTuningArguments]


def parse_arguments(command_line: list[str]) -> Parsed:
    """Parses the command line; a first argument that ends in .yaml, .yml or .json is a file of further arguments.

    The command line overrides the file, and the file overrides the preset.

    Raises:
        ValueError: an unknown preset, or a file that cannot be read.
    """
    if command_line and command_line[0].endswith((".yaml", ".yml", ".json")):
        command_line = [*read_argument_file(Path(command_line[0])), *command_line[1:]]
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--dataset", default="digits")
    chooser.add_argument("--preset")
    chosen, _ = chooser.parse_known_args(command_line)
    preset = chosen.preset or ("digits" if chosen.dataset == "digits" else "deit")
    if preset not in RECIPES:
        raise ValueError(f"--preset {preset} must be one of {', '.join(RECIPES)}.")
    classes: Any = (ModelArguments, DataArguments, AugmentationArguments, FineTuningArguments)
    words = [*read_argument_file(CONFIGS / f"{preset}.yaml"), *command_line, "--preset", preset]
    parsed: Any = HfArgumentParser(classes).parse_args_into_dataclasses(words)
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
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    augmentation: Augmentation,
    arguments: FineTuningArguments,
) -> dict[str, Any]:
    """Everything that the result depends on, as JSON values."""
    training = {name: getattr(arguments, name) for name in RESULT_ARGUMENTS}
    record = {
        **asdict(model_arguments),
        **asdict(data_arguments),
        **asdict(augmentation),
        **training,
        "processes": arguments.world_size,
    }
    for name in ("license", "check_images", "verify_samples"):
        del record[name]
    return {name: getattr(value, "value", value) for name, value in record.items()}
