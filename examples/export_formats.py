"""The kinds of files that export.py writes: what each is made of, and how it is loaded."""

import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from export_quantised import Pictures, import_nncf, quantise_onnx, quantise_openvino
from torch import Tensor, nn
from torch.export import Dim

from fatr_hf.modeling.reduction_config import as_pair

Classify = Callable[[Tensor], Tensor]
"""From pixel values (batch, channels, height, width) to logits (batch, classes)."""


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


class Source:
    """What files are made of: the fused copy as an exported program, and its ONNX graph, which most formats start from.

    Args:
        model: a classifier that is not fused, in evaluation mode.
        scratch: a folder for files on the way.
        calibration: what int8 files are calibrated on.
    """

    def __init__(self, model: Any, scratch: Path, calibration: Pictures | None = None):
        self.scratch = scratch
        self.calibration = calibration
        inputs, shapes = (example(model, 2),), ({0: Dim("batch")},)
        with torch.no_grad():
            self.program = torch.export.export(Logits(model.fuse()), inputs, dynamic_shapes=shapes)

    @cached_property
    def graph(self) -> Path:
        """The ONNX file, with the input ``pixel_values`` and the output ``logits``; it is alone in its folder.

        Above 2 GB, which is all that such a file can hold, its weights are beside it.
        """
        file = self.scratch / "graph" / "model.onnx"
        file.parent.mkdir(parents=True)
        names: dict[str, Any] = {"input_names": ["pixel_values"], "output_names": ["logits"]}
        shapes = ({0: "batch"},)
        translated = torch.onnx.export(self.program, dynamic_shapes=shapes, dynamo=True, verbose=False, **names)
        assert translated is not None
        translated.save(file)
        return file

    @property
    def pictures(self) -> Pictures:
        """The calibration's."""
        assert self.calibration is not None, "export.py asks for them"
        return self.calibration


def import_onnxruntime() -> Any:
    """The module, or an ImportError in words."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("ONNX needs onnxruntime and others: pip install 'fatr-hf[export]'.") from error
    return onnxruntime


def import_openvino() -> Any:
    """The module, or an ImportError in words."""
    import_onnxruntime()  # the graph is translated from ONNX
    try:
        import openvino
    except ImportError as error:
        raise ImportError("OpenVINO needs its packages: pip install 'fatr-hf[openvino]'.") from error
    return openvino


def load_onnx(file: Path) -> Classify:
    """A session of onnxruntime, on as many threads as torch's; none of them spins while others are timed."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options)
    return lambda pixel_values: torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])


def write_openvino(source: Source, file: Path) -> None:
    """Translates the graph, in float32: by default OpenVINO halves the weights."""
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(source.graph), file, compress_to_fp16=False)


def load_openvino(file: Path) -> Classify:
    """A compiled model, on as many threads as torch's; where it may choose OpenVINO computes in bfloat16."""
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(file, "CPU", settings)
    return lambda pixel_values: torch.from_numpy(compiled(pixel_values.numpy())[0])


def load_program(file: Path) -> Classify:
    """An exported program as a module."""
    classify: Classify = torch.export.load(file).module()
    return classify


def compile_package(source: Source, file: Path) -> None:
    """Compiles the program for any number of threads; AOTInductor's own choice is the number there is now."""
    options = {"cpp.dynamic_threads": True}
    torch._inductor.aoti_compile_and_package(source.program, package_path=str(file), inductor_configs=options)


def load_package(file: Path) -> Classify:
    """A compiled package."""
    classify: Classify = torch._inductor.aoti_load_package(str(file))
    return classify


class Format(NamedTuple):
    """A kind of file."""

    file: str
    """Its path in the exported folder."""
    write: Callable[[Source, Path], object]
    load: Callable[[Path], Classify]
    imports: Callable[[], object] = lambda: None
    """Raises an ImportError where a package is missing."""
    float_format: str | None = None
    """Of an int8 file: the format that has the same in float32."""


FORMATS = {
    "onnx": Format(
        # Where transformers.js and optimum look for it, under the names that they know.
        "onnx/model.onnx",
        lambda source, file: shutil.copytree(source.graph.parent, file.parent, dirs_exist_ok=True),
        load_onnx,
        import_onnxruntime,
    ),
    "onnx-int8": Format(
        "onnx/model_quantized.onnx",
        lambda source, file: quantise_onnx(source.graph, source.pictures, file, source.scratch),
        load_onnx,
        import_onnxruntime,
        "onnx",
    ),
    "openvino": Format("openvino/openvino_model.xml", write_openvino, load_openvino, import_openvino),
    "openvino-int8": Format(
        "openvino/openvino_model_quantized.xml",
        lambda source, file: quantise_openvino(source.graph, source.pictures, file),
        load_openvino,
        lambda: (import_openvino(), import_nncf()),
        "openvino",
    ),
    "pt2": Format("model.pt2", lambda source, file: torch.export.save(source.program, file), load_program),
    "aoti": Format("model-aoti.pt2", compile_package, load_package),
}


def size_of(file: Path) -> int:
    """Bytes of a file and of those that belong to it, which begin as it does."""
    return sum(os.path.getsize(each) for each in file.parent.glob(f"{file.stem}.*"))
