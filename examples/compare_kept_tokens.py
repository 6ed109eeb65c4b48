"""Which tokens other implementations and precisions keep: share of those of float32, for each reduction.

The figures of docs/speed.md. Give the folder of a model that `make run` trained, by default outputs/digits/model; its
360 test images are used.
"""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.programs import run_program
from fatr_hf.training.data import load_image_data
from fatr_hf.training.preprocessing import image_transform


def main() -> None:
    """Reads the folder from the command line, runs the model in every way and prints a line for each."""
    folder = sys.argv[1] if len(sys.argv) > 1 else "outputs/digits/model"
    transform = image_transform(AutoImageProcessor.from_pretrained(folder))
    images = transform(load_image_data("digits").test[:])["pixel_values"]
    model = load(folder)
    kept, classes = run(model, images)
    runs = {name: run(model, images, score_implementation=name) for name in ("log_sum_exp", "blocked", "naive")}
    runs |= {"map": run(load(folder, attn_implementation="eager"), images), "fused copy": run(model.fuse(), images)}
    for name in ("float64", "bfloat16"):
        runs[name] = run(load(folder, dtype=getattr(torch, name)), images)
    for name, (others, other_classes) in runs.items():
        shares = [((own & other).sum() / own.sum()).item() for own, other in zip(kept, others, strict=True)]
        same = (classes == other_classes).float().mean().item()
        print(name, *(f"{share:.1%}" for share in shares), f"same class: {same:.1%}")


def load(folder: str, **options: Any) -> Any:
    """The trained model; options as for `from_pretrained`."""
    return FATRViTForImageClassification.from_pretrained(folder, **options).eval()


@torch.inference_mode()
def run(model: Any, pixel_values: Tensor, **names: str) -> tuple[list[Tensor], Tensor]:
    """Whether each patch is kept (images, patches), for every reduction; and every image's class."""
    output = model(pixel_values.to(model.dtype), output_token_sources=True, **names)
    reductions = [tokens for tokens in model.config.plan() if tokens.reduces]
    kept = [source <= tokens.patches_out for source, tokens in zip(output.token_sources, reductions, strict=True)]
    return kept, output.logits.argmax(dim=1)


if __name__ == "__main__":
    run_program(main)
