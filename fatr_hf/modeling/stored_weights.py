# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of weights: an earlier save's are removed, and position embeddings of another image size are stretched."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from .patch_embedding import stretch_positions
from .reduction_config import UNREDUCED
from .weight_checks import LOCATION, find_file, read_header, read_tensor, shard_names

logger = logging.get_logger(__name__)

Mismatch = tuple[str, Any, Any]
"""A parameter's name, its shape in the checkpoint and in the model."""


def weight_files(folder: Path, variant: str | None) -> dict[Path, int]:
    """The file of whole weights and the index of shards that a folder holds, with the times of their last change.

    Args:
        variant: as for ``save_pretrained``; it stands before the last part of both names.
    """
    names = ("model.safetensors", "model.safetensors.index.json")
    paths = (folder / (f".{variant}.".join(name.rsplit(".", 1)) if variant else name) for name in names)
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def remove_stale_weights(folder: Path, variant: str | None, before: dict[Path, int]) -> None:
    """Removes the file of whole weights or the index of shards of an earlier save, which would be loaded or confuse.

    transformers removes shards that are no longer named.

    Args:
        before: of ``weight_files``, before weights were saved.
    """
    now = weight_files(folder, variant)
    stale = [path for path, changed in now.items() if before.get(path) == changed]
    if len(stale) < len(now):  # unless nothing was written here, as where a function of the caller's saves
        for path in stale:
            path.unlink()


@torch.no_grad()
def stretch_mismatched(
    model: Any, name: str, mismatched: Iterable[Mismatch], arguments: dict[str, Any]
) -> list[Mismatch]:
    """Stretches position embeddings of another image size into a loaded model; gives what else has other shapes.

    Args:
        model: just loaded, with random values in place of what has another shape.
        name, arguments: as for ``find_file``; a ``state_dict`` among the arguments stands for the files.
        mismatched: what has other shapes.
    """
    others, table = [], model.position_table
    for key, own, wanted in mismatched:
        grids = position_grids(name, model.config, arguments) if table and key.endswith(table) else None
        # Registers have no positions, so that the rows before the patches are not always the prefix.
        prefixes = set() if grids is None else {own[-2] - math.prod(grids[0]), wanted[-2] - math.prod(grids[1])}
        if grids is None or len(prefixes) != 1 or min(prefixes) < 0 or own[-1] != wanted[-1]:
            others.append((key, own, wanted))
            continue
        parameter = model.get_parameter(key)
        stored = stored_positions(name, table, arguments).to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.copy_(stretch_positions(stored, *grids, model.position_antialias))
        (rows, columns), (new_rows, new_columns) = grids
        logger.warning(f"{key} is stretched from {rows} x {columns} patches to {new_rows} x {new_columns}.")
    return others


def position_grids(name: str, config: Any, arguments: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The grids of patches of a checkpoint's configuration and of the one it is loaded with, where its patches fit."""
    fields, _ = config.get_config_dict(name, **{key: value for key, value in arguments.items() if key in LOCATION})
    dense = type(config).from_dict(fields, **UNREDUCED)
    stored, own = (getattr(each, "tower", each) for each in (dense, config))
    return (stored.patch_grid(), own.patch_grid()) if stored.patch_size == own.patch_size else None


def stored_positions(name: str, table: str, arguments: dict[str, Any]) -> Tensor:
    """The table of positions of a checkpoint, whose name ends like ``table`` and is not of a text model's."""

    def is_table(key: str) -> bool:
        return key.endswith(table) and not key.startswith("text_model.")

    weights = arguments.get("state_dict")
    if weights is not None:
        found: Tensor = next(value for key, value in weights.items() if is_table(key))
        return found
    shards = shard_names(name, arguments)
    whole = [find_file(name, "model.safetensors", arguments)]
    paths = [find_file(name, shard, {**arguments, "variant": None}) for shard in shards] or whole
    for path in (path for path in paths if path is not None):
        for key in read_header(path)[0]:
            if is_table(key):
                return read_tensor(path, key)
    raise ValueError(f"The checkpoint {name!r} holds no {table}.")
