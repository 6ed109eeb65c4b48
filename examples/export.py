"""Exports a model for other runtimes, and keeps the files only if they compute what the model computes.

    python examples/export.py --model outputs/photographs/model --format onnx --output outputs/exported
    python examples/export.py --model user/model --format onnx pt2 aoti --output outputs/exported --benchmark

``onnx`` is a graph for onnxruntime and others, ``pt2`` an exported program of PyTorch's, and ``aoti`` that program
compiled by AOTInductor for processors like this machine's, which needs a C++ compiler. Each takes pixel values (batch,
channels, height, width) in float32, of any number of images, and gives logits (batch, classes). The fused copy is what
is exported. ``preprocessor_config.json`` and ``labels.json``, the names of the classes in order, lie beside it.
docs/serving.md loads each of them without fatr_hf.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import PIL.Image
import torch
from chosen_model import add_model_arguments, load_chosen
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import AutoImageProcessor

from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.benchmark.timing import time_in_turn
from fatr_hf.images import picture_mode
from fatr_hf.modeling.reduction_config import as_pair
from fatr_hf.programs import run_program

CHECKED_BATCHES = (1, 3)
"""Images at a time in a check; the graph is traced with two."""

Classify = Callable[[Tensor], Tensor]
"""From pixel values (batch, channels, height, width) to logits (batch, classes)."""


def main() -> None:
    """Reads the command line, exports, and measures where asked."""
    arguments = parse_arguments()
    model, processor = load_chosen(arguments)
    if not is_classifier(model):
        raise ValueError(f"--model {arguments.model} has no classifier, whose logits are what is exported.")
    output = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    # What is refused leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        export(model, arguments.format, folder, arguments.tolerance)
        processor.save_pretrained(folder)
        try_recipe(folder, arguments.format)
        labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
        (folder / "labels.json").write_text(json.dumps(labels, indent=2) + "\n")
        folder.rename(output)
    if arguments.benchmark:
        runtimes = {name: FORMATS[name].load(output / FORMATS[name].file) for name in arguments.format}
        for batch_size in arguments.batch_size:
            print(benchmark(model, runtimes, batch_size, arguments.rounds))


def parse_arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: a number that is not allowed, or an output folder that holds something.
    """
    parser = argparse.ArgumentParser(description="Exports a model to ONNX, or as a program of PyTorch's.")
    add_model_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, nargs="+", required=True, help="one or several")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a logit")
    parser.add_argument("--benchmark", action="store_true", help="time the files beside the model, in turn")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 8], help="of the benchmark; one or several")
    parser.add_argument("--rounds", type=int, default=20, help="of the benchmark")
    arguments = parser.parse_args()
    if min(arguments.batch_size) < 1 or arguments.rounds < 1:
        raise ValueError(f"--batch_size {arguments.batch_size} and --rounds {arguments.rounds} must be at least 1.")
    if arguments.output.is_file() or (arguments.output.is_dir() and any(arguments.output.iterdir())):
        raise ValueError(f"--output {arguments.output} must be a new or an empty folder.")
    return arguments


def export(model: Any, formats: list[str], folder: Path, tolerance: float) -> None:
    """Writes a file of each format and checks it.

    Args:
        model: a classifier that is not fused, in evaluation mode.

    Raises:
        ValueError: a file whose logits differ from the model's by more than the tolerance.
    """
    with torch.no_grad():
        batch = Dim("batch")
        program = torch.export.export(Logits(model.fuse()), (example(model, 2),), dynamic_shapes=({0: batch},))
        for name in formats:
            file = folder / FORMATS[name].file
            FORMATS[name].write(program, file)
            error = largest_error(model, FORMATS[name].load(file))
            if not error <= tolerance:
                raise ValueError(f"{file.name} differs from the model by {error:.1e}, and --tolerance is {tolerance}.")
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, largest error of a logit {error:.1e}", flush=True)


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


class Logits(nn.Module):
    """A classifier as a function of pixel values alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values).logits
        return logits


def example(model: Any, batch_size: int) -> Tensor:
    """Random pixel values (batch, channels, height, width) of the model's size, always the same."""
    config = model.config
    shape = (batch_size, config.num_channels, *as_pair("image_size", config.image_size))
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch_size))


def largest_error(model: Any, classify: Classify) -> float:
    """The largest absolute difference of a logit from the model's."""
    images = [example(model, batch_size) for batch_size in CHECKED_BATCHES]
    return max((classify(each) - model(each).logits).abs().max().item() for each in images)


def import_onnxruntime() -> Any:
    """The module, or an ImportError in words."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("--format onnx needs onnxruntime and others: pip install 'fatr-hf[export]'.") from error
    return onnxruntime


def write_onnx(program: ExportedProgram, file: Path) -> None:
    """Translates a program to ONNX, with the input ``pixel_values`` and the output ``logits``."""
    import_onnxruntime()
    names: dict[str, Any] = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    translated = torch.onnx.export(program, dynamic_shapes=({0: "batch"},), dynamo=True, verbose=False, **names)
    assert translated is not None
    translated.save(file)


def load_onnx(file: Path) -> Classify:
    """A session of onnxruntime, on as many threads as torch's; none of them spins while others are timed."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options)
    return lambda pixel_values: torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])


def load_program(file: Path) -> Classify:
    """An exported program as a module."""
    classify: Classify = torch.export.load(file).module()
    return classify


def compile_package(program: ExportedProgram, file: Path) -> None:
    """Compiles a program for any number of threads; AOTInductor's own choice is the number there is now."""
    options = {"cpp.dynamic_threads": True}
    torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def load_package(file: Path) -> Classify:
    """A compiled package."""
    classify: Classify = torch._inductor.aoti_load_package(str(file))
    return classify


class Format(NamedTuple):
    """A kind of file."""

    file: str
    write: Callable[[ExportedProgram, Path], None]
    load: Callable[[Path], Classify]


FORMATS = {
    "onnx": Format("model.onnx", write_onnx, load_onnx),
    "pt2": Format("model.pt2", torch.export.save, load_program),
    "aoti": Format("model-aoti.pt2", compile_package, load_package),
}


def benchmark(model: Any, runtimes: Mapping[str, Classify], batch_size: int, rounds: int) -> str:
    """A table of the model, its fused copy and the exported files, timed in turn; ratios are medians over rounds."""
    images = example(model, batch_size)
    classify: dict[str, Classify] = {"eager": Logits(model), "eager, fused": Logits(model.fuse()), **runtimes}
    with torch.inference_mode():
        tasks = {name: partial(each, images) for name, each in classify.items()}
        timings = time_in_turn(tasks, images.device, rounds)
    lines = [f"batch {batch_size}, {torch.get_num_threads()} threads", "| | ms | speed over eager |", "|---|---|---|"]
    for name, timing in timings.items():
        speed = median(a / b for a, b in zip(timings["eager"].samples, timing.samples, strict=True))
        lines.append(f"| {name} | {timing.median:.1f} | {speed:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
