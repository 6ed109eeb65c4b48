"""Segmentation without training: a linear head on an unreduced encoder's patches reads those of reduced ones.

    python examples/segmentation.py outputs/dinov2 path/to/fashion-mnist

Scenes of ``scenes.py`` have 11 classes: ten kinds of clothes and the photograph behind them. The head is fitted to the
unreduced model's features of the training scenes, and then reads what each method gives of the test scenes, on the
full grid: every patch with the token that stands for it, and with its residual added, as ``dense_outputs`` does.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scenes import Scene, draw_scenes, read_sources
from task_arms import plans_of
from torch import Tensor, nn
from torch.nn import functional
from transformers import BaseImageProcessor

from fatr_hf.baselines.macs import plan_macs
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark import choose_device
from fatr_hf.hub.load import check_has_processor, load_reduced
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.encoder import run_layers
from fatr_hf.modeling.reduction_config import as_pair
from fatr_hf.modeling.token_reduction import dense_sequence
from fatr_hf.programs import run_program

Confusions = NDArray[np.int64]
"""(scenes, classes, classes): pixels by their class and the one that was predicted."""

BATCH = 8
DRAWS = 2000


class Answers(NamedTuple):
    """What became of the test scenes by one plan."""

    restored: Confusions
    """Every patch has the token that stands for it."""
    dense: Confusions
    """Every patch has its residual, too."""


def main() -> None:
    """Reads the command line, fits the head, judges the arms and prints the table."""
    parser = argparse.ArgumentParser(description="Segmentation by a linear head on reduced encoders.")
    parser.add_argument("model", help="folder or Hub name of a model of one of the families")
    parser.add_argument("items", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.65, 0.5], help="shares of the whole cost")
    parser.add_argument("--train_scenes", type=int, default=400, help="scenes that the head is fitted to")
    parser.add_argument("--test_scenes", type=int, default=200, help="scenes that it is tested on")
    parser.add_argument("--decay", type=float, default=1e-3, help="weight of the head's squared norm")
    parser.add_argument("--seed", type=int, default=0, help="of the training scenes; test scenes have the next one")
    arguments = parser.parse_args()
    for name in ("train_scenes", "test_scenes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)} must be at least 1.")
    for name in ("decay", "seed"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name} {getattr(arguments, name)} must not be negative.")
    for budget in arguments.budgets:
        if not 0 < budget < 1:
            parser.error(f"--budgets {budget} must lie between 0 and 1.")
    sources = read_sources(arguments.items)
    model, found = load_reduced(arguments.model, device=choose_device(None))
    processor, twin = check_has_processor(found), unreduced_copy(model)
    side = as_pair("image_size", twin.config.image_size)[0]
    train = draw_scenes(sources["train"], arguments.train_scenes, side, arguments.seed)
    test = draw_scenes(sources["test"], arguments.test_scenes, side, arguments.seed + 1)
    classes = 2 + max(sources["train"].items["label"])
    head = fit_head(*read_patches(twin, processor, train, classes), arguments.decay)
    plans = plans_of(twin, arguments.budgets)
    answers = judge(twin, processor, head, test, plans)
    print(table(answers, {name: plan_macs(twin, plan) / schedule_macs(twin.config) for name, plan in plans.items()}))


def batches(twin: Any, processor: BaseImageProcessor, scenes: Sequence[Scene]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixel values (batch, 3, side, side), of pictures as large as they are, and masks (batch, side, side) int64."""
    for start in range(0, len(scenes), BATCH):
        chosen = scenes[start : start + BATCH]
        pictures = [scene.picture for scene in chosen]
        inputs = processor(pictures, do_resize=False, do_center_crop=False, return_tensors="pt")
        masks = torch.from_numpy(np.stack([scene.mask for scene in chosen])).long()
        yield inputs["pixel_values"].to(twin.device, twin.dtype), masks.to(twin.device)


@torch.inference_mode()
def patch_features(twin: Any, pixel_values: Tensor, plan: Sequence[LayerPlan]) -> tuple[Tensor, Tensor]:
    """The normed patches on the full grid, without and with their residuals, (batch, patches, hidden) each.

    One pass gives both: ``restore_tokens`` of the last hidden state, and what ``dense_outputs`` gives.
    """
    encoder = twin.base_model
    hidden_states, layout, positions = encoder.start(pixel_values)
    encoded = run_layers(encoder.layers, hidden_states, layout, plan, positions, dense_stages=[len(plan)])
    restored = dense_sequence(encoded.hidden_states, encoded.layout._replace(residual=None))
    prefix = twin.config.num_prefix_tokens
    return encoder.normed(restored)[:, prefix:], encoder.normed(encoded.dense[-1])[:, prefix:]


def read_patches(
    twin: Any, processor: BaseImageProcessor, scenes: Sequence[Scene], classes: int
) -> tuple[Tensor, Tensor]:
    """Unreduced patches (patches, hidden), and the share of each class in their pixels (patches, classes)."""
    rows, columns = twin.config.patch_grid()
    features, shares = [], []
    for pixel_values, masks in batches(twin, processor, scenes):
        features.append(patch_features(twin, pixel_values, twin.config.plan(reduce=False))[1].flatten(0, 1))
        pixels = functional.one_hot(masks, classes).movedim(3, 1).float()
        shares.append(functional.adaptive_avg_pool2d(pixels, (rows, columns)).flatten(2).transpose(1, 2).flatten(0, 1))
    return torch.cat(features).float(), torch.cat(shares)


def fit_head(features: Tensor, shares: Tensor, decay: float) -> nn.Linear:
    """The linear head that is best by cross-entropy on standardised features, found by L-BFGS.

    Args:
        features: (patches, hidden).
        shares: (patches, classes), rows sum to 1.
        decay: weight of the squared norm of the weights, in the units of standardised features.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    scaled = (features - mean) / deviation
    head = nn.Linear(features.shape[1], shares.shape[1], device=features.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(head(scaled), shares) + decay * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.div_(deviation)
        head.bias.sub_(head.weight @ mean)
    return head.requires_grad_(False)


def judge(
    twin: Any,
    processor: BaseImageProcessor,
    head: nn.Linear,
    scenes: Sequence[Scene],
    plans: Mapping[tuple[float, str], Sequence[LayerPlan]],
) -> dict[tuple[float, str], Answers]:
    """The answers of every plan to the same scenes."""
    found: dict[tuple[float, str], tuple[list[Confusions], list[Confusions]]] = {name: ([], []) for name in plans}
    for pixel_values, masks in batches(twin, processor, scenes):
        for name, plan in plans.items():
            for features, kept in zip(patch_features(twin, pixel_values, plan), found[name], strict=True):
                kept.append(confusions(head(features.float()), masks, twin.config.patch_grid()))
    return {name: Answers(*map(np.concatenate, each)) for name, each in found.items()}


def confusions(logits: Tensor, masks: Tensor, grid: Sequence[int]) -> Confusions:
    """What patches (batch, patches, classes) on a grid make of masks (batch, height, width), magnified bilinearly."""
    classes = logits.shape[2]
    maps = logits.transpose(1, 2).unflatten(2, tuple(grid))
    predicted = functional.interpolate(maps, masks.shape[1:], mode="bilinear", align_corners=False).argmax(dim=1)
    pairs = (classes * masks + predicted).flatten(1)
    counted = torch.stack([torch.bincount(each, minlength=classes**2) for each in pairs])
    return counted.unflatten(1, (classes, classes)).cpu().numpy()


def mean_iou(counts: NDArray[Any]) -> NDArray[np.float64]:
    """In %, of confusions (..., classes, classes): the mean over the classes that are there or were predicted."""
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts.sum(axis=-2) - both
    occurs = either > 0
    shares = np.divide(both, either, out=np.zeros(both.shape), where=occurs)
    return np.asarray(100 * shares.sum(axis=-1) / occurs.sum(axis=-1))


def difference(arm: Confusions, other: Confusions) -> str:
    """The difference of two arms' mean IoU and its 95% interval, a bootstrap over the scenes."""
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(arm), np.full(len(arm), 1 / len(arm)), size=DRAWS)
    drawn = [mean_iou(np.tensordot(draws, each, axes=1)) for each in (arm, other)]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return f"{mean_iou(arm.sum(axis=0)) - mean_iou(other.sum(axis=0)):+.1f} ({low:+.1f} to {high:+.1f})"


def accuracy(counts: Confusions) -> float:
    """The share of pixels whose class is the predicted one, in %."""
    return float(100 * np.diagonal(counts, axis1=1, axis2=2).sum() / counts.sum())


def table(answers: Mapping[tuple[float, str], Answers], macs: Mapping[tuple[float, str], float]) -> str:
    """A Markdown table; differences are to the first arm, which does not reduce."""
    heads = ["budget", "method", "multiply-accumulates", "mIoU, %", "to no reduction", "pixels, %"]
    heads += ["without residual: mIoU, %", "to no reduction", "pixels, %", "what the residual adds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    reference = next(iter(answers.values())).dense
    for (budget, name), (restored, dense) in answers.items():
        cells = [f"{budget:g}", name, f"{macs[budget, name]:.2f}"]
        for found in (dense, restored):
            cells += [f"{mean_iou(found.sum(axis=0)):.1f}", difference(found, reference), f"{accuracy(found):.1f}"]
        lines.append("| " + " | ".join([*cells, difference(dense, restored)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
