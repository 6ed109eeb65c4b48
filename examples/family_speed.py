"""Speed of the families at the shapes of well-known checkpoints, with random weights, beside the stock models.

In every round each contestant runs in turn; printed is the median over the rounds of the ratio to stock's time. ToMe at
FATR's multiply-accumulates and truncation, the upper bound for its token counts, are fused copies.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

import fatr_hf
from fatr_hf.baselines.matched import build_rival
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.budget import with_keep_ratio
from fatr_hf.programs import run_program

SHAPES: dict[str, Callable[[], Any]] = {
    "ViT-B/16-224": lambda: ViTModel(ViTConfig(), add_pooling_layer=False),
    "CLIP-L/14-224": lambda: CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
        )
    ),
    "DINOv2-B/14-518": lambda: Dinov2Model(Dinov2Config(image_size=518, patch_size=14)),
    "SigLIP-so400m/14-384": lambda: SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        )
    ),
    "DINOv3-B/16-224": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4)
    ),
}


def seconds(model: Any, pixel_values: torch.Tensor) -> float:
    """Time of one forward pass."""
    start = time.perf_counter()
    model(pixel_values)
    if pixel_values.device.type != "cpu":
        torch.accelerator.synchronize(pixel_values.device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(name: str, arguments: argparse.Namespace) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    dtype, device = getattr(torch, arguments.dtype), torch.device(arguments.device)
    stock = SHAPES[name]().eval().to(device, dtype)
    size = stock.config.image_size
    pixel_values = torch.randn(arguments.batch_size, 3, size, size, dtype=dtype, device=device)
    reduced = fatr_hf.convert(stock, keep_ratio=arguments.keep_ratio)
    unreduced = fatr_hf.convert(stock, keep_ratio=1.0)
    rivals: dict[str, Any] = {name: build_rival(reduced, name) for name in ("tome", "truncation")}
    rivals = {name: rival.fuse() for name, rival in rivals.items()}
    contestants = {"off": unreduced.fuse(), "FATR": reduced, "FATR, fused": reduced.fuse(), **rivals}
    for model in (stock, *contestants.values()):
        model(pixel_values)
    ratios: dict[str, list[float]] = {key: [] for key in contestants}
    for _ in range(arguments.rounds):
        own = seconds(stock, pixel_values)
        for key, model in contestants.items():
            ratios[key].append(own / seconds(model, pixel_values))
    share = schedule_macs(reduced.config) / schedule_macs(with_keep_ratio(reduced.config, 1.0))
    plan = reduced.config.plan()
    cells = [f"{median(values):.2f}" for values in ratios.values()]
    return f"| {name} | {plan[0].tokens_in} to {plan[-1].tokens_out} | {share:.2f} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--keep_ratio", type=float, default=0.7)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for name in ("batch_size", "rounds"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least 1.")
    columns = ("shape", "tokens", "multiply-accumulates", "off, fused", "FATR", "FATR, fused", "ToMe", "truncation")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in arguments.shapes:
        print(measure(name, arguments), flush=True)


if __name__ == "__main__":
    run_program(main)
