"""The actors of score.py, which read pictures and run the model, and the Ray that they run on."""

import argparse
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import chosen_model
import pyarrow as pa
import score_images
import torch
from chosen_model import answer, load_chosen, most_probable
from score_images import Images, Reader
from torch import Tensor
from transformers import BaseImageProcessor

from fatr_hf.analysis.schedule_search.study import digest
from fatr_hf.benchmark.settings import DTYPES

try:
    import ray
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError

    HAS_RAY = True
except ImportError:
    HAS_RAY = False

OBJECT_STORE = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}
"""Bytes of shared memory; batches of pixels travel through it only from readers to GPUs."""


class Work(NamedTuple):
    """What all actors are told."""

    arguments: argparse.Namespace
    model: str
    """Its ``digest_of``."""
    processor: BaseImageProcessor
    schema: pa.Schema
    """Of the rows that are wanted."""
    images: Images


class Actor:
    """Reads pictures, or scores what others have read, or both.

    Everything is loaded at the first batch, because of an error in a constructor Ray keeps no more than its traceback.

    Args:
        work: a reference to ``Work`` in Ray's store.
        threads: of the processor.
    """

    def __init__(self, work: Any, threads: int, reads: bool, scores: bool):
        self.reference, self.reads, self.scores = work, reads, scores
        self.reader: Reader | None = None
        torch.set_num_threads(threads)

    def load(self) -> None:
        """The pictures, and the fused copy of the model.

        Raises:
            FileNotFoundError: the pictures are not on this machine.
            ValueError: the model's name stands for another one here.
        """
        work: Work = ray.get(self.reference)
        arguments, folder, here = work.arguments, work.images.folder, socket.gethostname()
        if self.reads and not folder.exists():
            raise FileNotFoundError(f"--images {folder} is not there on {here}: share it.")
        if self.scores:
            model, _ = load_chosen(arguments)
            if digest_of(model) != work.model:
                raise ValueError(f"--model {arguments.model} is another one on {here}: share it.")
            on_gpu = arguments.gpus_per_actor != 0 and torch.cuda.is_available()
            self.model = model.fuse().to("cuda" if on_gpu else "cpu", DTYPES[arguments.dtype])
        self.work, self.reader = work, Reader(work.images, work.processor)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Pictures (``Reader``) of a column of places, or rows of pictures."""
        if self.reader is None:
            self.load()
        assert self.reader is not None
        if self.reads:
            batch = self.reader(batch["index"].to_pylist())
        return self.score(batch) if self.scores else batch

    def score(self, batch: pa.Table) -> pa.Table:
        """Rows of pictures; one with an error has nothing in the columns of the model."""
        errors = batch["error"].to_pylist()
        good = [error is None for error in errors]
        pixel_values = batch["pixel_values"].combine_chunks().to_numpy_ndarray()
        columns = {}
        if any(good):
            readable = torch.tensor(pixel_values if all(good) else pixel_values[good])
            columns = predict(self.model, readable, self.work.arguments)
        known = {name: batch[name] for name in ("index", "name", "error")}
        for name in self.work.schema.names[len(known) :]:
            column = iter(columns.get(name, ()))
            known[name] = [next(column) if each else None for each in good]
        return pa.table(known, self.work.schema)


def predict(model: Any, pixel_values: Tensor, arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Columns with an entry for each picture of pixel values (batch, channels, height, width)."""
    found, columns = answer(model, pixel_values, arguments.embedding), {}
    if found.embedding is not None:
        columns["embedding"] = list(found.embedding.cpu().numpy())
    if found.logits is not None:
        probabilities, classes = (each.tolist() for each in most_probable(found.logits, arguments.top_k))
        labels = [[model.config.id2label[number] for number in row] for row in classes]
        columns |= {"classes": classes, "labels": labels, "probabilities": probabilities}
        columns["logits"] = list(found.logits.cpu().numpy())
    return columns


def digest_of(model: Any) -> str:
    """A digest of a model's weights and configuration, whatever its name is and what saved it."""
    config = json.dumps({**model.config.to_dict(), "_name_or_path": "", "transformers_version": ""}, sort_keys=True)
    return digest([config, *model.state_dict().values()])


def check_ray() -> None:
    """Raises an ImportError where Ray is not installed."""
    if not HAS_RAY:
        raise ImportError("score.py runs on Ray: pip install 'fatr-hf[scale]'.")


@contextmanager
def running_ray() -> Iterator[None]:
    """Ray within a ``with`` block: one that is running, the cluster that a job is on, else one for this process."""
    if ray.is_initialized():
        yield
        return
    # Ray's own lines, among them an error of every pool of actors, would bury the program's.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if "RAY_ADDRESS" in os.environ:
            ray.init(**quiet)
        else:
            store = OBJECT_STORE["cuda" if torch.cuda.is_available() else "cpu"]
            ray.init("local", include_dashboard=False, object_store_memory=store, **quiet)
        # In place of Ray's handler, which prints a stack.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        yield
    finally:
        ray.shutdown()


def plan_pool(arguments: argparse.Namespace, batches: int) -> tuple[int, float, int]:
    """A scorer for each GPU, and readers on the cores that are left; without GPUs scorers on all cores, which read too.

    Returns:
        The number of scorers, no more than batches unless ``--actors`` says so; GPUs for each; the number of readers.

    Raises:
        ValueError: more actors than there is room for.
    """
    resources = ray.cluster_resources()
    cores, gpus, threads = int(resources.get("CPU", 0)), resources.get("GPU", 0.0), arguments.threads
    share = float(gpus > 0) if arguments.gpus_per_actor is None else arguments.gpus_per_actor
    most = min(cores // threads, int(gpus / share) if share else cores)
    scorers = arguments.actors or min(max(most, 1), batches)
    if scorers > most:
        raise ValueError(
            f"--actors {scorers}, each with --threads {threads} and --gpus_per_actor {share:g}, need more than the "
            f"{cores} cores and {gpus:g} GPUs that there are."
        )
    return scorers, share, cores - scorers * threads if share else 0


def score_batches(work: Work, batches: Sequence[range]) -> Generator[pa.Table, None, None]:
    """Rows of pictures in the order of the batches, however many at a time; a batch whose actor dies goes to another.

    Args:
        batches: places of pictures.

    Raises:
        ChildProcessError: Ray gave up.
        Exception: what an actor raises.
    """
    scorers, gpus, readers = plan_pool(work.arguments, len(batches))
    # Actors are sent these files as they are here, wherever they run.
    for module in (chosen_model, score_images, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    reference = ray.put(work)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True
    # A batch is a block, and stays one.
    context.target_max_block_size = None
    rows: ray.data.Dataset = ray.data.from_arrow([pa.table({"index": list(batch)}) for batch in batches])
    pools = [(scorers, gpus, work.arguments.threads, not readers, True)]
    if readers:
        pools.insert(0, (readers, 0, 1, True, False))
    for size, share, threads, reads, scores in pools:
        rows = rows.map_batches(
            Actor,
            fn_constructor_args=(reference, threads, reads, scores),
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=threads,
            num_gpus=share,
            # Of GPUs Ray wants to know. It joins blocks that are shorter, so that rows stay in order and blocks do not.
            batch_size=work.arguments.batch_size,
            batch_format="pyarrow",
        )
    try:
        tables: Any = iter(rows.iter_batches(batch_size=None, batch_format="pyarrow"))
        with closing(tables):
            yield from tables
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        cause = getattr(error, "cause", None)
        if cause is None or isinstance(cause, ray.exceptions.RayError):
            reason = str(cause or error).splitlines()[0]
            raise ChildProcessError(f"Ray gave up: {reason} The same command resumes the run.") from error
        # Ray Data adds advice on retries.
        cause.args = (str(cause).partition("\nFailed to apply UDF")[0],)
        raise cause from None
