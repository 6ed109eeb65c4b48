"""Int8 files for export.py: which pictures calibrate them, what is quantised, and how far they agree with the model.

Quantised are the products of tokens and weights in the layers, which are nearly all of the cost: weights by channel,
inputs by tensor, between the least and the greatest value that the calibration has met. All else stays in float32:
attention, softmax, layer norms, and the scores and comparisons by which tokens are kept and joined.
"""

import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fatr_hf.analysis.images import NamedImage, to_batch
from fatr_hf.images import list_folder, open_picture, picture_mode, printable

BATCH_SIZE = 8
"""Pictures at a time."""

LARGEST_GRAPH = 2**31
"""Bytes that an ONNX file holds with its weights."""


class Pictures(Sequence[Tensor]):
    """Pixel values (1, channels, height, width) of pictures, which are opened when they are asked for.

    Args:
        files: paths.
        processor: resizes and normalises.
    """

    def __init__(self, files: Sequence[Path], processor: Any):
        self.files = files
        self.processor = processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: Any) -> Any:
        picture = open_picture(self.files[place], picture_mode(self.processor))
        return to_batch([NamedImage("", picture)], self.processor).pixel_values

    def batches(self) -> Iterator[Tensor]:
        """(at most ``BATCH_SIZE``, channels, height, width)."""
        for start in range(0, len(self), BATCH_SIZE):
            yield torch.cat([self[place] for place in range(start, min(start + BATCH_SIZE, len(self)))])


def draw_pictures(folder: Path | None, number: int, processor: Any) -> tuple[Pictures, Pictures]:
    """So many pictures of a folder, drawn by a fixed seed, and all others of it, in the order of their draw.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder without pictures.
    """
    if folder is None:
        return Pictures([], processor), Pictures([], processor)
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)} is no folder of pictures.")
    listed = list_folder(folder)
    if not listed.pictures:
        raise ValueError(f"{printable(folder)} holds no pictures.")
    files = [folder / file for file in listed.pictures]
    random.Random(0).shuffle(files)
    return Pictures(files[:number], processor), Pictures(files[number:], processor)


class Agreement(NamedTuple):
    """How alike the logits of two classifiers are, over pictures."""

    same: float
    """Share of equal predictions."""
    cosine: float
    """Mean over pictures."""
    error: float
    """Mean over pictures of the length of the difference over that of the reference's logits."""


def logits_of(classify: Callable[[Tensor], Tensor], pictures: Pictures) -> Tensor:
    """Logits (pictures, classes)."""
    with torch.no_grad():
        return torch.cat([classify(pixel_values) for pixel_values in pictures.batches()])


def agreement(logits: Tensor, reference: Tensor) -> Agreement:
    """Compares logits (pictures, classes) with those of a reference."""
    same = (logits.argmax(1) == reference.argmax(1)).float().mean()
    cosine = torch.cosine_similarity(logits, reference).mean()
    error = ((logits - reference).norm(dim=1) / reference.norm(dim=1)).mean()
    return Agreement(same.item(), cosine.item(), error.item())


def linear_layers(graph: Path) -> list[str]:
    """Names of the nodes of an ONNX graph that multiply tokens by stored weights."""
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    stored = {each.name for each in model.initializer}
    # Nothing else is quantised: the products of a reduction are of tokens with tokens.
    return [node.name for node in model.node if node.op_type == "MatMul" and node.input[1] in stored]


def quantise_onnx(graph: Path, pictures: Pictures, file: Path, scratch: Path) -> None:
    """Writes a graph with pairs of QuantizeLinear and DequantizeLinear, which onnxruntime runs as int8 products.

    Args:
        graph: an ONNX file.
        pictures: what it is calibrated on.
        file: what to write.
        scratch: a folder for the simplified graph.

    Raises:
        ValueError: a graph above 2 GB.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    size = sum(each.stat().st_size for each in graph.parent.iterdir())
    if size >= LARGEST_GRAPH:
        raise ValueError(f"--format onnx-int8 takes graphs below 2 GB, not of {size / 1e9:.1f}: take openvino-int8.")

    class Reader(CalibrationDataReader):
        batches = pictures.batches()

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch.numpy()}

    simplified = scratch / "simplified.onnx"
    # As onnxruntime recommends; the symbolic shapes are for models that need them, and this one's are known.
    quant_pre_process(graph, simplified, skip_symbolic_shape=True)
    linear = linear_layers(graph)
    quantize_static(
        simplified,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear,
        # What leaves a product is added to floats.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    restore_other_readers(file, linear)


def restore_other_readers(file: Path, linear: Sequence[str]) -> None:
    """Gives nodes that are not quantised the numbers before rounding: onnxruntime rounds them for all readers."""
    import onnx

    model = onnx.load(file)
    made = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.name in linear:
            continue
        for place, name in enumerate(node.input):
            rounded = made.get(name)
            quantised = made.get(rounded.input[0]) if rounded and rounded.op_type == "DequantizeLinear" else None
            if quantised is not None:
                node.input[place] = quantised.input[0]
    onnx.save(model, file)


def import_nncf() -> Any:
    """The module, or an ImportError in words."""
    os.environ.setdefault("NNCF_CI", "1")  # or it reports each use to its makers
    try:
        import nncf
    except ImportError as error:
        raise ImportError("--format openvino-int8 needs nncf: pip install 'fatr-hf[openvino]'.") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantise_openvino(graph: Path, pictures: Pictures, file: Path) -> None:
    """Writes a model quantised by nncf as it does transformers: outliers are first moved to weights (SmoothQuant).

    Args:
        graph: an ONNX file.
        pictures: what it is calibrated on.
        file: what to write, with its weights beside it.
    """
    nncf = import_nncf()
    import openvino

    model = openvino.Core().read_model(graph)
    linear = {*linear_layers(graph)}
    others = [each.get_friendly_name() for each in model.get_ops() if each.get_friendly_name() not in linear]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(pictures, lambda pixel_values: pixel_values.numpy()),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pictures),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )
    openvino.save_model(quantised, file, compress_to_fp16=False)
