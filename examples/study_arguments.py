"""How large a study is: presets by name, every part of which can be set on the command line."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Size:
    """Images, model and epochs of a study.

    Attributes:
        train_images, test_images: so many of the first ones, drawn with a fixed seed; None takes all.
        hidden_size, heads, layers: of the ViT.
        coarse_epochs: of the unreduced model, from scratch, with patches of twice the side: cheap, and nearly as good
            a start. 0 leaves them out.
        base_epochs, base_learning_rate: of the unreduced model after that.
        bases: unreduced models trained from different seeds; seed ``s`` of the study starts from base ``s % bases``.
        seeds: fine-tuning runs of every arm.
        tune_images: images to fine-tune on; None takes all training images.
        epochs, learning_rate: of the fine-tuning, the same for every arm.
        keep_ratios: of the arms that are fine-tuned.
        batch_size: of all training.
        augment: whether training images are shifted, flipped and erased; it takes many epochs to pay.
    """

    train_images: int | None
    test_images: int | None
    hidden_size: int
    heads: int
    layers: int
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


SIZES = {
    "cpu": Size(40000, 1500, 48, 3, 12, 0, 2, 1e-3, 1, 3, 2000, 1, 1e-4, (0.5,), 32, augment=False),
    "evening": Size(None, 4000, 64, 2, 12, 8, 2, 2e-3, 1, 3, 3000, 1, 2e-4, (0.5,), 64, augment=False),
    "digits": Size(None, None, 48, 3, 12, 0, 20, 2e-3, 3, 3, None, 2, 5e-4, (0.7, 0.5), 32, augment=False),
    "short": Size(None, None, 192, 3, 12, 0, 20, 1.5e-3, 3, 3, None, 2, 5e-4, (0.7, 0.5), 512, augment=True),
    "full": Size(None, None, 192, 3, 12, 0, 80, 1.5e-3, 3, 3, None, 5, 5e-4, (0.7, 0.5), 512, augment=True),
}
"""``cpu`` takes two cores less than half an hour, ``evening`` two hours; ``short`` and ``full`` want a large GPU, and
``digits`` is for that data set."""


@dataclass
class StudyArguments:
    """What to study, and how large."""

    dataset: str = field(
        default="digits",
        metadata={"help": "digits, a folder (images, parquet/arrow, idx files) or a data set's name on the Hub"},
    )
    output_dir: str | None = field(default=None, metadata={"help": "folder of the study; outputs/study-SIZE"})
    size: str | None = field(default=None, metadata={"help": f"one of {', '.join(SIZES)}; by data set and device"})
    image_size: int | None = field(default=None, metadata={"help": "side in pixels; the first image's, up to 224"})
    patch_size: int | None = field(default=None, metadata={"help": "side in pixels; about 14 patches a side"})
    arms: list[str] | None = field(default=None, metadata={"help": "only these arms (and the unreduced one)"})
    train_images: int | None = field(default=None, metadata={"help": "replaces the size's"})
    test_images: int | None = field(default=None, metadata={"help": "replaces the size's"})
    hidden_size: int | None = field(default=None, metadata={"help": "replaces the size's"})
    heads: int | None = field(default=None, metadata={"help": "replaces the size's"})
    layers: int | None = field(default=None, metadata={"help": "replaces the size's"})
    coarse_epochs: float | None = field(default=None, metadata={"help": "replaces the size's; 0 for none"})
    base_epochs: float | None = field(default=None, metadata={"help": "replaces the size's"})
    base_learning_rate: float | None = field(default=None, metadata={"help": "replaces the size's"})
    bases: int | None = field(default=None, metadata={"help": "replaces the size's"})
    seeds: int | None = field(default=None, metadata={"help": "replaces the size's"})
    tune_images: int | None = field(default=None, metadata={"help": "replaces the size's"})
    epochs: float | None = field(default=None, metadata={"help": "replaces the size's"})
    learning_rate: float | None = field(default=None, metadata={"help": "replaces the size's"})
    keep_ratios: list[float] | None = field(default=None, metadata={"help": "replaces the size's"})
    batch_size: int | None = field(default=None, metadata={"help": "replaces the size's"})
    augment: bool | None = field(default=None, metadata={"help": "replaces the size's"})

    def __post_init__(self) -> None:
        if self.size is None:
            gpu = torch.accelerator.is_available()
            self.size = "digits" if self.dataset == "digits" else "short" if gpu else "cpu"
        if self.size not in SIZES:
            raise ValueError(f"--size {self.size} must be one of {', '.join(SIZES)}.")
        for each in fields(Size):
            value = getattr(self, each.name)
            values = value if isinstance(value, list) else [value]
            if each.name == "coarse_epochs":
                if value is not None and value < 0:
                    raise ValueError(f"--coarse_epochs {value} must be 0 or more.")
            elif any(number is not None and number is not False and number <= 0 for number in values):
                raise ValueError(f"--{each.name} {value} must be above 0.")

    @property
    def resolved(self) -> Size:
        """The size by name, with what was given beside it."""
        given: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Size)}
        if given["keep_ratios"] is not None:
            given["keep_ratios"] = tuple(given["keep_ratios"])
        size = replace(SIZES[str(self.size)], **{name: value for name, value in given.items() if value is not None})
        if size.seeds < 2:
            raise ValueError(f"--seeds {size.seeds} must be at least 2: one run says nothing of its spread.")
        return size
