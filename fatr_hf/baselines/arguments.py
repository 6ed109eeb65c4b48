"""Checks of what callers give, for baselines, analysis and benchmark: each raises a ValueError in words."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from numbers import Integral, Real
from types import NoneType
from typing import Any

from transformers import PreTrainedModel

from ..modeling.fused_inference import is_fused
from ..modeling.reduction_model import ReductionModel


def described(value: Any) -> str:
    """A plain value as Python writes it, of anything else its class."""
    if isinstance(value, (str, Real, NoneType)):
        return repr(value)
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, NumPy's included; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def check_kind(name: str, value: Any, kind: type, allowed: str) -> None:
    """Raises a ValueError for a value of another class; ``allowed`` says what it should be."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {allowed}, not {described(value)}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises a ValueError for what is no integer of at least ``least``."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={described(value)} must be an integer of at least {least}.")


def check_positive(name: str, value: Any) -> None:
    """Raises a ValueError for what is no finite number above 0."""
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name}={described(value)} must be a finite number above 0.")


def several(name: str, values: Any) -> tuple[Any, ...]:
    """The values of an argument that takes several, none twice.

    Raises:
        ValueError: a single value, or one that is given twice.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, not {described(values)}: put it into brackets.")
    values = tuple(values)
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{name}={list(values)} must hold each value once; {twice[0]!r} is there twice.")
    return values


def some(name: str, values: Any) -> tuple[Any, ...]:
    """``several`` values, at least one.

    Raises:
        ValueError: what ``several`` refuses, or none.
    """
    values = several(name, values)
    if not values:
        raise ValueError(f"{name}=[] must hold at least one value.")
    return values


def check_layers(name: str, layers: Any, depth: int) -> tuple[int, ...]:
    """Layers of a model, counted from 0, as a tuple.

    Raises:
        ValueError: no list, or an entry that is no layer of a model with so many.
    """
    numbers = some(name, layers)
    for number in numbers:
        if not is_integer(number) or not 0 <= number < depth:
            raise ValueError(f"{name}={list(numbers)} must be integers from 0 to {depth - 1}; {number!r} is not.")
    return numbers


def check_model(model: Any) -> None:
    """Raises a ValueError for what is no model of transformers, or one that is wrapped into something else."""
    wrapped = {
        "merge_and_unload": "merge its adapters first, model = model.merge_and_unload()",
        "_orig_mod": "give the model that was compiled, model._orig_mod",
        "module": "give the model in it, model.module",
    }
    for attribute, advice in wrapped.items():
        if hasattr(model, attribute):
            raise ValueError(f"model is wrapped in {described(model)}: {advice}.")
    advice = ", loaded by its from_pretrained" if isinstance(model, str) else ""
    check_kind("model", model, PreTrainedModel, f"a model of transformers{advice}")


def check_fatr(model: Any, work: str) -> None:
    """Raises a ValueError for what is no FATR model, or a fused one; ``work`` is a participle such as searched."""
    check_model(model)
    if not isinstance(model, ReductionModel):
        raise ValueError(
            f"Only a FATR model can be {work}, not {described(model)}: make one by fatr_hf.convert, or take the vision "
            "tower of a whole model."
        )
    if is_fused(model):
        raise ValueError(f"A fused model cannot be {work}: use the model that it was made from.")


def check_takes_images(config: Any, work: str) -> None:
    """Raises a ValueError for the configuration of a model of videos; ``work`` is a participle such as searched."""
    if hasattr(getattr(config, "encoder", config), "tubelet_size"):  # of a rival the model's that is reduced
        raise ValueError(f"Only models of images are {work}, and {config.model_type!r} takes videos.")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Within a ``with`` block, errors of values that are not what ``to_json`` wrote are said in words.

    Raises:
        ValueError: such an error.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"This is no {what}, which to_json writes: {error!r}.") from error
