"""How a program ends that cannot go on: with a line that says why, and a code."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError

from .benchmark.compare import OutOfMemory
from .hub.errors import ProofError

MISTAKES = (ImportError, OSError, StrictDataclassError, ValueError)
"""Something is wrong with the options, a file or the installation: code 2."""

FAILURES = (FloatingPointError, OutOfMemory, ProofError, torch.OutOfMemoryError)
"""Something went wrong on the way: code 1."""

TRACEBACK = "--traceback"


def run_program(main: Callable[[], None]) -> None:
    """Runs a program; what it raises ends it with a line, or as Python does where the options have ``--traceback``."""
    shows_traceback = TRACEBACK in sys.argv
    sys.argv = [word for word in sys.argv if word != TRACEBACK]
    if shows_traceback:
        main()
        return
    with one_line_errors():
        main()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within a ``with`` block a mistake or a failure ends the program; any other error is one of its own."""
    try:
        yield
    except (*MISTAKES, *FAILURES) as error:
        # Standard output comes first wherever both go to one file.
        sys.stdout.flush()
        print(f"Error: {reason(error)}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """2 for a mistake, 1 for a failure."""
    return 2 if isinstance(error, MISTAKES) else 1


def reason(error: BaseException) -> BaseException:
    """What to print of an error; a configuration's refusal is wrapped in a line that names its check."""
    return (error.__cause__ or error) if isinstance(error, StrictDataclassError) else error
