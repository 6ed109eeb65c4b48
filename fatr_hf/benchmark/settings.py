"""What is measured: the size of the model, the images, the number format, the way of running it and the reduction."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..baselines.arguments import check_integer, check_kind
from ..modeling import FATRViTConfig
from .machine import check_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXECUTIONS = ("eager", "compile", "cudagraphs")
"""As it is; ``torch.compile``; ``torch.compile(mode="reduce-overhead")``, which replays CUDA graphs."""
TASKS = ("inference", "training")


@dataclass(frozen=True)
class ModelSize:
    """The backbone, the MLP being four times as wide as the rest, with 1000 classes.

    Args:
        name: what the tables call it.
        hidden_size, num_heads, num_layers: width, attention heads and depth.
        patch_size, image_size: in pixels; both are square.
    """

    name: str
    hidden_size: int
    num_heads: int
    num_layers: int
    patch_size: int = 16
    image_size: int = 224

    @property
    def label(self) -> str:
        """The usual notation, such as ``ViT-B/16-224``."""
        return f"ViT-{self.name}/{self.patch_size}-{self.image_size}"

    @property
    def fields(self) -> dict[str, Any]:
        """As fields of a ViT configuration."""
        return {
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "intermediate_size": 4 * self.hidden_size,
            "patch_size": self.patch_size,
            "image_size": self.image_size,
            "num_labels": 1000,
        }


SIZES = {
    size.name: size
    for size in (
        ModelSize("T", 192, 3, 12),
        ModelSize("S", 384, 6, 12),
        ModelSize("B", 768, 12, 12),
        ModelSize("L", 1024, 16, 24),
        ModelSize("H", 1280, 16, 32, patch_size=14),
    )
}


def parse_size(text: str) -> ModelSize:
    """A size by its letter, or ``width/heads/layers`` for any other.

    Raises:
        ValueError: neither of them.
    """
    if text.upper() in SIZES:
        return SIZES[text.upper()]
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"Unknown size {text!r}: give one of {', '.join(SIZES)}, or width/heads/layers (384/6/12).")
    width, heads, layers = map(int, parts)
    return ModelSize(f"{width}x{layers}", width, heads, layers)


@dataclass(frozen=True)
class Setting:
    """The conditions that all contestants of one comparison share.

    Args:
        size: the backbone and its images.
        batch_size: images at a time.
        dtype: one of ``DTYPES``. Inference holds weights and images in it; training holds float32 weights and
            computes under autocast, as the Trainer does.
        execution: one of ``EXECUTIONS``.
        task: "inference" is a forward pass; "training" a forward and a backward pass of the cross-entropy and a step
            of AdamW.
        keep_ratio, reduction_layers, dc_windows: FATR's; None for the defaults of ``FATRViTConfig``.
        token_multiple: FATR's.
        score_implementation: passed on to FATR's forward pass where given.
        fuse: whether all but the stock model run as their fused copies in inference.
        seed: of the weights and images.

    Raises:
        ValueError: an unknown name, a value of another kind, or values that do not go together.
    """

    size: ModelSize
    batch_size: int
    dtype: str = "float32"
    execution: str = "eager"
    task: str = "inference"
    keep_ratio: float | tuple[float, ...] | None = None
    reduction_layers: tuple[int, ...] | None = None
    dc_windows: int | tuple[int, ...] | None = None
    token_multiple: int = 1
    score_implementation: str | None = None
    fuse: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_kind("size", self.size, ModelSize, "a ModelSize, such as SIZES['S']")
        for name, allowed in (("dtype", DTYPES), ("execution", EXECUTIONS), ("task", TASKS)):
            if getattr(self, name) not in tuple(allowed):
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}: give one of {', '.join(allowed)}.")
        check_integer("batch_size", self.batch_size, least=1)
        check_integer("seed", self.seed, least=0)
        if self.task == "training" and self.dtype == "float16":
            raise ValueError("Training in float16 needs loss scaling, which is not measured: give bfloat16 or float32.")
        try:
            self.fatr_config()
        except StrictDataclassError as error:
            # The cause names the field, the error itself the check.
            raise ValueError(str(error.__cause__ or error)) from error

    @property
    def label(self) -> str:
        """The conditions in one line."""
        parts = [self.size.label, f"batch {self.batch_size}", self.dtype, self.execution, self.task]
        if self.task == "inference":
            parts.append("fused" if self.fuse else "not fused")
        return ", ".join(parts)

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def fatr_config(self, **changes: Any) -> FATRViTConfig:
        """The configuration of FATR in this setting; ``changes`` are further fields of it.

        Raises:
            huggingface_hub.errors.StrictDataclassError: a reduction that cannot be carried out.
        """
        given = {name: getattr(self, name) for name in ("keep_ratio", "reduction_layers", "dc_windows")}
        reduction = {name: value for name, value in given.items() if value is not None}
        return FATRViTConfig(**{**self.size.fields, **reduction, "token_multiple": self.token_multiple, **changes})

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Setting":
        """The inverse of ``dataclasses.asdict``, after a way through JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        values["size"] = ModelSize(**fields["size"])
        return cls(**values)


def default_setting(device: torch.device) -> Setting:
    """A setting of which a device makes a table in a minute or two: ViT-B in bfloat16 on a GPU, else ViT-S."""
    check_device(device)
    if device.type == "cuda":
        return Setting(SIZES["B"], 256, dtype="bfloat16")
    return Setting(SIZES["S"], 8)


def check_support(setting: Setting, device: torch.device) -> None:
    """Tries a setting's number format and execution on a device, on a few numbers.

    Raises:
        ValueError: the device lacks one of them, or what are no setting and device.
    """
    check_kind("setting", setting, Setting, "a Setting, such as default_setting(device)")
    check_device(device)
    if setting.execution == "cudagraphs" and device.type != "cuda":
        raise ValueError(f"CUDA graphs need a CUDA device, and this is {device}: measure eager or compile here.")
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    supported = not (setting.dtype == "bfloat16" and emulated)
    try:
        tokens = torch.zeros(1, 2, 8, 16, dtype=setting.torch_dtype, device=device)
        torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        torch.nn.functional.gelu(torch.nn.functional.layer_norm(tokens @ tokens.mT, (8,)))
    except (NotImplementedError, RuntimeError):
        supported = False
    if not supported:
        raise ValueError(f"{device} does not compute in {setting.dtype}: give another of {', '.join(DTYPES)}.")
