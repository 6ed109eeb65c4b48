"""The folder that serve.py writes: parquet files for fixed ranges of the pictures, each there as a whole or not at all.

A manifest, hidden so that readers of parquet folders pass it over, says what the shards were computed from.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from fatr_hf.training.run_folder import write_json

MANIFEST = ".manifest.json"


class Shard(NamedTuple):
    """A range of the pictures and the file for what is said of them."""

    path: Path
    first: int
    end: int
    """The first place that is not in it."""

    def batches(self, batch_size: int) -> list[range]:
        """Its places in batches, the last one smaller where they do not divide."""
        return [range(place, min(place + batch_size, self.end)) for place in range(self.first, self.end, batch_size)]


def plan_shards(folder: Path, images: int, shard_size: int) -> list[Shard]:
    """All shards of so many pictures, which depend on nothing else."""
    number = -(-images // shard_size)
    return [
        Shard(
            folder / f"shard-{index:05d}-of-{number:05d}.parquet",
            index * shard_size,
            min((index + 1) * shard_size, images),
        )
        for index in range(number)
    ]


def check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks that a folder is free for this run, or holds a part of it; writes nothing.

    Args:
        manifest: what the shards depend on, as JSON gives it back.

    Raises:
        ValueError: the folder holds something else, or shards that were computed from something else.
    """
    record = folder / MANIFEST
    if record.exists() and any(folder.glob("*.parquet")):
        recorded = json.loads(record.read_text())
        changed = [
            f"{name} was {recorded.get(name)!r} and is {manifest.get(name)!r}"
            for name in sorted({*recorded, *manifest})
            if recorded.get(name) != manifest.get(name)
        ]
        if changed:
            raise ValueError(
                f"--output {folder} holds predictions of another run: {'; '.join(changed)}. Choose another folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise ValueError(f"--output {folder} holds something else than predictions: choose a new or an empty folder.")


def claim_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Makes a folder that ``check_folder`` has passed this run's own; created where needed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, dict(manifest))


def write_shard(table: pa.Table, path: Path) -> None:
    """Writes a parquet file under a hidden name, and gives it its own when all of it is on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        pyarrow.parquet.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def count_rows(shards: Sequence[Shard]) -> tuple[int, int]:
    """Pictures in all shards together, and how many of them have an error."""
    rows = pyarrow.dataset.dataset([str(shard.path) for shard in shards])
    return rows.count_rows(), rows.count_rows(filter=pyarrow.dataset.field("error").is_valid())
