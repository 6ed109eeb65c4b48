"""The reduction's options, the same for every command that takes them."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

from ..modeling.presets import PRESETS
from ..modeling.reduction_config import REDUCTION_FIELDS
from .common import numbers, option, refusals, separated

FIELDS = ("reduction_layers", "keep_ratio", "dc_windows", "fold", "token_multiple", "selection", "size_exponent")
"""Fields of the reduction that a command line can set."""

TYPES: dict[str, Any] = {"token_multiple": int, "size_exponent": float}
"""Of the options that are no text."""

Reduction = dict[str, Any]
"""The fields that were given, by name."""


def option_of(name: str) -> Any:
    """The annotation of one of the reduction's options, or of ``preset``."""
    by_name = f"Named reduction: {', '.join(PRESETS)}. [convert: faithful; else paper]"
    words = by_name if name == "preset" else REDUCTION_FIELDS[name]
    least = 1 if name == "token_multiple" else None
    return Annotated[TYPES.get(name, str) | None, option(words, least=least)]


def takes_reduction(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of these names in the place of its argument ``reduction``, which gets what was given.

    Text that is no list of numbers ends the command in words.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        parameters = []
        for parameter in inspect.signature(run).parameters.values():
            chosen = names if parameter.name == "reduction" else ()
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter(name, kind, default=None, annotation=option_of(name)) for name in chosen
            ] or [parameter.replace(kind=kind)]

        @wraps(run)
        def command(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in names}
            with refusals():
                reduction = read_reduction(given)
            run(reduction=reduction, **arguments)

        described: Any = command
        described.__signature__ = inspect.Signature(parameters)
        described.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def read_reduction(given: Mapping[str, Any]) -> Reduction:
    """The reduction's fields of options; those that were not given are left out.

    Raises:
        ValueError: text that is no list of numbers.
    """
    fields = dict(given)
    fields["reduction_layers"] = separated("reduction layers", given.get("reduction_layers"), int) or None
    fields["keep_ratio"] = numbers("keep ratios", given.get("keep_ratio"), float)
    fields["dc_windows"] = numbers("DC windows", given.get("dc_windows"), int)
    return {name: value for name, value in fields.items() if value is not None}
