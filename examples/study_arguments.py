"""How large a study is: presets by name, every part of which can be set on the command line."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Size:
    """Images, model and epochs of a study.

    Attributes:
        train_images, test_images: number of images, drawn with a fixed seed; None takes all.
        hidden_size, heads, layers: of the ViT from scratch; None of all three where a study starts from a checkpoint.
        coarse_epochs: of the unreduced model, from scratch, with patches of twice the side: cheap, and nearly as good
            a start. 0 leaves them out.
        base_epochs, base_learning_rate: of the unreduced model after that, which teaches the arms.
        bases: unreduced models trained from different seeds; seed ``s`` of the study starts from base ``s % bases``. A
            checkpoint is one, and every seed has its own teacher.
        seeds: fine-tuning runs of every arm.
        tune_images: images to fine-tune on; None takes all training images.
        epochs, learning_rate: of the fine-tuning, the same for every arm.
        keep_ratios: of the arms that are fine-tuned.
        batch_size: of all training.
        augment: whether training images are shifted, flipped and erased; it takes many epochs to pay.
    """

    train_images: int | None
    test_images: int | None
    hidden_size: int | None
    heads: int | None
    layers: int | None
    coarse_epochs: float
    base_epochs: float
    base_learning_rate: float
    bases: int
    seeds: int
    tune_images: int | None
    epochs: float
    learning_rate: float
    keep_ratios: tuple[float, ...]
    batch_size: int
    augment: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, heads and layers of the ViT from scratch.

        Raises:
            ValueError: the size is for studies that start from a checkpoint.
        """
        if self.hidden_size is None or self.heads is None or self.layers is None:
            raise ValueError("a size without --hidden_size, --heads and --layers is for a checkpoint.")
        return self.hidden_size, self.heads, self.layers


SIZES = {
    "cpu": Size(40000, 1500, 48, 3, 12, 0, 2, 1e-3, 1, 3, 2000, 1, 1e-4, (0.5,), 32, augment=False),
    "evening": Size(None, 4000, 64, 2, 12, 8, 2, 2e-3, 1, 3, 3000, 1, 2e-4, (0.5,), 64, augment=False),
    "digits": Size(None, None, 48, 3, 12, 0, 20, 2e-3, 3, 3, None, 2, 5e-4, (0.7, 0.5), 32, augment=False),
    "short": Size(None, None, 192, 3, 12, 0, 20, 1.5e-3, 3, 3, None, 2, 5e-4, (0.7, 0.5), 512, augment=True),
    "full": Size(None, None, 192, 3, 12, 0, 80, 1.5e-3, 3, 3, None, 5, 5e-4, (0.7, 0.5), 512, augment=True),
}
"""``cpu`` takes two cores less than half an hour, ``evening`` two hours; ``short`` and ``full`` want a large GPU, and
``digits`` is for that data set."""

TUNING_SIZES = {
    "short": Size(600, 400, None, None, None, 0, 3, 3e-5, 1, 2, None, 3, 3e-5, (0.5,), 20, augment=False),
    "evening": Size(600, None, None, None, None, 0, 3, 3e-5, 1, 2, None, 3, 3e-5, (0.7, 0.5), 20, augment=False),
    "full": Size(None, None, None, None, None, 0, 8, 3e-5, 1, 5, None, 8, 3e-5, (0.7, 0.5), 64, augment=False),
}
"""Sizes of studies that start from a checkpoint. In the preset ``solar_cells``, of a ViT-S with 257 tokens, ``short``
takes two idle cores two hours and ``evening`` three and a half; ``full`` wants a GPU."""

PRESETS: dict[str, dict[str, Any]] = {
    "solar_cells": {
        "dataset": "outputs/solar-cells",
        "model_name_or_path": "outputs/dinov2",
        "image_size": 224,
        "arms": ["FATR", "faithful", "ToMe", "EViT"],
        "mirror": True,
    },
}
"""Arguments of whole studies, by name; keep ratios 0.7 and 0.5 of the paper's setting cost 0.65 and 0.5 there."""

FROM_SCRATCH = ("hidden_size", "heads", "layers", "coarse_epochs", "bases", "patch_size")
"""What says nothing of a checkpoint."""


@dataclass
class StudyArguments:
    """What to study, and how large."""

    preset: str | None = field(
        default=None, metadata={"help": f"named study: {', '.join(PRESETS)}; other arguments override it"}
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "digits, a folder (images, parquet/arrow, idx files) or a data set's name on the Hub"},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "checkpoint to start from; by default train models from scratch"}
    )
    output_dir: str | None = field(default=None, metadata={"help": "folder of the study; default outputs/study-SIZE"})
    size: str | None = field(
        default=None,
        metadata={"help": f"{', '.join(SIZES)}; checkpoint: {', '.join(TUNING_SIZES)}; default by data and device"},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "side in pixels; default: the first image's, up to 224"}
    )
    patch_size: int | None = field(default=None, metadata={"help": "side in pixels; default: about 14 patches a side"})
    arms: list[str] | None = field(default=None, metadata={"help": "run only these arms (and the unreduced one)"})
    mirror: bool | None = field(
        default=None, metadata={"help": "mirror training images both ways, without other augmentation"}
    )
    extras: bool | None = field(
        default=None,
        metadata={"help": "also selections without training, plain patches and any budget; on by default from scratch"},
    )
    train_images: int | None = field(default=None, metadata={"help": "overrides the size's"})
    test_images: int | None = field(default=None, metadata={"help": "overrides the size's"})
    hidden_size: int | None = field(default=None, metadata={"help": "overrides the size's"})
    heads: int | None = field(default=None, metadata={"help": "overrides the size's"})
    layers: int | None = field(default=None, metadata={"help": "overrides the size's"})
    coarse_epochs: float | None = field(default=None, metadata={"help": "overrides the size's; 0 for none"})
    base_epochs: float | None = field(default=None, metadata={"help": "overrides the size's"})
    base_learning_rate: float | None = field(default=None, metadata={"help": "overrides the size's"})
    bases: int | None = field(default=None, metadata={"help": "overrides the size's"})
    seeds: int | None = field(default=None, metadata={"help": "overrides the size's"})
    tune_images: int | None = field(default=None, metadata={"help": "overrides the size's"})
    epochs: float | None = field(default=None, metadata={"help": "overrides the size's"})
    learning_rate: float | None = field(default=None, metadata={"help": "overrides the size's"})
    keep_ratios: list[float] | None = field(default=None, metadata={"help": "overrides the size's"})
    batch_size: int | None = field(default=None, metadata={"help": "overrides the size's"})
    augment: bool | None = field(default=None, metadata={"help": "overrides the size's"})

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"--preset {self.preset} must be one of {', '.join(PRESETS)}.")
        defaults = {"dataset": "digits"} | PRESETS.get(str(self.preset), {})
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.size is None:
            self.size = self.usual_size()
        if self.size not in self.sizes:
            raise ValueError(f"--size {self.size} must be one of {', '.join(self.sizes)}.")
        for name in FROM_SCRATCH if self.model_name_or_path else ():
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} is for models from scratch: {self.model_name_or_path} has its own.")
        if self.extras and self.model_name_or_path:
            raise ValueError(f"--extras is for models from scratch: leave it out beside {self.model_name_or_path}.")
        self.extras = not self.model_name_or_path if self.extras is None else self.extras
        if self.mirror and self.resolved.augment:
            raise ValueError("--mirror and --augment are two ways to change training images: give one.")
        for each in fields(Size):
            value = getattr(self, each.name)
            values = value if isinstance(value, list) else [value]
            if each.name == "coarse_epochs":
                if value is not None and value < 0:
                    raise ValueError(f"--coarse_epochs {value} must be 0 or more.")
            elif any(number is not None and number is not False and number <= 0 for number in values):
                raise ValueError(f"--{each.name} {value} must be above 0.")

    @property
    def sizes(self) -> dict[str, Size]:
        """The sizes by name that there are of such a study."""
        return TUNING_SIZES if self.model_name_or_path else SIZES

    def usual_size(self) -> str:
        """The size where none is named."""
        gpu = torch.accelerator.is_available()
        if self.model_name_or_path:
            return "full" if gpu else "evening"
        return "digits" if self.dataset == "digits" else "short" if gpu else "cpu"

    @property
    def resolved(self) -> Size:
        """The size by name, with what was given beside it."""
        given: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Size)}
        if given["keep_ratios"] is not None:
            given["keep_ratios"] = tuple(given["keep_ratios"])
        size = replace(
            self.sizes[str(self.size)], **{name: value for name, value in given.items() if value is not None}
        )
        if size.seeds < 2:
            raise ValueError(f"--seeds {size.seeds} must be at least 2: one run says nothing of its spread.")
        return size
