"""`fatr-hf search`: schedules of a model that give the best quality for their cost, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from transformers import BaseImageProcessor

from ..analysis.crops import random_crops
from ..analysis.figure_files import check_figure_file, save_figure
from ..analysis.images import Batch, class_numbers, to_batch
from ..analysis.schedule_search.quality import QUALITIES
from ..analysis.schedule_search.report import check_text, front_table, loading_call, search_figure, summary
from ..analysis.schedule_search.result import SearchResult
from ..analysis.schedule_search.rivals import check_schedule, rival_points
from ..analysis.schedule_search.search import OBJECTIVES, search_schedules
from ..analysis.schedule_search.space import default_space, has_own_parameters
from ..analysis.schedule_search.study import import_optuna
from ..benchmark.machine import choose_device
from ..hub.checkpoints import is_fatr, read_config
from ..hub.convert import check_free, convert_checkpoint
from ..hub.load import check_has_processor, load_reduced, quiet_loading
from ..modeling.reduction_model import ReductionModel
from .common import (
    BatchSize,
    Device,
    Images,
    Limit,
    ModelName,
    Revision,
    check_folders,
    option,
    progress,
    read_pictures,
    refusals,
    separated,
    write_json,
)

HELP = """
Searches for the reduction schedules of a model that no other beats in both cost and quality, without training.

MODEL is a folder or Hub name of any ViT; for a FATR model the search stays within its own layers and windows. IMAGES is
a picture, a folder of them (a sub-folder for each class gives labels) or of idx files, or the word photographs or
digits. With --study the same command resumes an interrupted search.

\b
  fatr-hf search google/vit-base-patch16-224 path/to/images --study search.sqlite --limit 256 --plot search.png
  fatr-hf search outputs/base path/to/train --quality cosine --best-at 0.65 --check path/to/test
  fatr-hf search outputs/base photographs --crops 16 --best-at 0.65 --write outputs/searched
  fatr-hf search outputs/base path/to/images --objective latency --token-multiples 1,8 --batch-size 8
"""


def run(
    model: ModelName,
    images: Images,
    study: Annotated[Path | None, option("SQLite file that stores the search. [none]")] = None,
    trials: Annotated[int, option("Schedules to finish in total, including earlier runs. [200]", least=1)] = 200,
    objective: Annotated[str, option(f"Cost: {', '.join(OBJECTIVES)}. [macs]")] = "macs",
    quality: Annotated[str | None, option(f"Quality: {', '.join(QUALITIES)}. [labels: accuracy, else cosine]")] = None,
    seed: Annotated[int, option("Seed of the sampler and the crops. [0]")] = 0,
    batch_size: BatchSize = 32,
    limit: Limit = None,
    crops: Annotated[int | None, option("Number of random crops of each picture. [none]", least=1)] = None,
    max_layers: Annotated[int | None, option("Maximum number of layers that reduce. [all]", least=1)] = None,
    one_per_range: Annotated[bool, option("One layer in each of the paper's three ranges.", "--one-per-range")] = False,
    windows: Annotated[str | None, option("Numbers of DC windows to try. [1, 2, 4, half of the grid]")] = None,
    token_multiples: Annotated[str, option("token_multiples to try. [1]")] = "1",
    size_exponents: Annotated[str, option("size_exponents to try. [0, 0.25, 0.5, 0.75, 1]")] = "0,0.25,0.5,0.75,1",
    macs_range: Annotated[str, option("Range of multiply-accumulates to try, as shares. [0.3,0.95]")] = "0.3,0.95",
    best_at: Annotated[float | None, option("Select the best schedule that costs at most this share.")] = None,
    check: Annotated[str | None, option("Compare the selected schedule with ToMe on these images (as IMAGES).")] = None,
    write: Annotated[Path | None, option("Write the model with the selected schedule to this new folder.")] = None,
    device: Device = None,
    revision: Revision = None,
    plot: Annotated[Path | None, option("Plot quality over cost to this file.")] = None,
    json: Annotated[Path | None, option("Write all trials to this JSON file.")] = None,
) -> None:
    """Reads the options, searches and prints."""
    with refusals(), quiet_loading():
        check_outputs(best_at, check, write, plot, json)
        shares = separated("shares", macs_range, float)
        check_within_reach(best_at, objective, shares)
        searched, processor = load_searchable(model, revision, device, writes=write is not None)
        source = Source(searched, processor, limit, crops, seed)
        data = source.load(images).batch
        others = None if check is None else source.load(check)
        space = default_space(
            searched.config,
            max_layers=max_layers,
            one_per_range=one_per_range,
            windows=separated("windows", windows, int) or None,
            macs_range=shares,
            token_multiples=separated("token multiples", token_multiples, int),
            size_exponents=separated("size exponents", size_exponents, float),
        )
        settings = {"quality": quality, "batch_size": batch_size, "seed": seed, "study": study}
        result = search(searched, data, trials, space=space, objective=objective, **settings)
        typer.echo(f"{front_table(result)}\n{summary(result)}")
        found: dict[str, Any] = {"model": model, **result.to_dict()}
        # At once, so that the search is kept whatever happens to the rest.
        write_json(json, found)
        if plot is not None:
            points = rival_points(searched, data, objective, result.quality, batch_size)
            save_figure(search_figure(result, points), plot)
            found["rivals"] = [point._asdict() for point in points]
        if best_at is not None:
            best = result.best_at(best_at)
            found["best"] = {"number": best.number, "fields": best.schedule.fields}
            typer.echo(f"\n{loading_call(best.schedule, model, type(searched).__name__)}")
            if others is not None:
                checked = check_schedule(searched, best.schedule, *others, result.quality, batch_size)
                found["check"] = checked.to_dict()
                typer.echo(f"\n{check_text(checked)}")
            if write is not None:
                convert_checkpoint(model, write, revision=revision, **best.schedule.fields)
                typer.echo(f"\nWrote {write}.")
        write_json(json, found)


class Pictures(NamedTuple):
    """Images as a model takes them, and which of them belong together."""

    batch: Batch
    groups: list[str]
    """For each the class or, without one, the picture that it is from."""


class Source(NamedTuple):
    """How a model's images come about."""

    model: ReductionModel
    processor: BaseImageProcessor
    limit: int | None
    crops: int | None
    seed: int

    def load(self, images: str) -> Pictures:
        """The pictures of a path or of the word ``photographs``, or crops of them.

        Raises:
            FileNotFoundError, ValueError: see ``read_pictures``.
        """
        pictures = read_pictures(images, self.limit)
        if self.crops is not None:
            pictures = random_crops(pictures, self.crops, self.seed)
        batch = to_batch(pictures, self.processor, class_numbers(self.model.config))
        return Pictures(batch, [each.label or each.name for each in pictures])


def search(model: ReductionModel, data: Batch, trials: int, **settings: Any) -> SearchResult:
    """``search_schedules`` with a bar, and without optuna's messages."""
    logging = import_optuna().logging
    logging.set_verbosity(logging.WARNING)
    with progress("Searching", trials) as advance:
        return search_schedules(model, data, trials=trials, on_trial=advance, **settings)


def check_outputs(
    best_at: float | None, check: str | None, write: Path | None, plot: Path | None, json: Path | None
) -> None:
    """Checks, before anything is computed, that what is asked for can be written.

    Raises:
        FileExistsError: a folder for the model that is not empty.
        ImportError: a plot without matplotlib.
        ValueError: a check or a model without a choice of the schedule, or files that cannot be written.
    """
    if best_at is None and (check is not None or write is not None):
        raise ValueError("--check and --write are for the schedule that --best-at chooses: give a share, such as 0.65.")
    if write is not None:
        check_free(write)
    if plot is not None:
        check_figure_file(plot)
    check_folders(json)


def check_within_reach(best_at: float | None, objective: str, macs_range: Sequence[float]) -> None:
    """Checks, before the search, that it can find a schedule at the cost that is asked for.

    Raises:
        ValueError: no schedule that is tried costs so little.
    """
    if best_at is not None and objective == "macs" and macs_range and best_at < min(macs_range):
        raise ValueError(
            f"--best-at {best_at:g} is below the schedules that are tried: they cost at least {min(macs_range):g} of "
            "the unreduced model (--macs-range)."
        )


def load_searchable(
    name: str, revision: str | None, device: str | None, writes: bool
) -> tuple[ReductionModel, BaseImageProcessor]:
    """A model to search and its image processor: a FATR model, or a stock one without parameters of a schedule.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: no such model, no image processor, or a FATR model where the searched one is to be written.
    """
    is_reduced = is_fatr(read_config(name, revision))
    if is_reduced and writes:
        raise ValueError(f"--write makes a FATR model of an unreduced one, and {name!r} is one: leave it out.")
    without = {} if is_reduced else {"reweight_attention": False, "dc_position_embeddings": False}
    model, processor = load_reduced(name, revision=revision, device=choose_device(device), **without)
    processor = check_has_processor(processor)
    if has_own_parameters(model.config):
        words = "has parameters that belong to its schedule: only its own layers and windows are searched."
        typer.echo(f"{name} {words}", err=True)
    return model, processor
