"""What the reduction does to the tokens, in the Trainer's logs at every evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..analysis.measures import high_frequency_energy
from ..modeling.reduction_model import ReductionModel
from .guards import check_count


class ReductionLogCallback(TrainerCallback):
    """Logs tokens, omegas and the high-frequency energy that is kept, at every evaluation of a Trainer.

    The logs, which all of ``report_to`` get (TensorBoard puts ``train/`` before them), are

    - ``reduction/tokens_layer_{i}``: tokens that leave layer ``i``;
    - ``reduction/omega1_layer_{i}_head_{h}`` and ``omega2``, where the layer has them;
    - ``reduction/high_frequency_energy_kept_layer_{i}``: see ``high_frequency_energy_kept``, on the first images of the
      evaluation set.

    Where an EMA is evaluated, they are of the averaged weights.

    Args:
        trainer: the Trainer to log with; add the callback by ``trainer.add_callback``.
        num_images: how many images to look at.

    Raises:
        ValueError: a model that is no FATR model, a Trainer without images to evaluate, or fewer than one image.
    """

    def __init__(self, trainer: Trainer, num_images: int = 32):
        if not isinstance(trainer, Trainer):
            raise ValueError(f"trainer is a {type(trainer).__name__}, and must be a Trainer.")
        check_count("num_images", num_images)
        if not isinstance(trainer.accelerator.unwrap_model(trainer.model), ReductionModel):
            raise ValueError(
                f"The reduction of a {type(trainer.model).__name__} cannot be logged: only a FATR model's."
            )
        if trainer.eval_dataset is None:
            raise ValueError("The Trainer has no eval_dataset, whose first images are looked at: give it one.")
        self.trainer = trainer
        self.num_images = num_images

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Logs, from all processes: sharded weights are gathered."""
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)
        pixel_values = self.first_images().to(args.device)
        schedule = model.config.plan(tuple(pixel_values.shape[-2:]))
        logs: dict[str, float] = {f"tokens_layer_{tokens.layer}": tokens.tokens_out for tokens in schedule}
        for layer, module in enumerate(model.base_model.layers):
            for name in ("omega1", "omega2"):
                omega = getattr(module.attention, name)
                if omega is not None:
                    values = omega.full_tensor() if isinstance(omega, DTensor) else omega
                    logs |= {f"{name}_layer_{layer}_head_{head}": value for head, value in enumerate(values.tolist())}
        with self.trainer.accelerator.autocast():
            kept = high_frequency_energy_kept(model, pixel_values)
        logs |= {f"high_frequency_energy_kept_layer_{layer}": share for layer, share in kept.items()}
        self.trainer.log({f"reduction/{name}": value for name, value in logs.items()})

    def first_images(self) -> Tensor:
        """Pixel values (images, channels, height, width) of the evaluation set's first images."""
        dataset: Any = self.trainer.eval_dataset
        if isinstance(dataset, dict):
            dataset = next(iter(dataset.values()))
        return self.trainer.data_collator(list(islice(dataset, self.num_images)))["pixel_values"]


@torch.no_grad()
def high_frequency_energy_kept(model: ReductionModel, pixel_values: Tensor) -> dict[int, float]:
    """By reducing layer, ``||H_f X'||^2 / ||H_f X||^2`` for the tokens ``X`` before and ``X'`` after the reduction.

    ``H_f X = X - 1/N 11ᵀX`` takes the mean over all ``N`` tokens off (arXiv 2511.21477, section 3). Both are inside
    the layer, after the attention's residual and before the MLP; all tokens count, CLS and DC tokens too. The
    mean over the images. A DC token holds no more energy than the patches that it stands for: unless its position
    embedding adds some, or its window is empty, the share is at most 1.

    Args:
        model: a FATR encoder or classifier; it runs in evaluation mode, and keeps its mode.
        pixel_values: (images, channels, height, width).
    """
    encoder: Any = model.base_model
    shares: dict[int, float] = {}
    was_training = model.training
    model.eval()
    try:
        with watch_reductions(encoder.layers, shares):
            model(pixel_values)
    finally:
        model.train(was_training)
    return shares


@contextmanager
def watch_reductions(layers: nn.ModuleList, shares: dict[int, float]) -> Iterator[None]:
    """Within a ``with`` block every reduction that runs notes its share of energy, by the number of its layer."""

    def hook(layer: int) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
            shares[layer] = (high_frequency_energy(output[0]) / high_frequency_energy(arguments[0])).mean().item()

        return note

    modules: list[Any] = list(layers)
    handles = [module.reduction.register_forward_hook(hook(layer)) for layer, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
