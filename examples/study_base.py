"""Where a study's unreduced models come from: trained from scratch, or a checkpoint with a linear classifier."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from finetune_base import classifier_class
from linear_probe import fit, read_features
from study_arguments import Size
from study_data import TensorImages
from torch import Tensor
from transformers import ViTConfig

from fatr_hf.hub.checkpoints import find_image_processor
from fatr_hf.hub.load import quiet_loading, size_of_images
from fatr_hf.modeling.reduction_config import UNREDUCED, ReductionConfig
from fatr_hf.modeling.reduction_model import ReductionModel
from fatr_hf.training.classifier_heads import class_fields

REGULARISATION = 10.0
"""Weight of the squared norm of a linear classifier."""


def scratch_config(size: Size, side: int, patch: int, names: Sequence[str]) -> ViTConfig:
    """A ViT for images of a side in pixels and classes of these names."""
    width, heads, layers = size.shape
    return ViTConfig(
        image_size=side - side % patch,
        patch_size=patch,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        # ViT's own 0.02 suits wide models; it leaves a narrow one without a signal for many epochs.
        initializer_range=0.02 * max(1.0, (768 / width) ** 0.5),
        **class_fields(names),
    )


def checkpoint_config(name: str, side: int | None, names: Sequence[str]) -> ReductionConfig:
    """The configuration of a checkpoint's unreduced classifier for classes of these names.

    Args:
        side: of the images in pixels; by default what the image processor gives, or the checkpoint's own.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: one of no family, or one that is reduced already.
    """
    model_class = classifier_class(name, "main")
    size = size_of_images(name, "main", model_class) if side is None else {"image_size": side}
    config: ReductionConfig = model_class.config_class.from_pretrained(name, **size, **UNREDUCED, **class_fields(names))
    return config


def probed_checkpoint(name: str, config: ReductionConfig, images: TensorImages, device: torch.device) -> ReductionModel:
    """An unreduced classifier with the weights of a checkpoint, and a logistic regression on its features.

    Args:
        config: of ``checkpoint_config``.
        images: that the regression is fitted to.
    """
    model_class = classifier_class(name, "main")
    with quiet_loading():  # of a classifier that is not there yet, or is for other classes
        model: Any = model_class.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    features, labels = read_features(model.to(device).eval(), batches(images))
    weight, bias = fit(features, labels, config.num_labels or 0, REGULARISATION)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(bias))
    probed: ReductionModel = model
    return probed


def batches(images: TensorImages) -> Iterator[dict[str, Tensor]]:
    """All images, 32 at a time, with their labels on the CPU."""
    for index in torch.arange(len(images)).split(32):
        batch = images.batch(index.tolist())
        yield {**batch, "labels": batch["labels"].cpu()}


def normalisation(name: str) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the channels that a checkpoint's images are normalised by."""
    processor: Any = find_image_processor(name)
    if processor is None:
        return {}
    return {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether training in bfloat16 pays: on a GPU, and on a CPU with instructions for it (AMX, AVX-512 BF16)."""
    if device.type != "cpu":
        return device.type == "cuda"
    processor = Path("/proc/cpuinfo")
    return processor.exists() and bool({"amx_bf16", "avx512_bf16"} & set(processor.read_text().split()))
