# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What the weights of a checkpoint must be: safetensors files beside each other, of floating point, and finite.

transformers reads more: an index of sharded weights may name any file, pickled ones too, and integers are converted to
the dtype of the model as if they were its weights.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.modeling_utils import is_fsdp_enabled  # type: ignore[attr-defined]
from transformers.utils.hub import cached_file

LOCATION = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
"""Arguments of ``from_pretrained`` that say where files are."""

FLOATING_POINT = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes of weights, by their names in a safetensors header."""


def find_file(name: str, file_name: str, arguments: dict[str, Any]) -> Path | None:
    """A file of a checkpoint, fetched where needed; None where it is not there.

    Args:
        name: folder or Hub name of the checkpoint.
        arguments: those of ``from_pretrained``; its ``variant`` goes before the last part of the file's name.
    """
    start, _, end = file_name.rpartition(".")
    variant = arguments.get("variant")
    found = cached_file(
        name,
        f"{start}.{variant}.{end}" if variant else file_name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{key: arguments[key] for key in LOCATION if arguments.get(key) is not None},
    )
    return None if found is None else Path(found)


def shard_names(name: str, arguments: dict[str, Any]) -> list[str]:
    """The files among which the weights of a checkpoint are divided; none where they are one file.

    Args:
        name, arguments: as for ``find_file``.

    Raises:
        ValueError: an index that cannot be read, or names anything but safetensors files beside it.
    """
    index = find_file(name, "model.safetensors.index.json", arguments)
    if index is None or find_file(name, "model.safetensors", arguments) is not None:  # which is what transformers reads
        return []
    try:
        content = json.loads(index.read_text())
        names, _ = sorted(set(content["weight_map"].values())), dict(content["metadata"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{index} is no index of sharded weights: {type(error).__name__}: {error}. Save or download the checkpoint "
            "again."
        ) from error
    for each in names:
        if not isinstance(each, str) or not each.endswith(".safetensors") or Path(each).name != each:
            raise ValueError(f"{index} names {each!r}: weights are read from safetensors files beside it only.")
    if not names:
        raise ValueError(f"{index} names no files: save or download the checkpoint again.")
    return names


def check_dtypes(name: str, arguments: dict[str, Any], unread: str = "$^") -> None:
    """Raises a ValueError for a loaded checkpoint with weights that are not of floating point; only headers are read.

    Args:
        name, arguments: as for ``find_file``.
        unread: a regular expression of names that are not looked at.
    """
    fetched = {**arguments, "local_files_only": True}
    single = find_file(name, "model.safetensors", fetched)
    shards = [find_file(name, shard, {**fetched, "variant": None}) for shard in shard_names(name, fetched)]
    for path in [single] if single else shards:
        if path is None:
            continue
        for key, tensor in read_header(path)[0].items():
            if tensor["dtype"] not in FLOATING_POINT and not re.search(unread, key):
                raise ValueError(
                    f"{path} holds {key} in {tensor['dtype']}, but weights must be in "
                    f"{', '.join(FLOATING_POINT)}; quantise a model after it is loaded."
                )


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name, which its header in JSON describes, and where their bytes begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {key: tensor for key, tensor in header.items() if key != "__metadata__"}, 8 + length


def read_tensor(path: Path, key: str) -> torch.Tensor:
    """One tensor of a safetensors file, of a floating-point type."""
    header, start = read_header(path)
    first, end = header[key]["data_offsets"]
    with path.open("rb") as file:
        file.seek(start + first)
        content = bytearray(file.read(end - first))
    return torch.frombuffer(content, dtype=FLOATING_POINT[header[key]["dtype"]]).reshape(header[key]["shape"])


@contextmanager
def wording_errors(name: str) -> Iterator[None]:
    """Within a ``with`` block a checkpoint that transformers fails on raises a ValueError that names it.

    Errors that are clear already, or that callers of transformers catch, stay as they are.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError, StrictDataclassError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"The checkpoint {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def check_finite_weights(name: str, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raises a ValueError for weights that are infinite or not a number: whatever the image, they predict nothing.

    What is not in memory is not looked at: parameters on the meta device, or of an FSDP process that is still to get
    them from another. Nor are quantised tensors.
    """
    if is_fsdp_enabled():
        return
    for key, parameter in parameters:
        is_quantised = is_traceable_wrapper_subclass(parameter) or not parameter.is_floating_point()
        if not parameter.is_meta and not is_quantised and not parameter.isfinite().all():
            raise ValueError(f"The checkpoint {name!r} holds values in {key} that are not finite.")
