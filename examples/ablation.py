"""What each choice of the reduction does to one trained model, without any training: quality against cost.

    python examples/ablation.py outputs/digits/base
    python examples/ablation.py outputs/digits/model --output_dir outputs/ablation-fine-tuned
    python examples/ablation.py path/to/model --dataset path/to/test/images --images 500

Sweeps: keep ratios and layers, windows and the DC tokens' size exponent, selections, and ω. Each begins at the
checkpoint's own reduction (the default of an unreduced model) and varies two of its fields. Every point is recorded as
soon as it is measured, and the same command goes on where an earlier one stopped. ``results.json`` holds all points,
``results.md`` the tables; figures are written as PNG and SVG.
"""

import argparse
import copy
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ablation_plots import (
    QUALITIES,
    Point,
    by_name,
    front_table,
    plot_front,
    plot_heat_map,
    plot_lines,
    shown,
    standard_error,
    sweep_tables,
)
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from fatr_hf.analysis import Batch, batches, to_batch
from fatr_hf.analysis.figure_files import check_matplotlib
from fatr_hf.analysis.images import class_numbers
from fatr_hf.analysis.outputs import judge, model_output
from fatr_hf.analysis.schedule_search.study import digest
from fatr_hf.benchmark import choose_device
from fatr_hf.benchmark.contestants import TRAINED_PARAMETERS
from fatr_hf.benchmark.report import format_macs
from fatr_hf.hub.checkpoints import find_image_processor, read_config
from fatr_hf.hub.load import check_has_processor, quiet_loading, reduced_class, size_of_images
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.reduction_config import SELECTIONS, ReductionConfig
from fatr_hf.programs import run_program
from fatr_hf.training.data import read_images
from fatr_hf.training.run_folder import write_json

FIELDS = ("reduction_layers", "keep_ratio", "dc_windows", "selection", "size_exponent")
KEEP_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FEW_KEEP_RATIOS = (0.2, 0.3, 0.5, 0.7, 0.9)
SIZE_EXPONENTS = (0.0, 0.5, 1.0)
LEAST_IMAGES = 8
OMEGAS = ("omega1", "omega2")

STOCK, TRAINED, ZERO = "without ω and DC position embeddings", "as trained", "ω set to zero"
"""The weights that are swept: a model's parameters limit its schedules, so layers and windows go without FATR's own."""

LAYERS, WINDOWS, SELECTION, OMEGA = "layers", "windows", "selection", "omega"
CORNERS = {
    LAYERS: "reduction layers / keep ratio",
    WINDOWS: "windows along each side / size exponent",
    SELECTION: "selection / keep ratio",
    OMEGA: "ω / keep ratio",
}
"""What rows and columns are, by sweep."""


def main() -> None:
    """Measures what is not recorded yet, then writes tables and figures."""
    parser = argparse.ArgumentParser(description="Sweeps the choices of the reduction on one trained model.")
    parser.add_argument("model", help="folder or Hub name of a ViT, reduced or not")
    parser.add_argument("--dataset", default="digits", help="a folder of images or of idx files, digits or photographs")
    parser.add_argument("--images", type=int, default=500, help="test images at most")
    parser.add_argument("--keep_ratio", type=float, help="where it is not swept; the checkpoint's, or 0.7")
    parser.add_argument("--batch_size", type=int, default=50, help="images at a time")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablation"), help="folder to write")
    print(ablate(parser.parse_args()))


class Setting(NamedTuple):
    """One reduction that is to be measured; fields as in ``Point``."""

    sweep: str
    row: str
    column: str
    weights: str
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """What the measured values depend on."""
        return json.dumps([self.weights, self.fields])


class Measured(NamedTuple):
    """What is measured of a setting; see ``Point``."""

    macs: int
    qualities: dict[str, float]


def ablate(arguments: argparse.Namespace) -> str:
    """All steps; the text of the tables."""
    check_matplotlib()
    models = load_models(arguments.model, arguments.keep_ratio)
    config = models[STOCK].config
    images = read_batch(arguments, class_numbers(config))
    settings = admissible(config, plan(config, models))
    header = {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "images": len(images.pixel_values),
        "fingerprints": {
            "keep ratio": config.keep_ratio,
            "set of images": digest(part for part in images if part is not None),
            "model": digest([architecture(config), *models.get(TRAINED, models[STOCK]).state_dict().values()]),
        },
    }
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    points = measure(models, images, arguments.batch_size, settings, folder / "results.json", header)
    unreduced = next(point for point in points if point.fields["keep_ratio"] == 1)
    for sweep, members in by_name(points, "sweep").items():
        plot_heat_map(members, CORNERS[sweep], folder / sweep)
    lines = [point for point in points if point.sweep == SELECTION]
    plot_lines(lines, unreduced, header["images"], folder / "selection-lines")
    plot_front(points, unreduced, header["images"], folder / "front")
    return write_report(points, unreduced, header, folder / "results.md")


def load_models(name: str, keep_ratio: float | None) -> dict[str, Any]:
    """A checkpoint by the weights that are swept; those of FATR only where they are not all zero.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a checkpoint of no family, or a keep ratio that is not allowed.
    """
    model_class = reduced_class(name, read_config(name))
    options: dict[str, Any] = {"dtype": torch.float32, **size_of_images(name, None, model_class)}
    options |= {} if keep_ratio is None else {"keep_ratio": keep_ratio}
    with quiet_loading():
        stock = model_class.from_pretrained(name, reweight_attention=False, dc_position_embeddings=False, **options)
        trained = model_class.from_pretrained(name, **options)
    models = {STOCK: stock}
    if any(parameter.any() for parameter in parameters(trained, TRAINED_PARAMETERS)):
        models[TRAINED] = trained
    if any(omega.any() for omega in parameters(trained, OMEGAS)):
        models[ZERO] = copy.deepcopy(trained)
        for omega in parameters(models[ZERO], OMEGAS):
            torch.nn.init.zeros_(omega)
    device = choose_device(None)
    return {weights: model.to(device).eval() for weights, model in models.items()}


def parameters(model: torch.nn.Module, endings: tuple[str, ...]) -> list[Tensor]:
    """A model's parameters whose names end so."""
    return [parameter for name, parameter in model.named_parameters() if name.endswith(endings)]


def read_batch(arguments: argparse.Namespace, label2id: Mapping[str, int]) -> Batch:
    """The test images as the model takes them, with the class number of each.

    Raises:
        FileNotFoundError: an unknown data set.
        ValueError: one without images, too few of them, or a model without an image processor.
    """
    if arguments.images < LEAST_IMAGES:
        raise ValueError(f"--images {arguments.images} must be at least {LEAST_IMAGES}.")
    images = read_images(arguments.dataset, arguments.images)
    for note in getattr(images, "notes", ()):
        print(f"Note: {note}")
    if len(images) < LEAST_IMAGES:
        raise ValueError(f"--dataset {arguments.dataset} has {len(images)} test images, and {LEAST_IMAGES} are needed.")
    return to_batch(images, check_has_processor(find_image_processor(arguments.model)), label2id)


def plan(config: ReductionConfig, weights: Collection[str]) -> list[Setting]:
    """The settings of all sweeps, whether or not a model can carry them out."""
    default = {name: getattr(config, name) for name in FIELDS}
    own = TRAINED if TRAINED in weights else STOCK
    settings = []
    for layers, ratio in product(layer_sets(config), KEEP_RATIOS):
        # The windows of the default, 2 in the first of these layers and then 1: their number goes with the layers'.
        fields = default | {"reduction_layers": list(layers), "keep_ratio": ratio, "dc_windows": None}
        settings.append(Setting(LAYERS, in_words(layers), f"{ratio:g}", STOCK, fields))
    for windows, exponent in product(window_counts(config), SIZE_EXPONENTS):
        fields = default | {"dc_windows": windows, "size_exponent": exponent}
        settings.append(Setting(WINDOWS, in_words(windows), f"{exponent:g}", STOCK, fields))
    for selection, ratio in product(SELECTIONS, FEW_KEEP_RATIOS):
        fields = default | {"selection": selection, "keep_ratio": ratio}
        settings.append(Setting(SELECTION, selection, f"{ratio:g}", own, fields))
    for form, ratio in product((TRAINED, ZERO) if ZERO in weights else (), FEW_KEEP_RATIOS):
        settings.append(Setting(OMEGA, form, f"{ratio:g}", form, default | {"keep_ratio": ratio}))
    return settings


def layer_sets(config: ReductionConfig) -> list[tuple[int, ...]]:
    """One layer; the default three, these earlier and later; all from a quarter of the depth on; the checkpoint's."""
    depth = config.num_hidden_layers
    quarters = sorted({depth // 4, depth // 2, 3 * depth // 4})
    shift = max(1, depth // 6)
    threes = [tuple(layer + move for layer in quarters) for move in (-shift, 0, shift)]
    sets = [(0,), *((layer,) for layer in quarters), *threes, tuple(range(depth // 4, depth))]
    sets.append(tuple(config.reduction_layers or ()))
    return [layers for layers in dict.fromkeys(sets) if layers and layers[0] >= 0 and layers[-1] < depth]


def window_counts(config: ReductionConfig) -> list[Any]:
    """The checkpoint's own windows, and single numbers for all layers: 0, 1, 2, 4 and half the grid."""
    counts = sorted({0, 1, 2, 4, max(1, min(config.patch_grid()) // 2)})
    return [config.dc_windows, *(count for count in counts if count != config.dc_windows)]


def in_words(values: int | Sequence[int]) -> str:
    """One integer or several, many in a row by the first and the last."""
    if isinstance(values, int):
        return str(values)
    in_a_row = len(values) > 3 and list(values) == list(range(values[0], values[-1] + 1))
    return f"{values[0]} to {values[-1]}" if in_a_row else ", ".join(map(str, values))


def admissible(config: ReductionConfig, settings: Sequence[Setting]) -> list[Setting]:
    """The settings whose schedules a model can carry out.

    Raises:
        ValueError: a sweep that holds none which reduces.
    """
    planned = [(setting, schedule(config, setting)) for setting in settings]
    reducing = {setting.sweep for setting, layers in planned if any(tokens.reduces for tokens in layers)}
    for setting in settings:
        if setting.sweep not in reducing:
            rows, columns = config.patch_grid()
            raise ValueError(
                f"The sweep of {setting.sweep} has no admissible schedule that reduces {rows} x {columns} patches; "
                f"where they are not swept, reduction_layers={config.reduction_layers}, "
                f"keep_ratio={config.keep_ratio} and dc_windows={config.dc_windows}."
            )
    return [setting for setting, layers in planned if layers]


def schedule(config: ReductionConfig, setting: Setting) -> list[LayerPlan]:
    """The tokens of every layer, or nothing where a model cannot reduce so."""
    try:
        return list(type(config).from_dict(config.to_dict(), **setting.fields).plan())
    except (StrictDataclassError, ValueError):
        return []


def measure(
    models: Mapping[str, Any],
    images: Batch,
    batch_size: int,
    settings: Sequence[Setting],
    path: Path,
    header: Mapping[str, Any],
) -> list[Point]:
    """The points of all settings: recorded ones as they are, each of the others measured and then recorded.

    Raises:
        ValueError: a record of another model, of other images or at another keep ratio.
    """
    known = recorded(path, header["fingerprints"])
    models[STOCK].set_reduction(keep_ratio=1.0)
    reference = outputs_of(models[STOCK], images, batch_size)
    for setting in settings:
        if setting.key in known:
            continue
        model = models[setting.weights]
        model.set_reduction(**setting.fields)
        qualities = evaluate(model, images, batch_size, reference)
        known[setting.key] = Measured(schedule_macs(model.config), qualities)
        points = [Point(*each, *known[each.key]) for each in settings if each.key in known]
        write_json(path, {**header, "points": [point._asdict() for point in points]})
        print(progress(Point(*setting, *known[setting.key])), flush=True)
    return [Point(*setting, *known[setting.key]) for setting in settings]


def recorded(path: Path, fingerprints: Mapping[str, Any]) -> dict[str, Measured]:
    """What a folder holds, by the settings' keys.

    Raises:
        ValueError: a record of another model, of other images or at another keep ratio.
    """
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    for name, value in fingerprints.items():
        if record["fingerprints"][name] != value:
            raise ValueError(
                f"{path.parent} holds an ablation with another {name} (of {record['model']} on {record['dataset']}): "
                "choose another --output_dir."
            )
    points = [Point(**fields) for fields in record["points"]]
    return {Setting(*point[:-2]).key: Measured(point.macs, point.qualities) for point in points}


def outputs_of(model: Any, images: Batch, batch_size: int) -> Tensor:
    """A model's outputs (images, features) for all images, on the CPU."""
    return torch.cat([model_output(model, batch.pixel_values).cpu() for batch in batches(images, batch_size)])


def evaluate(model: Any, images: Batch, batch_size: int, reference: Tensor) -> dict[str, float]:
    """Top-1 accuracy where labels are known, and the cosine to the unreduced model's outputs, means over all images.

    Args:
        reference: (images, features).
    """
    judged = judge(model, images, outputs_of(model, images, batch_size), reference)
    return {name: float(judged[name].double().mean()) for name in QUALITIES if name in judged}


def architecture(config: ReductionConfig) -> str:
    """A configuration as text."""
    return json.dumps({**config.to_dict(), "transformers_version": ""}, sort_keys=True)


def progress(point: Point) -> str:
    """A line that says what has been measured."""
    values = ", ".join(f"{QUALITIES[name].label} {shown(point, name):.1f}" for name in point.qualities)
    return f"{point.sweep}, {point.row} / {point.column}: {format_macs(point.macs)}, {values}"


def write_report(points: Sequence[Point], unreduced: Point, header: Mapping[str, Any], path: Path) -> str:
    """Writes the tables, and returns their text."""
    parts = [f"# {header['model']} on {header['images']} images of {header['dataset']}"]
    parts.append(f"Unreduced: {format_macs(unreduced.macs)} multiply-accumulates.")
    accuracy = unreduced.qualities.get("accuracy")
    if accuracy is None:
        parts.append("There is no accuracy: the images have no labels, or other ones than the model's classes.")
    else:
        error = standard_error(accuracy, header["images"])
        parts.append(f"Its top-1 is {100 * accuracy:.1f}%, with a binomial standard error of {100 * error:.1f} points.")
    sweeps = by_name(points, "sweep")
    if OMEGA not in sweeps:
        parts.append("ω is not swept: this checkpoint has none, or zeros only.")
    for sweep, members in sweeps.items():
        weights = ", ".join(dict.fromkeys(point.weights for point in members))
        parts.append(f"## {sweep.capitalize()}\n\nWeights: {weights}.")
        parts.append(sweep_tables(members, CORNERS[sweep], unreduced.macs))
    for quality in unreduced.qualities:
        parts.append(f"## Front: {QUALITIES[quality].label}\n\n{front_table(points, quality, unreduced.macs)}")
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    path.write_text(text)
    return text


if __name__ == "__main__":
    run_program(main)
