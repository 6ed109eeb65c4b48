"""An exponential moving average of the weights, which is evaluated, saved and resumed with the run.

The average starts at the weights that training starts from: a pretrained model, but one whose reduction has not been
trained. It holds what trains: frozen weights, such as those under an adapter, are their own average. ``AveragedModel``
of torch holds it, on plain tensors: of a parameter that is sharded (FSDP 2) every process averages its own part,
without communication. A parameter in half precision is averaged in float32, where a step of ``1 - decay`` does not
vanish.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .guards import check_number

EMA_FILE = "ema.safetensors"
"""The averages of the weights that train in a checkpoint folder, under the names of the model's parameters."""

UPDATES_KEY = "updates"
"""The entry of the file's metadata that counts the updates."""


class EMACallback(TrainerCallback):
    """Averages the weights after every optimiser step: ``average = d * average + (1 - d) * weights``.

    ``d`` is ``decay``, and with ``warmup`` in update ``t`` (from 1) no more than ``(1 + t) / (10 + t)``: the average
    then follows about the last ninth of the run until ``decay`` is reached, at 0.9998 after 45,000 steps. Without it
    a share of ``decay^t`` stays with the untrained start, a third after 5,500 steps of 0.9998: leave the warm-up out
    for long runs only. Steps that a gradient scaler skips do not count.

    Works with DDP, FSDP 2, DeepSpeed up to stage 2, autocast and ``torch.compile``; costs the memory of one more copy
    of the weights that train. ``FATRTrainer(ema_decay=...)`` builds one, and evaluates, saves and resumes with it.

    Args:
        decay: share of the average that stays in a step, in [0, 1).
        warmup: whether the first steps keep less.

    Attributes:
        average: the running average; None before training.
        names: the averaged parameters, those that train when the average starts.
        resume_from: a checkpoint folder from which the next training goes on.

    Raises:
        ValueError: a decay out of range; in training, a model whose weights cannot be read (FSDP 1, DeepSpeed stage 3),
            or parameters that train only later.
    """

    def __init__(self, decay: float = 0.9998, warmup: bool = True):
        check_number("ema_decay", decay, at_least=0)
        if decay >= 1:
            raise ValueError(f"ema_decay={decay!r} must be at least 0 and below 1, such as 0.9998.")
        self.decay = decay
        self.warmup = warmup
        self.average: AveragedModel | None = None
        self.names: tuple[str, ...] = ()
        self.resume_from: Path | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Starts at the model's weights, or goes on from the checkpoint's average."""
        assert model is not None, "the Trainer hands its model to callbacks"
        self.start(model)
        if self.resume_from is not None:
            self.load(self.resume_from, model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Averages, unless the gradient scaler skipped the step."""
        assert model is not None, "the Trainer hands its model to callbacks"
        if not getattr(optimizer, "step_was_skipped", False):
            self.update(model)

    @property
    def updates(self) -> int:
        """How many steps went into the average."""
        return 0 if self.average is None else int(self.average.n_averaged) - 1

    def start(self, model: nn.Module) -> None:
        """Makes the model's weights the average."""
        check_readable_weights(model)
        self.names = tuple(name for name, each in named_parameters(model).items() if each.requires_grad)
        weights = nn.ParameterList(self.local_weights(model).values())
        self.average = AveragedModel(weights)
        self.average.update_parameters(weights)  # the first update copies, and counts as one

    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's weights.

        Raises:
            ValueError: parameters train that did not when the average started.
        """
        average = self.started()
        trained = (name for name, each in named_parameters(model).items() if each.requires_grad)
        if late := sorted({*trained} - {*self.names}):
            raise ValueError(
                f"ema_decay: {', '.join(late)} did not train when the average started, so that there is none of them. "
                "Let them train from the start, or leave the EMA out."
            )
        update = self.updates + 1
        decay = min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay
        average.multi_avg_fn = get_ema_multi_avg_fn(decay)
        average.update_parameters(nn.ParameterList(self.local_weights(model).values()))

    def started(self) -> AveragedModel:
        """The average.

        Raises:
            RuntimeError: there is none yet.
        """
        if self.average is None:
            raise RuntimeError("There is no average of the weights yet: it starts with training.")
        return self.average

    def local_averages(self, model: nn.Module) -> dict[str, Tensor]:
        """This process's part of every averaged parameter, by the model's names."""
        return dict(zip(self.averaged_parameters(model), self.started().parameters(), strict=True))

    def averaged_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The model's parameters of which there is an average, by name."""
        parameters = named_parameters(model)
        return {name: parameters[name] for name in self.names}

    def local_weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """This process's part of those parameters, in float32 or better; shares memory where it is so already."""
        weights = {}
        for name, parameter in self.averaged_parameters(model).items():
            part = local(parameter)
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            weights[name] = nn.Parameter(part, requires_grad=False)
        return weights

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Makes the average the model's weights, in place."""
        averages = self.local_averages(model)
        for name, parameter in self.averaged_parameters(model).items():
            local(parameter).copy_(averages[name])
        reshard(model)

    @contextmanager
    def averaged_weights(self, model: nn.Module) -> Iterator[None]:
        """Within a ``with`` block the average stands for the model's weights; they are back afterwards in any case."""
        with torch.no_grad():
            kept = {name: local(parameter).clone() for name, parameter in self.averaged_parameters(model).items()}
        try:
            self.copy_to(model)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.averaged_parameters(model).items():
                    local(parameter).copy_(kept[name])
            reshard(model)

    def save(self, folder: Path, model: nn.Module, write: bool = True) -> None:
        """Writes ``ema.safetensors``: whole parameters, and in the metadata the number of updates.

        Args:
            folder: created where needed.
            model: the trained model, which knows how its parameters are sharded.
            write: whether this process writes; all must call, as sharded parameters are gathered.
        """
        averages, gathered = self.local_averages(model), {}
        for name, parameter in self.averaged_parameters(model).items():
            whole = gather(averages[name].detach(), like=parameter)
            if write:
                gathered[name] = whole.cpu().contiguous()
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            metadata = {"format": "pt", UPDATES_KEY: str(self.updates)}
            save_file(gathered, folder / EMA_FILE, metadata=metadata)

    @torch.no_grad()
    def load(self, folder: Path, model: nn.Module) -> None:
        """Goes on from the average that ``save`` wrote; the model may be sharded in another way.

        Raises:
            ValueError: a folder without one, or with that of another model.
        """
        average, averages = self.started(), self.local_averages(model)
        parameters = self.averaged_parameters(model)
        with open_average(folder) as file:
            if {*file.keys()} != {*parameters}:
                different = sorted({*file.keys()} ^ {*parameters})
                raise ValueError(f"{folder / EMA_FILE} is of another model, of which differ: {', '.join(different)}.")
            for name, parameter in parameters.items():
                averages[name].copy_(scatter(file.get_tensor(name), like=parameter))
            average.n_averaged.fill_(int(file.metadata()[UPDATES_KEY]) + 1)


def open_average(folder: Path) -> Any:
    """The opened ``ema.safetensors`` of a checkpoint folder.

    Raises:
        ValueError: there is none, or not a whole one.
    """
    try:
        return safe_open(folder / EMA_FILE, framework="pt")
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no average of the weights ({EMA_FILE}: {error}). Resume without ema_decay if the run had "
            "none, or from another checkpoint."
        ) from error


def check_readable_weights(model: nn.Module) -> None:
    """Raises a ValueError for parameters of which a process does not see its part under their own names."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise ValueError("ema_decay: FSDP 1 hides the parameters; use FSDP 2 (fsdp_version: 2), or leave the EMA out.")
    if any(hasattr(parameter, "ds_tensor") for parameter in model.parameters()):
        raise ValueError("ema_decay: DeepSpeed stage 3 hides the parameters; use stage 2, or leave the EMA out.")


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the names of the state dict, without the prefixes of DDP and ``torch.compile``."""
    reshard(model)
    return dict(extract_model_from_parallel(model, keep_torch_compile=False).named_parameters())


def reshard(model: nn.Module) -> None:
    """Lets go of whole parameters that FSDP 2 keeps after an evaluation, which would hide changes to the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(parameter: nn.Parameter) -> Tensor:
    """This process's part of a parameter, without gradient, in the same memory."""
    detached = parameter.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def gather(part: Tensor, like: nn.Parameter) -> Tensor:
    """The whole tensor, from the parts that the processes have as they have those of ``like``."""
    if not isinstance(like, DTensor):
        return part
    sharded = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return sharded.full_tensor()


def scatter(whole: Tensor, like: nn.Parameter) -> Tensor:
    """This process's part of a tensor that is sharded as ``like`` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements).to_local()
