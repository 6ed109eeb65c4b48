"""Classifies pictures on all GPUs or cores of a machine or a Ray cluster, and writes parquet files.

    python examples/score.py --model outputs/photographs/model --images photographs --output outputs/scored
    ray job submit --working-dir . -- python examples/score.py --model user/model --images /shared/pictures \
        --output /shared/scored

Every picture has one row, in order: its place and name, its most probable classes, and where asked for its logits and
its CLS token; one that cannot be read has the reason instead. Rows come in shards, each a fixed range of the pictures,
so that the same command goes on where an earlier one stopped, on whatever there is then. The model runs as its fused
copy. ``datasets.load_dataset("parquet", data_dir="outputs/scored")`` reads the result; docs/serving.md says more.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from chosen_model import add_model_arguments, load_chosen
from score_actors import Work, check_ray, digest_of, running_ray, score_batches
from score_images import Images, open_images

from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.benchmark.settings import DTYPES
from fatr_hf.programs import run_program
from fatr_hf.training.run_folder import write_json

MANIFEST = ".manifest.json"
"""Hidden, so that readers of parquet folders pass it over: what the shards beside it were computed from."""


class Shard(NamedTuple):
    """A range of the pictures and the file for their rows."""

    path: Path
    first: int
    end: int
    """The first place that is not in it."""

    def batches(self, batch_size: int) -> list[range]:
        """Its places in batches, the last one smaller where they do not divide."""
        return [range(place, min(place + batch_size, self.end)) for place in range(self.first, self.end, batch_size)]


def main() -> None:
    """Reads the command line, computes the shards that are missing and says how it went."""
    check_ray()
    arguments = parse_arguments()
    model, processor = load_chosen(arguments)
    schema = result_schema(arguments, is_classifier(model))
    images = open_images(arguments.images, arguments.column, arguments.split)
    if images.note:
        print(f"Note: {images.note}")
    manifest = describe(arguments, model, processor, images)
    del model  # the actors have their own
    check_folder(arguments.output, manifest)
    shards = plan_shards(arguments.output, len(images.rows), arguments.shard_size)
    missing = [shard for shard in shards if not shard.path.exists()]
    speed = ""
    if missing:
        with running_ray():
            work = Work(arguments, manifest["model"], processor, schema, images)
            speed = write_shards(work, missing, partial(claim_folder, arguments.output, manifest))
    number, errors = count_rows(shards)
    computed = sum(shard.end - shard.first for shard in missing)
    print(f"{number} images, {errors} of them cannot be read; {computed} computed now{speed}")


def parse_arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: a number or a place that is not allowed.
    """
    parser = argparse.ArgumentParser(description="Classifies pictures on one machine or many; writes parquet files.")
    add_model_arguments(parser)
    parser.add_argument("--images", required=True, help="folder of pictures or parquet files, photographs or digits")
    parser.add_argument("--split", help="take --images for a data set of the Hub's, and this split of it")
    parser.add_argument("--column", help="of parquet files or a data set; by default the only one that holds pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the model computes in")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument("--actors", type=int, help="copies of the model; by default one for each GPU, or for each core")
    parser.add_argument("--threads", type=int, default=1, help="cores for each actor")
    parser.add_argument("--gpus_per_actor", type=float, help="by default 1 where there are GPUs; 0 for the CPU")
    parser.add_argument("--shard_size", type=int, default=1024, help="images in a file")
    parser.add_argument("--top_k", type=int, default=5, help="classes of an image")
    parser.add_argument("--logits", action="store_true", help="write the logits of all classes")
    parser.add_argument("--embedding", action="store_true", help="write CLS after the last norm, or the patches' mean")
    parser.add_argument("--strict", action="store_true", help="stop at a picture that cannot be read")
    arguments = parser.parse_args()
    least = {"batch_size": 1, "actors": 1, "threads": 1, "gpus_per_actor": 0, "shard_size": 1, "top_k": 1}
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= bound:
            raise ValueError(f"--{name} {value} must be at least {bound}.")
    for name in ("images", "output"):
        check_place(name, str(getattr(arguments, name)))
    return arguments


def check_place(name: str, place: str) -> None:
    """Raises a ValueError for a place that the actors or the program cannot reach."""
    if ":/" in place:
        raise ValueError(f"--{name} {place} must be a folder: mount the storage.")
    is_relative = not Path(place).expanduser().is_absolute()
    if "RAY_ADDRESS" in os.environ and is_relative and (name == "output" or Path(place).exists()):
        raise ValueError(f"--{name} {place} must be absolute: a job runs in a copy of the folder it is submitted from.")


def result_schema(arguments: argparse.Namespace, classifies: bool) -> pa.Schema:
    """Names and types of the columns.

    Raises:
        ValueError: an encoder, of which nothing is asked that it has.
    """
    floats = pa.list_(pa.float32())
    columns = [("index", pa.int64()), ("name", pa.string()), ("error", pa.string())]
    if classifies:
        columns += [("classes", pa.list_(pa.int32())), ("labels", pa.list_(pa.string())), ("probabilities", floats)]
    elif arguments.logits or not arguments.embedding:
        raise ValueError(f"{arguments.model} has no classifier: ask for --embedding, and not for --logits.")
    columns += [(name, floats) for name in ("logits", "embedding") if getattr(arguments, name)]
    return pa.schema(columns)


def describe(arguments: argparse.Namespace, model: Any, processor: Any, images: Images) -> dict[str, Any]:
    """What the result depends on, as JSON gives it back. The batch size changes no more than its rounding."""
    manifest = {name: getattr(arguments, name) for name in ("dtype", "shard_size", "top_k", "logits", "embedding")}
    manifest |= {
        "keep_ratio": model.config.keep_ratio,
        "model": digest_of(model),
        "processor": processor.to_dict(),
        "number of images": len(images.rows),
        "images": images.fingerprint,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(manifest))
    return as_json


def check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks that a folder is free for this run, or holds a part of it; writes nothing.

    Args:
        manifest: of ``describe``.

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


def write_shards(work: Work, shards: Sequence[Shard], claim: Callable[[], None]) -> str:
    """Computes shards, and writes each when its rows have come.

    Args:
        claim: makes the output folder this run's own, when the first shard is ready to be written.

    Returns:
        How fast that went.

    Raises:
        ValueError: with ``--strict``, a picture that cannot be read; or more actors than there is room for.
        ChildProcessError: Ray gave up.
    """
    started = time.perf_counter()
    size, number = work.arguments.batch_size, sum(shard.end - shard.first for shard in shards)
    batches = [batch for shard in shards for batch in shard.batches(size)]
    with closing(score_batches(work, batches)) as tables:
        scored: Iterator[pa.Table] = map(check_unbroken, tables) if work.arguments.strict else tables
        first = rows = next(scored)
        loaded = time.perf_counter()
        for shard in shards:
            length = shard.end - shard.first
            while len(rows) < length:
                rows = pa.concat_tables([rows, next(scored)])
            assert rows["index"][:length].to_pylist() == [*range(shard.first, shard.end)]
            claim()
            write_shard(rows[:length], shard.path)
            rows = rows[length:]
            print(f"{shard.path.name}: images {shard.first} to {shard.end - 1}", flush=True)
    now = time.perf_counter()
    speed = f", {(number - len(first)) / (now - loaded):.1f} images/s after the first batch"
    return f" in {now - started:.0f} s{speed if number > len(first) else ''}"


def check_unbroken(rows: pa.Table) -> pa.Table:
    """The same rows, or a ValueError for the first picture that cannot be read."""
    for row in rows.select(["index", "name", "error"]).to_pylist():
        if row["error"] is not None:
            raise ValueError(f"--strict: picture {row['index']} ({row['name']}) cannot be read: {row['error']}.")
    return rows


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


if __name__ == "__main__":
    run_program(main)
