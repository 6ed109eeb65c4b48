"""Videos: what token reduction does to a small VideoMAE that tells in which direction an item moves.

    python examples/moving_items.py path/to/fashion-mnist outputs/videos --size short      # 40 minutes on one core
    python examples/moving_items.py path/to/fashion-mnist outputs/videos --size evening    # four hours on two cores
    python examples/moving_items.py path/to/fashion-mnist outputs/videos --size full       # a large GPU

The clips are those of ``clips.py``: no single frame tells the class. An unreduced VideoMAE is trained from scratch, on
new clips in every step. Every arm of ``task_arms.py`` then runs with its weights on the same test clips, of other items
and photographs. With ``--finetune_steps`` every arm, "no reduction" too, is trained on from there with its plan and the
same clips, and judged again.

Training goes on from its last checkpoint, and every arm is recorded as soon as it ends: the same command goes on where
an earlier one stopped, with other ``--budgets`` and ``--finetune_steps`` too. ``results.md`` holds the table.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from clips import DIRECTIONS, Clips
from numpy.typing import NDArray
from scenes import Sources, read_sources
from task_arms import plans_of
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, VideoMAEImageProcessor, set_seed
from transformers.utils import logging

from fatr_hf import FATRVideoMAEConfig, FATRVideoMAEForVideoClassification
from fatr_hf.analysis import plot_kept, save_figure, save_video, trace_video
from fatr_hf.analysis.animation import FORMATS as ANIMATION_FORMATS
from fatr_hf.analysis.animation import check_picture_file
from fatr_hf.baselines.macs import plan_macs
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark import choose_device
from fatr_hf.modeling import LayerPlan, schedule_macs
from fatr_hf.modeling.reduction_config import UNREDUCED
from fatr_hf.programs import run_program
from fatr_hf.training.run_folder import claim_run_folder, last_checkpoint, write_folder, write_json

DRAWS = 2000
"""Of the bootstrap."""

CHECKPOINTS = 60
"""Of the training from scratch."""

PICTURED = "FATR, `faithful`"
"""The arm whose kept tokens ``--picture`` shows."""


@dataclass(frozen=True)
class Size:
    """Clips, model and steps.

    Attributes:
        frames: of a clip; two of them are in a tubelet.
        side: of a frame, in pixels.
        patch_size: side of a tubelet, in pixels.
        hidden_size, heads, layers: of the VideoMAE.
        steps, learning_rate: of the training from scratch.
        finetune_steps, finetune_learning_rate: of the training of each arm; 0 steps leave it out.
        batch_size: clips of a step.
        test_clips: on which each arm is judged.
    """

    frames: int
    side: int
    patch_size: int
    hidden_size: int
    heads: int
    layers: int
    steps: int
    learning_rate: float
    finetune_steps: int
    finetune_learning_rate: float
    batch_size: int
    test_clips: int


SIZES = {
    "short": Size(8, 64, 8, 64, 2, 8, 3000, 2e-3, 0, 2e-4, 32, 1000),
    "evening": Size(8, 64, 8, 96, 3, 12, 8000, 1.5e-3, 300, 2e-4, 32, 2000),
    "full": Size(16, 112, 8, 384, 6, 12, 20000, 5e-4, 1000, 5e-5, 64, 4000),
}
"""``short`` is meant for 40 minutes on one core, ``evening`` for four hours on two, and ``full`` wants a large GPU."""


class Arm(NamedTuple):
    """What became of the test clips by one plan."""

    macs: float
    """As a share of the unreduced model's."""
    predictions: NDArray[np.int64]
    """(clips,)."""
    tuned: NDArray[np.int64] | None
    """The same after the arm's training; None where there was none."""


def main() -> None:
    """Reads the command line, trains the model, judges the arms and prints the table."""
    logging.disable_progress_bar()
    arguments, size = read_arguments()
    sources = read_sources(arguments.items)
    study = Study(arguments.output, size, sources, arguments.seed)
    model = study.base()
    plans = plans_of(unreduced_copy(model), arguments.budgets)
    if arguments.picture is not None:
        study.draw(model, plans[arguments.budgets[0], PICTURED], arguments.picture)
    arms = {name: study.arm(model, name, plan) for name, plan in plans.items()}
    text = table(arms, study.labels())
    (arguments.output / "results.md").write_text(text + "\n")
    print(text)


def read_arguments() -> tuple[argparse.Namespace, Size]:
    """The command line, and the size with what was given beside it."""
    parser = argparse.ArgumentParser(description="Token reduction in a VideoMAE that is trained here.")
    parser.add_argument("items", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("output", type=Path, help="folder of the run")
    parser.add_argument("--size", choices=SIZES, default="short", help="how large all is; further options replace its")
    for each in fields(Size):
        parser.add_argument(f"--{each.name}", type=type(getattr(SIZES["short"], each.name)), help="replaces the size's")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.65, 0.5], help="shares of the whole cost")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and clips")
    parser.add_argument("--picture", type=Path, help=f"picture or .gif of what {PICTURED} keeps of a test clip")
    arguments = parser.parse_args()
    given = {each.name: getattr(arguments, each.name) for each in fields(Size)}
    size = replace(SIZES[arguments.size], **{name: value for name, value in given.items() if value is not None})
    for name, value in asdict(size).items():
        if value <= 0 and name != "finetune_steps":
            parser.error(f"--{name} {value} must be above 0.")
    if size.frames % 2 or size.side % size.patch_size:
        parser.error(
            f"--frames {size.frames} must be even, and --side {size.side} a multiple of --patch_size {size.patch_size}."
        )
    if size.hidden_size % size.heads:
        parser.error(f"--hidden_size {size.hidden_size} must be a multiple of --heads {size.heads}.")
    for name, value in (("finetune_steps", size.finetune_steps), ("seed", arguments.seed)):
        if value < 0:
            parser.error(f"--{name} {value} must not be negative.")
    for budget in arguments.budgets:
        if not 0 < budget < 1:
            parser.error(f"--budgets {budget} must lie between 0 and 1.")
    if arguments.picture is not None:
        check_picture_file(arguments.picture)
    return arguments, size


class PlanTrainer(Trainer):
    """A Trainer whose model follows a plan.

    Args:
        plan: what every layer does.
    """

    def __init__(self, *args: Any, plan: Sequence[LayerPlan], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.plan = plan

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, {**inputs, "plan": self.plan}, *args, **kwargs)


class Study:
    """The steps of a run, which write under one folder.

    ``run.json`` holds the arguments, ``base/`` the unreduced model, ``arms/`` the predictions of every arm.

    Args:
        folder: new, empty or of the same run.
        size: how large all is.
        sources: of the splits ``train`` and ``test``.
        seed: of the weights and clips.
    """

    def __init__(self, folder: Path, size: Size, sources: Mapping[str, Sources], seed: int):
        record = {name: value for name, value in asdict(size).items() if name != "finetune_steps"} | {"seed": seed}
        claim_run_folder(folder, record, resume=True)
        self.folder = folder
        self.size = size
        self.seed = seed
        self.device = choose_device(None)
        clips = {"frames": size.frames, "side": size.side}
        self.train = Clips(sources["train"], size.steps * size.batch_size, **clips, seed=3 * seed)
        self.tune = Clips(sources["train"], size.finetune_steps * size.batch_size, **clips, seed=3 * seed + 1)
        self.test = Clips(sources["test"], size.test_clips, **clips, seed=3 * seed + 2)

    def base(self) -> FATRVideoMAEForVideoClassification:
        """The unreduced model, on the device; trained where the folder does not hold it yet."""
        folder = self.folder / "base"
        if not (folder / "config.json").exists():
            set_seed(self.seed)
            model = FATRVideoMAEForVideoClassification(base_config(self.size))
            trainer = self.trainer(model, self.train, model.config.plan(), self.size.steps, self.size.learning_rate)
            trainer.train(resume_from_checkpoint=last_checkpoint(self.folder / "trainer"))
            write_folder(folder, lambda path: save_base(model, base_processor(self.size), path))
        loaded: Any = FATRVideoMAEForVideoClassification.from_pretrained(folder)
        return loaded.to(self.device).eval()

    def trainer(
        self, model: Any, clips: Clips, plan: Sequence[LayerPlan], steps: int, learning_rate: float, saves: bool = True
    ) -> PlanTrainer:
        """A trainer for so many steps, each on clips that come only once."""
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=self.size.batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.05,
            save_strategy="steps" if saves else "no",
            save_steps=max(1, steps // CHECKPOINTS),
            save_total_limit=1,
            bf16=self.device.type == "cuda",
            use_cpu=self.device.type == "cpu",
            dataloader_num_workers=0 if self.device.type == "cpu" else 8,
            dataloader_pin_memory=self.device.type == "cuda",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
            seed=self.seed,
        )
        return PlanTrainer(model, arguments, train_dataset=clips, plan=plan)

    def arm(self, model: FATRVideoMAEForVideoClassification, name: tuple[float, str], plan: Sequence[LayerPlan]) -> Arm:
        """Predictions by a plan, before and after its training, from the folder where they are recorded."""
        label = f"{name[1].replace('`', '')} at {name[0]:g}"
        steps = self.size.finetune_steps
        before = self.record(f"{label}.json", lambda: self.predict(model, plan))
        tuned = None
        if steps:
            tuned = self.record(f"{label}, {steps} steps.json", lambda: self.predict(self.tuned(plan), plan))
        return Arm(plan_macs(model, plan) / schedule_macs(model.config), before, tuned)

    def tuned(self, plan: Sequence[LayerPlan]) -> FATRVideoMAEForVideoClassification:
        """The base, trained on with a plan."""
        set_seed(self.seed)
        model = self.base()
        rate = self.size.finetune_learning_rate
        self.trainer(model, self.tune, plan, self.size.finetune_steps, rate, saves=False).train()
        return model.eval()

    @torch.inference_mode()
    def predict(self, model: FATRVideoMAEForVideoClassification, plan: Sequence[LayerPlan]) -> list[int]:
        """The class that a model gives each test clip, by a plan."""
        workers = 0 if self.device.type == "cpu" else 8
        found = []
        for batch in DataLoader(self.test, batch_size=self.size.batch_size, num_workers=workers):
            found += model(batch["pixel_values"].to(self.device), plan=plan).logits.argmax(dim=1).tolist()
        return found

    def labels(self) -> NDArray[np.int64]:
        """The class of each test clip."""
        return self.record("labels.json", lambda: [self.test[index]["labels"] for index in range(len(self.test))])

    def record(self, name: str, run: Callable[[], list[int]]) -> NDArray[np.int64]:
        """The classes of the test clips that a file holds; what ``run`` gives where there is no file yet."""
        path = self.folder / "arms" / name
        if not path.exists():
            classes = run()
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"classes": classes})
            print(f"{path.stem} is recorded", flush=True)
        return np.array(json.loads(path.read_text())["classes"])

    def draw(self, model: FATRVideoMAEForVideoClassification, plan: Sequence[LayerPlan], path: Path) -> None:
        """Writes a picture or an animation of the first test clip: what a plan leaves of it after every reduction."""
        clip = self.test[0]
        name = list(DIRECTIONS)[clip["labels"]]
        trace = trace_video(model, clip["pixel_values"], base_processor(self.size), name, plan)
        if path.suffix in ANIMATION_FORMATS:
            save_video(trace, path)
        else:
            save_figure(plot_kept(trace), path)


def base_config(size: Size) -> FATRVideoMAEConfig:
    """Of the unreduced model."""
    config: FATRVideoMAEConfig = FATRVideoMAEConfig.from_dict(
        {
            "num_frames": size.frames,
            "tubelet_size": 2,
            "image_size": size.side,
            "patch_size": size.patch_size,
            "hidden_size": size.hidden_size,
            "num_attention_heads": size.heads,
            "num_hidden_layers": size.layers,
            "intermediate_size": 4 * size.hidden_size,
            "initializer_range": size.hidden_size**-0.5,  # with 0.02 a narrow model learns nothing for long
            "id2label": dict(enumerate(DIRECTIONS)),
            **UNREDUCED,
        }
    )
    return config


def save_base(model: FATRVideoMAEForVideoClassification, processor: VideoMAEImageProcessor, folder: Path) -> None:
    """Writes the model and what makes its pixel values."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def base_processor(size: Size) -> VideoMAEImageProcessor:
    """Makes of frames what ``Clips`` makes of them."""
    sides = {"height": size.side, "width": size.side}
    half = [0.5, 0.5, 0.5]
    return VideoMAEImageProcessor(size=sides, crop_size=sides, image_mean=half, image_std=half)


def table(arms: Mapping[tuple[float, str], Arm], labels: NDArray[np.int64]) -> str:
    """A Markdown table; differences and changed predictions are to the first arm, which does not reduce."""
    reference = next(iter(arms.values()))
    columns = ["accuracy, %", "to no reduction", "unchanged predictions, %"]
    heads = ["budget", "method", "multiply-accumulates", *columns]
    if reference.tuned is not None:
        heads += ["fine-tuned: accuracy, %", *columns[1:]]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (budget, name), arm in arms.items():
        cells = [f"{budget:g}", name, f"{arm.macs:.2f}", *answers(arm.predictions, reference.predictions, labels)]
        if arm.tuned is not None and reference.tuned is not None:
            cells += answers(arm.tuned, reference.tuned, labels)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def answers(predictions: NDArray[np.int64], reference: NDArray[np.int64], labels: NDArray[np.int64]) -> list[str]:
    """Accuracy, its difference to the reference's, and the share of equal predictions; (clips,) each."""
    unchanged = 100 * np.mean(predictions == reference)
    accuracy = 100 * np.mean(predictions == labels)
    return [f"{accuracy:.1f}", difference(predictions == labels, reference == labels), f"{unchanged:.1f}"]


def difference(right: NDArray[np.bool_], reference: NDArray[np.bool_]) -> str:
    """The difference of two accuracies on the same clips in points, and its 95% interval, a bootstrap over clips."""
    gains = 100 * (right.astype(float) - reference)
    generator = np.random.default_rng(0)
    draws = generator.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=DRAWS)
    low, high = np.percentile(draws @ gains / len(gains), [2.5, 97.5])
    return f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    run_program(main)
