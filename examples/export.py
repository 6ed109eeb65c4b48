"""Exports a model for other runtimes, and keeps the files only if they compute what the model computes.

    python examples/export.py --model outputs/photographs/model --format onnx --output outputs/exported
    python examples/export.py --model user/model --format onnx pt2 aoti --output outputs/exported --benchmark
    python examples/export.py --model user/model --format onnx-int8 --calibration path/to/images --output outputs/int8

``onnx`` is a graph for onnxruntime, optimum and transformers.js, ``openvino`` the same for OpenVINO; with ``-int8`` the
products of tokens and weights are in 8 bits. ``pt2`` is an exported program of PyTorch's, and ``aoti`` that program
compiled by AOTInductor for processors like this machine's, which needs a C++ compiler. Each takes pixel values (batch,
channels, height, width) in float32, of any number of images, and gives logits (batch, classes). The fused copy is what
is exported. ``preprocessor_config.json`` and ``config.json`` lie beside it. docs/export.md loads each of them without
fatr_hf.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from chosen_model import add_model_arguments, load_chosen
from export_benchmark import benchmark
from export_formats import FORMATS, Classify, Logits, Source, example, size_of
from export_quantised import Pictures, agreement, draw_pictures, logits_of
from transformers import AutoImageProcessor

from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.images import picture_mode, printable
from fatr_hf.modeling.reduction_config import REDUCTION_FIELDS
from fatr_hf.programs import run_program

CHECKED_BATCHES = (1, 3)
"""Images at a time in a check; the graph is traced with two."""

SIZES = ("image_size", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads")
"""Fields that the configurations of the families have alike."""


class Limits(NamedTuple):
    """What a file must keep to."""

    tolerance: float
    """Largest difference of a logit, of a file in float32."""
    least_agreement: float
    """Least share of equal predictions, of a file in int8."""


def main() -> None:
    """Reads the command line, exports, and measures where asked."""
    arguments = parse_arguments()
    model, processor = load_chosen(arguments)
    if not is_classifier(model):
        raise ValueError(f"--model {arguments.model} has no classifier, whose logits are what is exported.")
    calibration, held_out = choose_pictures(arguments, processor)
    limits = Limits(arguments.tolerance, arguments.least_agreement)
    output = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    # What is refused leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        source = Source(model, Path(scratch) / "source", calibration)
        write_files(model, source, arguments.format, folder, held_out, limits)
        processor.save_pretrained(folder)
        write_config(model, arguments.format, folder)
        try_recipe(folder, arguments.format)
        folder.rename(output)
    if arguments.benchmark:
        with tempfile.TemporaryDirectory() as scratch:

            def write(model: Any, formats: list[str], folder: Path) -> None:
                source = Source(model, folder / "source", calibration)
                write_files(model, source, formats, folder, held_out, limits._replace(least_agreement=0.0))

            print(benchmark(model, arguments, write, Path(scratch), held_out))


def parse_arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        ImportError: a package that a format needs is not installed.
        ValueError: a number that is not allowed, pictures that are missing or for nothing, or an output folder that
            holds something.
    """
    parser = argparse.ArgumentParser(description="Exports a model to other runtimes, and in 8 bits.")
    add_model_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, nargs="+", required=True, help="one or several")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a logit, in float32")
    parser.add_argument("--calibration", type=Path, help="folder of pictures that int8 files are calibrated on")
    parser.add_argument(
        "--calibration_images", type=int, default=256, help="pictures to calibrate on, drawn with a fixed seed"
    )
    parser.add_argument("--held_out", type=Path, help="folder of pictures to compare on; by default those not drawn")
    parser.add_argument("--held_out_images", type=int, default=256, help="most pictures to compare on, drawn alike")
    parser.add_argument(
        "--least_agreement", type=float, default=0.9, help="share of predictions that an int8 file must keep"
    )
    parser.add_argument("--benchmark", action="store_true", help="time the files beside the unreduced model's, in turn")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 8], help="of the benchmark; one or several")
    parser.add_argument("--rounds", type=int, default=20, help="of the benchmark")
    arguments = parser.parse_args()
    for name in ("batch_size", "rounds", "calibration_images", "held_out_images"):
        value = getattr(arguments, name)
        if min(value if isinstance(value, list) else [value]) < 1:
            raise ValueError(f"--{name} {value} must be at least 1.")
    if not 0 <= arguments.least_agreement <= 1:
        raise ValueError(f"--least_agreement {arguments.least_agreement} must be from 0 to 1.")
    if arguments.output.is_file() or (arguments.output.is_dir() and any(arguments.output.iterdir())):
        raise ValueError(f"--output {arguments.output} must be a new or an empty folder.")
    in_int8 = [name for name in arguments.format if FORMATS[name].float_format]
    if in_int8 and arguments.calibration is None:
        raise ValueError(f"--format {in_int8[0]} needs --calibration, a folder of pictures like those to classify.")
    if arguments.calibration is not None and not in_int8:
        raise ValueError(f"--calibration {arguments.calibration} is for the formats in int8.")
    if arguments.held_out is not None and not (in_int8 or arguments.benchmark):
        raise ValueError(f"--held_out {arguments.held_out} is for the formats in int8 and for --benchmark.")
    for name in arguments.format:
        FORMATS[name].imports()
    return arguments


def choose_pictures(arguments: argparse.Namespace, processor: Any) -> tuple[Pictures, Pictures]:
    """Pictures to calibrate on, and others to compare on; none where no folder is given.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder without pictures, or one in which the calibration leaves none.
    """
    number, folder = arguments.calibration_images, arguments.calibration
    calibration, others = draw_pictures(folder, number, processor)
    if arguments.held_out is not None:
        others, _ = draw_pictures(arguments.held_out, arguments.held_out_images, processor)
    elif calibration and not others:
        raise ValueError(
            f"--calibration {printable(folder)} holds {len(calibration)} pictures, of which --calibration_images "
            f"{number} leaves none to compare on: take fewer, or give --held_out."
        )
    return calibration, Pictures(others.files[: arguments.held_out_images], processor)


def write_files(
    model: Any, source: Source, formats: list[str], folder: Path, held_out: Pictures, limits: Limits
) -> None:
    """Writes a file of each format and checks it.

    Args:
        model: a classifier that is not fused, in evaluation mode.
        source: made of it.
        held_out: pictures on which int8 files are compared with it.

    Raises:
        ValueError: a file whose logits differ from the model's by more than the tolerance, or whose predictions by
            more than the least agreement allows.
    """
    reference = logits_of(Logits(model), held_out) if any(FORMATS[name].float_format for name in formats) else None
    for name in formats:
        kind = FORMATS[name]
        file = folder / kind.file
        file.parent.mkdir(parents=True, exist_ok=True)
        kind.write(source, file)
        classify = kind.load(file)
        if kind.float_format is None:
            error = largest_error(model, classify)
            if not error <= limits.tolerance:
                raise ValueError(
                    f"{file.name} differs from the model by {error:.1e}, and --tolerance is {limits.tolerance}."
                )
            words = f"largest error of a logit {error:.1e}"
        else:
            assert reference is not None
            found = agreement(logits_of(classify, held_out), reference)
            words = f"{found.same:.3f} of {len(held_out)} predictions stay, cosine of logits {found.cosine:.4f}"
            if not found.same >= limits.least_agreement:
                raise ValueError(f"{file.name}: {words}, and --least_agreement is {limits.least_agreement}.")
            words += f", relative error {found.error:.3f}"
        print(f"{file.name}: {size_of(file) / 1e6:.1f} MB, {words}", flush=True)


def largest_error(model: Any, classify: Classify) -> float:
    """The largest absolute difference of a logit from the model's."""
    images = [example(model, batch_size) for batch_size in CHECKED_BATCHES]
    with torch.no_grad():
        return max((classify(each) - model(each).logits).abs().max().item() for each in images)


def write_config(model: Any, formats: list[str], folder: Path) -> None:
    """Writes ``config.json``: the classes, what optimum and transformers.js load a graph by, and the reduction.

    They choose a class by ``model_type`` and know stock ones alone. Each runs a graph of any family as ViT's: from
    pixel values to logits. There are no weights in the folder that could be loaded as a ViT's.
    """
    config = model.config
    fields: dict[str, Any] = {"model_type": "vit", "exported_model_type": config.model_type}
    fields |= {name: getattr(config, name) for name in SIZES if hasattr(config, name)}
    fields |= {"id2label": config.id2label, "label2id": {name: number for number, name in config.id2label.items()}}
    fields |= {name: getattr(config, name) for name in REDUCTION_FIELDS}
    fields["tokens"] = [layer.tokens_out for layer in config.plan()]
    graphs = {"fp32": "onnx", "q8": "onnx-int8"}
    there = [word for word, name in graphs.items() if name in formats]
    if len(there) == 1:  # of several each device takes its own
        fields["transformers.js_config"] = {"dtype": there[0]}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")


def try_recipe(folder: Path, formats: list[str]) -> None:
    """Classifies a grey picture as a reader of the folder does: by the processor and the files that it holds.

    Raises:
        ValueError: a file that refuses what the processor gives.
    """
    processor = AutoImageProcessor.from_pretrained(folder)
    picture = PIL.Image.new(picture_mode(processor), (64, 48), "grey")
    pixel_values = processor([picture], return_tensors="pt")["pixel_values"]
    for name in formats:
        try:
            FORMATS[name].load(folder / FORMATS[name].file)(pixel_values)
        except Exception as error:  # every runtime has errors of its own
            shape = tuple(pixel_values.shape)
            raise ValueError(f"{FORMATS[name].file} does not take what the image processor gives, {shape}.") from error


if __name__ == "__main__":
    run_program(main)
