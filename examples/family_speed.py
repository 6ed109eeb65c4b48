"""Speed of the families at the shapes of well-known checkpoints, with random weights, beside the stock models.

    python examples/family_speed.py
    python examples/family_speed.py --tasks --keep_ratio 0.5 --batch_size 1

In every round each contestant runs in turn; printed is the median over the rounds of the ratio to stock's time. ToMe at
FATR's multiply-accumulates and truncation, the upper bound for its token counts, are fused copies. ``--tasks`` takes
whole models of detection, depth, poses and videos instead of image encoders; there are no rivals of those.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Owlv2Config,
    Owlv2ForObjectDetection,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
    ViTModel,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    YolosConfig,
    YolosForObjectDetection,
)

import fatr_hf
from fatr_hf.baselines.matched import build_rival
from fatr_hf.modeling import schedule_macs
from fatr_hf.modeling.budget import with_keep_ratio
from fatr_hf.programs import run_program


class Shape(NamedTuple):
    """A function that makes a stock model, and the shape of one of its images or videos."""

    build: Callable[[], Any]
    sample: tuple[int, ...]


def siglip(side: int) -> Callable[[], Any]:
    """SigLIP-so400m/14, for square images of so many pixels along a side."""
    sizes: dict[str, Any] = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
    }
    return lambda: SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=side, patch_size=14))


def clip() -> PreTrainedModel:
    """CLIP-L/14's tower."""
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    return CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=14))


def dinov3() -> PreTrainedModel:
    """DINOv3-B/16."""
    sizes: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_register_tokens": 4,
    }
    return DINOv3ViTModel(DINOv3ViTConfig(**sizes))


def depth_anything() -> PreTrainedModel:
    """Depth Anything with a DINOv2-S, as its configuration is by default."""
    return DepthAnythingForDepthEstimation(DepthAnythingConfig())


def owlv2() -> PreTrainedModel:
    """OWLv2-B/16."""
    return Owlv2ForObjectDetection(Owlv2Config(vision_config={"image_size": 960, "patch_size": 16}))


def vitpose() -> PreTrainedModel:
    """ViTPose-B."""
    stages: dict[str, Any] = {"out_indices": [12]}
    joints: dict[str, Any] = {"num_labels": 17}
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=VitPoseBackboneConfig(**stages), **joints))


def vjepa2() -> PreTrainedModel:
    """V-JEPA 2 L, of 16 frames."""
    return VJEPA2ForVideoClassification(VJEPA2Config(frames_per_clip=16, crop_size=256))


def yolos() -> PreTrainedModel:
    """YOLOS-S."""
    sizes: dict[str, Any] = {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_labels": 91,
    }
    return YolosForObjectDetection(YolosConfig(**sizes, image_size=[800, 1344]))


ENCODERS = {
    "ViT-B/16-224": Shape(lambda: ViTModel(ViTConfig(), add_pooling_layer=False), (3, 224, 224)),
    "CLIP-L/14-224": Shape(clip, (3, 224, 224)),
    "DINOv2-B/14-518": Shape(lambda: Dinov2Model(Dinov2Config(image_size=518, patch_size=14)), (3, 518, 518)),
    "SigLIP-so400m/14-384": Shape(siglip(384), (3, 384, 384)),
    "DINOv3-B/16-224": Shape(dinov3, (3, 224, 224)),
}

TASKS = {
    "YOLOS-S 800 x 1344": Shape(yolos, (3, 800, 1344)),
    "OWLv2-B/16 960": Shape(owlv2, (3, 960, 960)),
    "ViTPose-B 256 x 192": Shape(vitpose, (3, 256, 192)),
    "Depth Anything S 518": Shape(depth_anything, (3, 518, 518)),
    "VideoMAE-B 16 x 224": Shape(lambda: VideoMAEForVideoClassification(VideoMAEConfig()), (16, 3, 224, 224)),
    "V-JEPA 2 L 16 x 256": Shape(vjepa2, (16, 3, 256, 256)),
    "tower of PaliGemma-448": Shape(siglip(448), (3, 448, 448)),
}

SHAPES = {**ENCODERS, **TASKS}


def seconds(model: Any, inputs: dict[str, torch.Tensor]) -> float:
    """Time of one forward pass."""
    device = next(iter(inputs.values())).device
    start = time.perf_counter()
    model(**inputs)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(name: str, arguments: argparse.Namespace) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    dtype, device = getattr(torch, arguments.dtype), torch.device(arguments.device)
    stock: Any = SHAPES[name].build().eval()
    stock = stock.to(device, dtype)
    inputs = inputs_of(stock, torch.randn(arguments.batch_size, *SHAPES[name].sample, dtype=dtype, device=device))
    reduced = fatr_hf.convert(stock, keep_ratio=arguments.keep_ratio)
    unreduced = fatr_hf.convert(stock, keep_ratio=1.0)
    names = ("tome", "truncation") if name in ENCODERS else ()
    rivals: dict[str, Any] = {name: build_rival(reduced, name) for name in names}
    fused = {name: model.fuse() for name, model in rivals.items()}
    contestants = {"off": unreduced.fuse(), "FATR": reduced, "FATR, fused": reduced.fuse(), **fused}
    for model in (stock, *contestants.values()):
        model(**inputs)
    ratios: dict[str, list[float]] = {key: [] for key in contestants}
    for _ in range(arguments.rounds):
        own = seconds(stock, inputs)
        for key, model in contestants.items():
            ratios[key].append(own / seconds(model, inputs))
    config = getattr(reduced.config, "tower", reduced.config)
    share = schedule_macs(config) / schedule_macs(with_keep_ratio(config, 1.0))
    plan = config.plan()
    cells = [f"{median(values):.2f}" for values in ratios.values()] + ["–"] * (2 - len(names))
    return f"| {name} | {plan[0].tokens_in} to {plan[-1].tokens_out} | {share:.2f} | {' | '.join(cells)} |"


def inputs_of(model: PreTrainedModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keyword arguments of a forward pass; OWL looks for two things in every image."""
    inputs = {model.main_input_name if model.main_input_name != "input_ids" else "pixel_values": pixel_values}
    if isinstance(model, Owlv2ForObjectDetection):
        inputs["input_ids"] = torch.ones(2 * len(pixel_values), 16, dtype=torch.int64, device=pixel_values.device)
    return inputs


def main() -> None:
    """Prints the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description="Speed of the families at the shapes of well-known checkpoints.")
    parser.add_argument("--tasks", action="store_true", help="whole models of other tasks, not image encoders")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
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
    for name in arguments.shapes or (TASKS if arguments.tasks else ENCODERS):
        print(measure(name, arguments), flush=True)


if __name__ == "__main__":
    run_program(main)
