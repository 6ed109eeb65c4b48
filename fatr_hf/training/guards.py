"""What a training run refuses before its first step: mistaken arguments, and models that cannot be trained so."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from accelerate.utils import is_compiled_module
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

MODEL_LOSSES = ("multi_label_classification", "regression")
"""Values of ``config.problem_type`` for which the model's own loss is the loss of training."""

_REDUCTIONS = ("omega1", "omega2", "dc_position_embeddings")

_SAMPLING = ("random", "sequential")


def check_number(name: str, value: object, *, at_least: float | None = None, above: float | None = None) -> None:
    """Raises a ValueError that names an argument which is no finite number, or one below what is allowed."""
    limit = f"at least {at_least}" if at_least is not None else f"above {above}"
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a number, {limit}.")
    number = float(value)
    if (at_least is not None and number < at_least) or (above is not None and number <= above):
        raise ValueError(f"{name}={value} must be {limit}.")


def is_count(value: object, at_least: int = 1) -> bool:
    """Whether a value is an integer that is large enough; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least


def check_count(name: str, value: object, at_least: int = 1) -> None:
    """Raises a ValueError that names an argument which is no integer, or one below what is allowed."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={value!r} must be an integer, at least {at_least}.")
    if value < at_least:
        raise ValueError(f"{name}={value} must be at least {at_least}.")


def check_callable(name: str, value: object) -> None:
    """Raises a ValueError that names an argument which cannot be called; None is no argument."""
    if value is not None and not callable(value):
        raise ValueError(f"{name}={value!r} must be a function, or an object that can be called like one.")


def check_classifier(name: str, model: Any) -> None:
    """Raises a ValueError for what is no model, or is one without class logits such as an encoder."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        given = repr(model) if isinstance(model, str) else f"a {getattr(model, '__name__', type(model).__name__)}"
        raise ValueError(f"{name} is {given}, and must be a model, as Model.from_pretrained(...) gives it.")
    if is_compiled_module(model):
        raise ValueError(
            f"{name} is compiled, and would be saved under other names: give the model itself, and torch_compile=True "
            "in the TrainingArguments."
        )
    forward: Any = model.forward
    parameters = inspect.signature(forward).parameters.values()
    # A wrapper such as PeftModel takes whatever it is given.
    is_open = any(each.kind == inspect.Parameter.VAR_POSITIONAL for each in parameters)
    if not is_open and not {"labels", "label"} & {each.name for each in parameters}:
        raise ValueError(
            f"{name} is a {type(model).__name__}, which gives no class logits: use a model for image classification."
        )


def check_arguments(args: Any, repeats: int) -> None:
    """Raises a ValueError for arguments of a Trainer that it does not follow.

    Args:
        args: of the Trainer.
        repeats: how often an image comes in an epoch.
    """
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"args is a {type(args).__name__}, and must be TrainingArguments.")
    check_number("label_smoothing_factor", args.label_smoothing_factor, at_least=0)
    if args.label_smoothing_factor > 1:
        raise ValueError(f"label_smoothing_factor={args.label_smoothing_factor} must be at most 1: it is a share.")
    if args.label_names not in (None, ["labels"]):
        raise ValueError(f"label_names={args.label_names!r} must be ['labels'] or None: call the column labels.")
    if args.use_liger_kernel:
        raise ValueError("use_liger_kernel=True is for language models, and does nothing here: set it to False.")
    sampling = str(getattr(args.train_sampling_strategy, "value", args.train_sampling_strategy))
    if sampling not in _SAMPLING:
        raise ValueError(
            f"train_sampling_strategy={sampling!r} is for texts of unlike lengths: use "
            f"{' or '.join(map(repr, _SAMPLING))} for images."
        )
    if sampling == "sequential" and repeats > 1:
        raise ValueError(f"train_sampling_strategy='sequential' draws every image once: repeats={repeats} must be 1.")


def check_length_of_training(args: TrainingArguments) -> None:
    """Raises a ValueError for steps, epochs or a batch size with which nothing is trained."""
    check_count("per_device_train_batch_size", args.per_device_train_batch_size)
    check_count("gradient_accumulation_steps", args.gradient_accumulation_steps)
    check_count("max_steps", args.max_steps, at_least=-1)
    if args.max_steps == 0:
        raise ValueError("max_steps=0 trains nothing: give the number of steps, or -1 to train num_train_epochs.")
    if args.max_steps < 0:
        check_number("num_train_epochs", args.num_train_epochs, above=0)


def check_learning_rate(learning_rate: object) -> None:
    """Raises a ValueError for a learning rate that is not above 0."""
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, Real) or not float(learning_rate) > 0:
        raise ValueError(f"learning_rate={learning_rate!r} must be a number above 0.")


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raises a ValueError for an optimizer of the caller's that changes nothing of the model that is trained."""
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    groups = [group for group in optimizer.param_groups if any(id(each) in trained for each in group["params"])]
    if not groups:
        raise ValueError(
            "optimizers[0] holds no parameter of the model that is trained: make it of model.parameters()."
        )
    # Warm-up may have set the rate of the first step to 0.
    rates = [group.get("initial_lr", group.get("lr")) for group in groups]
    if all(isinstance(rate, Real) and float(rate) == 0 for rate in rates):
        raise ValueError("optimizers[0] has a learning rate of 0: nothing would be trained.")


@contextmanager
def pruning(trial: Any) -> Iterator[None]:
    """Within a ``with`` block a loss that is NaN or infinite ends a trial of optuna's, and not the search around it.

    Args:
        trial: of a search, or None.
    """
    try:
        yield
    except FloatingPointError as error:
        if not type(trial).__module__.startswith("optuna."):
            raise
        import optuna

        raise optuna.TrialPruned(str(error)) from error


def check_loss(args: TrainingArguments, config: Any, *, has_loss_function: bool, has_teacher: bool) -> None:
    """Raises a ValueError for a loss that cannot be combined with distillation or smoothing, or teaches nothing.

    Args:
        args: of the Trainer.
        config: the model's.
        has_loss_function: whether the caller gave ``compute_loss_func``.
        has_teacher: whether the model learns from a teacher.
    """
    kind = getattr(config, "problem_type", None)
    own = "compute_loss_func" if has_loss_function else f"config.problem_type={kind!r}" if kind in MODEL_LOSSES else ""
    if own and has_teacher:
        raise ValueError(
            f"teacher cannot be combined with {own}: distillation is added to the cross-entropy of single classes. "
            "Train without a teacher."
        )
    if own and args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor} cannot be combined with {own}: only the "
            "cross-entropy of single classes is smoothed. Set it to 0."
        )
    if getattr(config, "return_dict", True) is False:
        raise ValueError("config.return_dict=False gives tuples, and logits are asked for by name: set it to True.")
    if getattr(config, "num_labels", None) == 0:
        raise ValueError("The model has no classes: load it with num_labels, or id2label, of the data set.")
    if not own and getattr(config, "num_labels", None) == 1:
        raise ValueError(
            "The model has one class, of which cross-entropy is always 0. For numbers to predict set "
            "config.problem_type='regression', for two classes num_labels=2."
        )


def is_reductions(name: str) -> bool:
    """Whether a parameter of this name is one of those that a FATR model has and a stock ViT has not."""
    return name.rpartition(".")[2] in _REDUCTIONS


def check_trainable(model: nn.Module, may_be_half: bool = False) -> None:
    """Refuses a model of which nothing would be trained, or that would be trained in half precision.

    A step of training is often smaller than half precision can add to a weight, and is lost then. Weights that are
    frozen, such as those under adapters, may be of any type; that of the reduction's own is warned of.

    Args:
        model: as it is trained.
        may_be_half: whether somebody keeps the weights in float32 too, as DeepSpeed and FSDP do.

    Raises:
        ValueError: no parameter has ``requires_grad``, or one that has is float16 or bfloat16.
    """
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if not trained:
        raise ValueError("All parameters of the model are frozen: set requires_grad of those that are to be trained.")
    frozen = [name for name, each in model.named_parameters() if is_reductions(name) and not each.requires_grad]
    if frozen:
        logger.warning(
            f"{len(frozen)} parameters of the reduction are frozen and stay as they are, such as {frozen[0]}. With an "
            "adapter, fatr_hf.training.adapters.FATRPeftModel trains and saves them too."
        )
    half = [name for name, each in trained.items() if each.dtype in (torch.float16, torch.bfloat16)]
    if half and not may_be_half:
        dtype = trained[half[0]].dtype
        raise ValueError(
            f"{len(half)} parameters that are to be trained are {dtype}, such as {half[0]}, in which small steps are "
            "lost: load the model with from_pretrained(..., dtype=torch.float32). For speed use mixed precision "
            "(bf16=True), which keeps the weights in float32."
        )
