"""Detection without training the encoder: a head reads a class and a box off every patch, as OWL-ViT's do.

    pip install pycocotools
    python examples/patch_detection.py outputs/dinov2 path/to/fashion-mnist

The head, a layer of 256 units and one of outputs, is fitted to the unreduced patches of training scenes (``scenes.py``)
and then reads what each method of ``task_arms.py`` gives of the test scenes on the full grid, with residuals. With
``--own_heads`` every method also has a head that is fitted to what it gives of the training scenes. Average precision
is pycocotools'.
"""

import argparse
import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scenes import Scene, draw_scenes, read_sources
from segmentation import BATCH, patch_features
from task_arms import plans_of
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, generalized_box_iou_loss
from transformers import BaseImageProcessor

from fatr_hf.baselines.macs import plan_macs
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark import choose_device
from fatr_hf.hub.load import check_has_processor, load_reduced
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.reduction_config import as_pair
from fatr_hf.programs import run_program

WIDTH = 256
"""Units of the head's hidden layer."""

STEPS, PATCHES, RATE = 3000, 2048, 1e-3
"""Of the head's training: steps, patches of a step and the learning rate, which falls to 0."""

MOST = 100
"""Boxes of an image."""

OVERLAP = 0.5
"""Intersection over union from which on the weaker of two boxes of a class goes."""

DRAWS = 200

NOTHING = -1
"""Label of a patch whose middle belongs to no object."""

Arm = tuple[float, str]
"""Budget and name."""


class Targets(NamedTuple):
    """What a head is to give for patches."""

    labels: Tensor
    """(scenes, patches) int64."""
    boxes: Tensor
    """(scenes, patches, 4): left, top, right and bottom in pixels; anything where there is no object."""


class Found(NamedTuple):
    """The boxes of an image, strongest first."""

    boxes: Tensor
    """(boxes, 4): left, top, right and bottom in pixels."""
    scores: Tensor
    """(boxes,) in [0, 1]."""
    labels: Tensor
    """(boxes,) int64."""


def main() -> None:
    """Reads the command line, fits the head, judges the arms and prints the table."""
    parser = argparse.ArgumentParser(description="Detection by a head on the patches of reduced encoders.")
    parser.add_argument("model", help="folder or Hub name of a model of one of the families")
    parser.add_argument("items", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.65, 0.5], help="shares of the whole cost")
    parser.add_argument("--train_scenes", type=int, default=800, help="scenes that the head is fitted to")
    parser.add_argument("--test_scenes", type=int, default=200, help="scenes that it is tested on")
    parser.add_argument("--seed", type=int, default=0, help="of the training scenes; test scenes have the next one")
    parser.add_argument("--own_heads", action="store_true", help="also fit a head to each method's own patches")
    arguments = parser.parse_args()
    for name in ("train_scenes", "test_scenes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)} must be at least 1.")
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed} must not be negative.")
    for budget in arguments.budgets:
        if not 0 < budget < 1:
            parser.error(f"--budgets {budget} must lie between 0 and 1.")
    read_pycocotools()
    sources = read_sources(arguments.items)
    model, processor = load_reduced(arguments.model, device=choose_device(None))
    twin, processor = unreduced_copy(model), check_has_processor(processor)
    side = as_pair("image_size", twin.config.image_size)[0]
    train = draw_scenes(sources["train"], arguments.train_scenes, side, arguments.seed)
    test = draw_scenes(sources["test"], arguments.test_scenes, side, arguments.seed + 1)
    grid = tuple(twin.config.patch_grid())
    plans = plans_of(twin, arguments.budgets)
    targets = patch_targets(train, grid)
    shares = {arm: plan_macs(twin, plan) / schedule_macs(twin.config) for arm, plan in plans.items()}
    shared, own = {}, {}
    head: Head | None = None
    for arm, plan in plans.items():
        patches = read_patches(twin, processor, test, plan)
        own_head = head
        if head is None or arguments.own_heads:
            own_head = fit_head(read_patches(twin, processor, train, plan), targets, grid, side, arguments.seed)
        assert own_head is not None
        head = head or own_head  # the first arm does not reduce
        shared[arm] = evaluate(test, detect(head, patches, grid, side))
        own[arm] = evaluate(test, detect(own_head, patches, grid, side))
        print(f"{arm[1]} at {arm[0]:g}: AP {precision(shared[arm])[0]:.1f}%", flush=True)
    print(table(shared, shares))
    if arguments.own_heads:
        print("\nWith a head of its own for every method:\n")
        print(table(own, shares))


@torch.inference_mode()
def read_patches(
    twin: Any, processor: BaseImageProcessor, scenes: Sequence[Scene], plan: Sequence[LayerPlan]
) -> Tensor:
    """What a plan gives of scenes on the full grid, (scenes, patches, hidden) float32 on the CPU."""
    patches = []
    for start in range(0, len(scenes), BATCH):
        pictures = [scene.picture for scene in scenes[start : start + BATCH]]
        inputs = processor(pictures, do_resize=False, do_center_crop=False, return_tensors="pt")
        pixel_values = inputs["pixel_values"].to(twin.device, twin.dtype)
        patches.append(patch_features(twin, pixel_values, plan)[1].float().cpu())
    return torch.cat(patches)


def centres(grid: Sequence[int], side: int) -> Tensor:
    """Column and row of the middle of every patch in pixels, (patches, 2)."""
    rows, columns = ((torch.arange(length) + 0.5) * side / length for length in grid)
    return torch.cartesian_prod(rows, columns).flip(1)


def patch_targets(scenes: Sequence[Scene], grid: Sequence[int]) -> Targets:
    """What the head is to give for the patches of scenes: the object that each patch's middle belongs to."""
    labels, boxes = [], []
    for scene in scenes:
        columns, rows = centres(grid, len(scene.mask)).long().unbind(1)
        owners = torch.from_numpy(scene.owner)[rows, columns].long()
        labels.append(torch.tensor([NOTHING, *(each.label for each in scene.objects)])[owners])
        boxes.append(torch.tensor([(0, 0, 0, 0), *(each.box for each in scene.objects)])[owners])
    return Targets(torch.stack(labels), torch.stack(boxes).float())


class Head(nn.Module):
    """Reads a class and a box off patches.

    Args:
        features: (scenes, patches, hidden) that it will be fitted to.
        classes: kinds of objects.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor, classes: int):
        super().__init__()
        self.register_buffer("mean", features.mean(dim=(0, 1)))
        self.register_buffer("deviation", features.std(dim=(0, 1)).clamp(min=1e-6))
        self.layers = nn.Sequential(nn.Linear(features.shape[2], WIDTH), nn.GELU(), nn.Linear(WIDTH, classes + 1 + 4))

    def forward(self, features: Tensor, middles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Class logits (..., classes + 1), no object last, and boxes (..., 4) in pixels, around the patches' middles.

        Args:
            features: (..., hidden).
            middles: (..., 2), see ``centres``.
            side: of the picture in pixels.
        """
        outputs = self.layers((features - self.mean) / self.deviation)
        reach = side * outputs[..., -4:].sigmoid()  # to the left, the top, the right and the bottom
        return outputs[..., :-4], torch.cat([middles - reach[..., :2], middles + reach[..., 2:]], dim=-1)


def fit_head(features: Tensor, targets: Targets, grid: Sequence[int], side: int, seed: int) -> Head:
    """A head trained by cross-entropy of all patches and by the generalised IoU of those of objects."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    classes = int(targets.labels.max()) + 1
    head = Head(features, classes)
    labels, boxes = targets.labels.where(targets.labels >= 0, classes).flatten(), targets.boxes.flatten(0, 1)
    flat, middles = features.flatten(0, 1), centres(grid, side).repeat(len(features), 1)
    optimizer = torch.optim.AdamW(head.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(flat), (PATCHES,), generator=generator)
        logits, found = head(flat[chosen], middles[chosen], side)
        loss = functional.cross_entropy(logits, labels[chosen])
        inside = labels[chosen] < classes
        if inside.any():
            loss = loss + generalized_box_iou_loss(found[inside], boxes[chosen][inside], reduction="mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.requires_grad_(False)


@torch.inference_mode()
def detect(head: Head, features: Tensor, grid: Sequence[int], side: int) -> list[Found]:
    """The boxes of every picture of (batch, patches, hidden): of those of a class that overlap, the strongest."""
    results = []
    for logits, boxes in zip(*head(features, centres(grid, side), side), strict=True):
        scores, labels = logits.softmax(dim=1)[:, :-1].max(dim=1)
        boxes = boxes.clamp(0, side)
        kept = batched_nms(boxes, scores, labels, OVERLAP)[:MOST]
        results.append(Found(boxes[kept], scores[kept], labels[kept]))
    return results


def read_pycocotools() -> tuple[Any, Any]:
    """The classes ``COCO`` and ``COCOeval``.

    Raises:
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("Average precision needs pycocotools: pip install pycocotools.") from error
    return COCO, COCOeval


def evaluate(scenes: Sequence[Scene], found: Sequence[Found]) -> Any:
    """``COCOeval`` of boxes and the objects of scenes, of all sizes, with at most ``MOST`` boxes of a scene."""
    coco, coco_eval = read_pycocotools()
    truth, objects = coco(), []
    for image, scene in enumerate(scenes, start=1):
        for label, (left, top, right, bottom) in scene.objects:
            box = [left, top, right - left, bottom - top]
            objects.append(
                {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    labels = sorted({each.label for scene in scenes for each in scene.objects})
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(scenes) + 1)],
        "categories": [{"id": label} for label in labels],
        "annotations": [{**each, "id": number} for number, each in enumerate(objects, start=1)],
    }
    answers = [
        {"image_id": image, "category_id": label, "bbox": [left, top, right - left, bottom - top], "score": score}
        for image, each in enumerate(found, start=1)
        for (left, top, right, bottom), score, label in zip(*(part.tolist() for part in each), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        matching = coco_eval(truth, truth.loadRes(answers), "bbox")
        matching.params.areaRng, matching.params.areaRngLbl = [[0, 1e10]], ["all"]
        matching.params.maxDets = [MOST]
        matching.evaluate()
    return matching


def precision(matching: Any, drawn: Sequence[int] | None = None) -> tuple[float, float]:
    """Average precision in %: the mean over IoU 0.5 to 0.95, and that at 0.5.

    Args:
        drawn: places of the scenes that count, a place as often as it is there; by default all once.
    """
    chosen, images = copy.copy(matching), len(matching.params.imgIds)
    if drawn is not None:
        starts = range(0, len(matching.evalImgs), images)
        chosen.evalImgs = [matching.evalImgs[start + place] for start in starts for place in drawn]
    with contextlib.redirect_stdout(io.StringIO()):
        chosen.accumulate()
    values = chosen.eval["precision"][:, :, :, 0, 0]  # (IoU, recall, class); -1 where a class has no object
    means = [100 * float(each[each > -1].mean()) if (each > -1).any() else 0.0 for each in (values, values[0])]
    return means[0], means[1]


def difference(matching: Any, other: Any) -> str:
    """The difference of two arms' average precision and its 95% interval, a bootstrap over the scenes."""
    generator, images = np.random.default_rng(0), len(matching.params.imgIds)
    gains = []
    for _ in range(DRAWS):
        drawn = generator.integers(images, size=images).tolist()
        gains.append(precision(matching, drawn)[0] - precision(other, drawn)[0])
    low, high = np.percentile(gains, [2.5, 97.5])
    return f"{precision(matching)[0] - precision(other)[0]:+.1f} ({low:+.1f} to {high:+.1f})"


def table(arms: Mapping[Arm, Any], shares: Mapping[Arm, float]) -> str:
    """A Markdown table; differences are to the first arm, which does not reduce."""
    lines = [
        "| budget | method | multiply-accumulates | AP, % | to no reduction | AP50, % |",
        "|---|---|---|---|---|---|",
    ]
    reference = next(iter(arms.values()))
    for (budget, name), matching in arms.items():
        mean, at_half = precision(matching)
        cells = [f"{budget:g}", name, f"{shares[budget, name]:.2f}", f"{mean:.1f}"]
        cells += ["–" if matching is reference else difference(matching, reference), f"{at_half:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
