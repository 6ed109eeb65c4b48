"""Classifies a folder of pictures, or parquet files of them, on any number of processes, and writes parquet files.

    python examples/serve.py --model outputs/photographs/model --images photographs --output outputs/served
    accelerate launch --num_processes 8 examples/serve.py --model user/model --images folder --output outputs/served

Every picture has one row, in order: its place and name, its most probable classes, and where asked for its logits and
its CLS token; one that cannot be read has the reason instead. Rows come in shards, each a fixed range of the pictures,
so that the same command goes on where an earlier one stopped, on as many processes as there are then. The model runs as
its fused copy. ``datasets.load_dataset("parquet", data_dir="outputs/served")`` reads the result; docs/serving.md says
more.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate.accelerator import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from serve_images import Batch, Images, PreparedImages, open_images
from serve_model import add_model_arguments, load_chosen
from serve_shards import Shard, check_folder, claim_folder, count_rows, plan_shards, write_shard
from torch import Tensor
from torch.utils.data import DataLoader

from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.analysis.schedule_search.study import digest
from fatr_hf.benchmark.settings import DTYPES
from fatr_hf.programs import run_program


def main() -> None:
    """Reads the command line, computes the shards that are missing and says how it went."""
    arguments = parse_arguments()
    # Several processes find each other on the CPU only if told to; one that has done its part waits for the others.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=30))
    processes = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience])
    model, processor = load_chosen(arguments)
    schema = result_schema(arguments, is_classifier(model))
    images = open_images(arguments.images, arguments.column)
    if images.note and processes.is_main_process:
        print(f"Note: {images.note}")
    manifest = describe(arguments, model, processor, images)
    shards = plan_shards(arguments.output, len(images.rows), arguments.shard_size)
    missing = agree(processes, arguments.output, manifest, shards)
    claim = partial(claim_folder, arguments.output, manifest)

    start = time.perf_counter()
    model = model.fuse().to(processes.device, DTYPES[arguments.dtype])
    serve(
        model,
        PreparedImages(images, processor),
        missing[processes.process_index :: processes.num_processes],
        schema,
        arguments,
        claim,
    )
    processes.wait_for_everyone()
    if processes.is_main_process:
        print(summary(shards, missing, time.perf_counter() - start))
    processes.end_training()


def parse_arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: a number that is not allowed.
    """
    parser = argparse.ArgumentParser(
        description="Classifies pictures on any number of processes; writes parquet files."
    )
    add_model_arguments(parser)
    parser.add_argument("--images", required=True, help="folder of pictures or parquet files, photographs or digits")
    parser.add_argument("--column", help="of parquet files; by default the only one that holds pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the model computes in")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures, for each that computes")
    parser.add_argument("--shard_size", type=int, default=1024, help="images in a file")
    parser.add_argument("--top_k", type=int, default=5, help="classes of an image")
    parser.add_argument("--logits", action="store_true", help="write the logits of all classes")
    parser.add_argument("--embedding", action="store_true", help="write the CLS token behind the last layer norm")
    parser.add_argument("--strict", action="store_true", help="stop at a picture that cannot be read")
    arguments = parser.parse_args()
    for name, least in (("batch_size", 1), ("workers", 0), ("shard_size", 1), ("top_k", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {least}.")
    return arguments


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
    config = json.dumps({**model.config.to_dict(), "_name_or_path": "", "transformers_version": ""}, sort_keys=True)
    manifest = {name: getattr(arguments, name) for name in ("dtype", "shard_size", "top_k", "logits", "embedding")}
    manifest |= {
        "keep_ratio": model.config.keep_ratio,
        "model": digest([config, *model.state_dict().values()]),
        "processor": processor.to_dict(),
        "number of images": len(images.rows),
        "images": images.fingerprint,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(manifest))
    return as_json


def agree(processes: Accelerator, folder: Path, manifest: Mapping[str, Any], shards: Sequence[Shard]) -> list[Shard]:
    """The shards that are missing, the same list on all processes.

    Raises:
        ValueError: a folder of another run, or processes that do not see the same model and images.
    """
    plan: list[Any] = [None]
    if processes.is_main_process:
        check_folder(folder, manifest)
        plan = [(manifest, [shard for shard in shards if not shard.path.exists()])]
    [(agreed, missing)] = broadcast_object_list(plan)
    if agreed != manifest:
        raise ValueError(f"Process {processes.process_index} sees another model or other images than process 0.")
    return list(missing)


def serve(
    model: Any,
    images: PreparedImages,
    shards: Sequence[Shard],
    schema: pa.Schema,
    arguments: argparse.Namespace,
    claim: Callable[[], None],
) -> None:
    """Computes shards one after the other, while the workers read on.

    Args:
        claim: makes the output folder this run's own, when the first shard is ready to be written.

    Raises:
        ValueError: with ``--strict``, a picture that cannot be read.
    """
    places = [batch for shard in shards for batch in shard.batches(arguments.batch_size)]
    on_gpu = model.device.type == "cuda"
    loader = DataLoader(images, batch_size=None, sampler=places, num_workers=arguments.workers, pin_memory=on_gpu)
    batches = iter(loader)
    for shard in shards:
        parts = []
        for batch in islice(batches, len(shard.batches(arguments.batch_size))):
            if arguments.strict:
                check_unbroken(batch)
            columns = {} if batch.pixel_values is None else predict(model, batch.pixel_values, arguments.top_k)
            parts.append(to_table(batch, columns, schema))
        claim()
        write_shard(pa.concat_tables(parts), shard.path)
        print(f"{shard.path.name}: images {shard.first} to {shard.end - 1}", flush=True)


def check_unbroken(batch: Batch) -> None:
    """Raises a ValueError for the first picture of a batch that cannot be read."""
    for place, name, error in zip(batch.places, batch.names, batch.errors, strict=True):
        if error is not None:
            raise ValueError(f"--strict: picture {place} ({name}) cannot be read: {error}.")


@torch.inference_mode()
def predict(model: Any, pixel_values: Tensor, top_k: int) -> dict[str, list[Any]]:
    """Columns with an entry for each picture; an encoder's is its CLS token alone.

    Args:
        model: a fused copy.
        pixel_values: (batch, channels, height, width).
        top_k: classes of a picture; of equal ones the first come first.
    """
    pixel_values = pixel_values.to(model.device, model.dtype, non_blocking=True)
    tokens = model.base_model(pixel_values, prefix_only=True).last_hidden_state[:, 0]
    columns = {"embedding": list(tokens.float().cpu().numpy())}
    if is_classifier(model):
        logits = model.classifier(tokens).float().cpu()
        probabilities, classes = (each[:, :top_k] for each in logits.softmax(dim=1).sort(descending=True, stable=True))
        labels = [[model.config.id2label[number] for number in row] for row in classes.tolist()]
        columns |= {"classes": classes.tolist(), "labels": labels, "probabilities": probabilities.tolist()}
        columns |= {"logits": list(logits.numpy())}
    return columns


def to_table(batch: Batch, columns: Mapping[str, Iterable[Any]], schema: pa.Schema) -> pa.Table:
    """Rows of a batch; a picture with an error has nothing in the columns of the model."""
    values: dict[str, Any] = {"index": batch.places, "name": batch.names, "error": batch.errors}
    for name in schema.names[len(values) :]:
        column = iter(columns.get(name, ()))
        values[name] = [next(column) if error is None else None for error in batch.errors]
    return pa.table(values, schema)


def summary(shards: Sequence[Shard], computed: Sequence[Shard], seconds: float) -> str:
    """Images and errors in all shards, and the speed of this run."""
    images, errors = count_rows(shards)
    here = sum(shard.end - shard.first for shard in computed)
    return f"{images} images, {errors} of them cannot be read; {here} computed now, {here / seconds:.1f} images/s"


if __name__ == "__main__":
    run_program(main)
