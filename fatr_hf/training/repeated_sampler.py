"""Repeated augmentation: several augmented versions of a picture in one batch, fewer different pictures in an epoch.

Every process computes the same order, of which accelerate hands each its batches.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .guards import is_count


class RepeatedSampler(Sampler[int]):
    """A random order in which every drawn image comes ``repeats`` times in a row.

    An epoch has as many entries as there are images, and therefore ``num_images / repeats`` different ones (rounded
    up), as in DeiT (arXiv 2012.12877, table 9) after Hoffer et al. (arXiv 1901.09335) and Berman et al.
    (arXiv 1902.05509). The order depends on ``seed + epoch`` alone.

    Args:
        num_images: images of the data set.
        repeats: how often a drawn image comes.
        seed: of the order.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, num_images: int, repeats: int, seed: int = 0):
        for name, value in (("num_images", num_images), ("repeats", repeats)):
            if not is_count(value):
                raise ValueError(f"{name}={value!r} must be a positive integer.")
        if not is_count(seed, at_least=0):
            raise ValueError(f"seed={seed!r} must be an integer from 0.")
        self.num_images = num_images
        self.repeats = repeats
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch, counted from 0; accelerate's loaders call it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # An attribute called generator would be seeded by accelerate.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.randperm(self.num_images, generator=generator)[: -(-self.num_images // self.repeats)]
        yield from drawn.repeat_interleave(self.repeats)[: self.num_images].tolist()

    def __len__(self) -> int:
        return self.num_images


class SetSamplerEpoch(TrainerCallback):
    """Tells the sampler the epoch when a run is resumed in the middle of one.

    The loader that skips what was trained on does not hand the epoch on through accelerate's shards of several
    processes, which would resume in the order of the first epoch.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Sets the epoch of the loader that is not skipped, which has the same sampler."""
        set_epoch = getattr(train_dataloader, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))
