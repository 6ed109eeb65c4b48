"""`fatr-hf compare`: FATR beside the unreduced model and its rivals on the same images."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..analysis.compare import compare, comparison_table
from ..analysis.curves import comparison_figure
from ..analysis.figure_files import check_figure_file, save_figure
from ..baselines.matched import RIVALS, USUAL, matched_rivals
from ..benchmark.frontier import LABELS, frontier_table, plot_frontier
from ..benchmark.frontier import frontier as compare_frontier
from ..benchmark.machine import choose_device
from ..hub.load import load_model, load_reduced
from .common import (
    BatchSize,
    Device,
    Images,
    Limit,
    ModelName,
    Revision,
    check_folders,
    load_pictures,
    option,
    refusals,
    separated,
    watched,
    write_json,
)
from .reduction import FIELDS, Reduction, takes_reduction

HELP = """
Compares FATR with the unreduced model and with rivals of equal cost, all with the same weights, on the same images.

MODEL is a folder or Hub name of a FATR model, or of a stock model, which is then reduced without training. IMAGES is a
picture, a folder of them (a sub-folder for each class gives labels), or the word photographs. All rows are compared
with the first.

\b
  fatr-hf compare outputs/digits/model photographs
  fatr-hf compare google/vit-base-patch16-224 path/to/images --limit 256 --plot collapse.png --json comparison.json
  fatr-hf compare outputs/base path/to/images --preset local --rivals unreduced,tome
  fatr-hf compare outputs/base path/to/images --beside outputs/other-model
  fatr-hf compare outputs/base path/to/images --frontier frontier.svg --budgets 0.8,0.65,0.5

--frontier compares FATR's presets and the rivals at several budgets, and also measures their time.
"""


@takes_reduction("preset", *FIELDS)
def run(
    model: ModelName,
    images: Images,
    rivals: Annotated[str | None, option(f"Rivals to compare: {', '.join(RIVALS)}. [{', '.join(USUAL)}]")] = None,
    beside: Annotated[str | None, option("Additional models, used unchanged: folders or Hub names.")] = None,
    *,
    reduction: Reduction,
    batch_size: BatchSize = 32,
    limit: Limit = None,
    device: Device = None,
    revision: Revision = None,
    frontier: Annotated[Path | None, option("Plot faithfulness over cost and measured time to this file.")] = None,
    methods: Annotated[str | None, option(f"For --frontier: {', '.join(LABELS)}. [all that the model allows]")] = None,
    budgets: Annotated[str, option("For --frontier: shares of the unreduced cost. [0.8,0.65,0.5]")] = "0.8,0.65,0.5",
    batch_sizes: Annotated[str, option("For --frontier: batch sizes to time. [1,8]")] = "1,8",
    fuse: Annotated[bool, option("For --frontier: time fused copies. [yes]")] = True,
    plot: Annotated[Path | None, option("Plot measures of the tokens by layer to this file.")] = None,
    json: Annotated[Path | None, option("Write all measurements to this JSON file.")] = None,
) -> None:
    """Reads the options, compares and prints."""
    with refusals():
        check_folders(json)
        if plot is not None:
            check_figure_file(plot)
        if methods is not None and frontier is None:
            raise ValueError("--methods is for --frontier; without it choose by --rivals.")
        where = choose_device(device)
        if frontier is not None:
            if reduction or rivals or beside or plot:
                raise ValueError(
                    "--frontier compares every method at several budgets: leave --rivals, --beside, --plot and the "
                    "reduction's options out."
                )
            check_figure_file(frontier)
            whole, processor = load_reduced(model, revision=revision, device=where)
            points = compare_frontier(
                whole,
                watched("Comparing", load_pictures(whole, processor, images, limit, batch_size)),
                methods=None if methods is None else separated("methods", methods, str),
                budgets=separated("budgets", budgets, float),
                batch_sizes=separated("batch sizes", batch_sizes, int),
                fused=fuse,
            )
            plot_frontier(points, frontier)
            write_json(json, {"model": model, "points": [asdict(each) for each in points]})
            typer.echo(frontier_table(points), nl=False)
            return
        reduced, processor = load_reduced(model, revision=revision, eager=True, device=where, **reduction)
        models = matched_rivals(reduced, None if rivals is None else separated("rivals", rivals, str))
        models = {name: each for name, each in models.items() if name == "unreduced"} | {"FATR": reduced} | models
        for name in separated("models", beside, str):
            models[name], _ = load_model(name, eager=True, device=choose_device(device))
        data = load_pictures(reduced, processor, images, limit, batch_size)
        comparison = compare(models, watched("Comparing", data))
        if plot is not None:
            save_figure(comparison_figure(comparison), plot)
        write_json(json, {"model": model, **comparison.to_dict()})
    typer.echo(comparison_table(comparison), nl=False)
