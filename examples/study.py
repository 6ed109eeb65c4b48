"""Where FATR stands: the unreduced model, FATR, its ablations and its rivals at equal cost, over several seeds.

    python examples/study.py                                          # scikit-learn's digits
    python examples/study.py --dataset path/to/fashion-mnist          # idx files; sized by the device
    python examples/study.py --dataset path/to/fashion-mnist --size full

Unreduced ViTs are trained from scratch; every arm starts from them and is fine-tuned with the same images, epochs and
loss (cross-entropy and distillation from the unreduced model), "no reduction" too. Every run is recorded as soon as it
ends, and the same command goes on where an earlier one stopped. ``results.md`` holds the tables.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from study_arguments import Size, StudyArguments
from study_arms import Arm, off_the_shelf_arms, tuned_arms, unreduced_arm
from study_background import background_rows
from study_budgets import ELASTIC_RANGE, budget_rows
from study_data import TensorImages, load_tensors
from study_patches import with_coarse_patches, with_halved_patches
from study_report import write_report
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)
from transformers.utils import logging

from fatr_hf import FATRViTForImageClassification
from fatr_hf.benchmark import choose_device, compare_throughput, describe_machine
from fatr_hf.benchmark.contestants import TRAINED_PARAMETERS, draw_trained_parameters
from fatr_hf.programs import run_program
from fatr_hf.training.data import load_image_data
from fatr_hf.training.keep_ratio_callbacks import ElasticKeepRatio
from fatr_hf.training.run_folder import check_run_folder, claim_run_folder, write_folder, write_json
from fatr_hf.training.trainer import FATRTrainer


def main() -> None:
    """Runs what is not recorded yet, then writes the tables."""
    # Every run loads models whose own parameters are new, which transformers would report at length.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parser = HfArgumentParser(StudyArguments)  # type: ignore[arg-type]
    (arguments,) = parser.parse_args_into_dataclasses(sys.argv[1:])
    study = Study(arguments)
    study.train_bases()
    study.test_off_the_shelf()
    study.look_at_the_background()
    study.fine_tune()
    study.spread_over_budgets()
    study.measure_speed()
    print(write_report(study.folder))


class Run(NamedTuple):
    """One fine-tuning: an arm, the keep ratio whose cost it has, and a seed."""

    arm: Arm
    keep_ratio: float | None
    seed: int

    @property
    def label(self) -> str:
        return self.arm.name if self.keep_ratio is None else f"{self.arm.name} at {self.keep_ratio:g}"

    @property
    def file(self) -> str:
        return f"{self.label}, seed {self.seed}.json"

    def file_of_base(self, bases: int) -> str:
        """Of the arm before any fine-tuning, which seeds of the same base share."""
        return f"{self.label}, base {self.seed % bases}.json"


class Study:
    """The steps of a study, which write under one folder.

    ``run.json`` holds the arguments, ``base-0/`` and so on the unreduced models, ``runs/`` a record for each run.
    """

    def __init__(self, arguments: StudyArguments):
        self.size: Size = arguments.resolved
        self.folder = Path(arguments.output_dir or f"outputs/study-{arguments.size}")
        self.device = choose_device(None)
        data = load_image_data(arguments.dataset, check_images=False)
        for note in data.notes:
            print(f"Note: {note}")
        self.only = arguments.arms
        first = data.train[0]["image"]
        side = arguments.image_size or min(*first.size, 224)
        patch = arguments.patch_size or max(1, side // 14)
        side -= side % patch
        self.config = ViTConfig(
            image_size=side,
            patch_size=patch,
            hidden_size=self.size.hidden_size,
            intermediate_size=4 * self.size.hidden_size,
            num_attention_heads=self.size.heads,
            num_hidden_layers=self.size.layers,
            id2label=dict(enumerate(data.label_names)),
            label2id={name: index for index, name in enumerate(data.label_names)},
            # ViT's own 0.02 suits wide models; it leaves a narrow one without a signal for many epochs.
            initializer_range=0.02 * max(1.0, (768 / self.size.hidden_size) ** 0.5),
        )
        self.arms = {ratio: self.chosen(tuned_arms(self.config, ratio)) for ratio in self.size.keep_ratios}
        record = {"dataset": data.name, "image_size": side, "patch_size": patch, "arms": self.only}
        record |= {**asdict(self.size), "device": self.device.type}
        check_run_folder(self.folder, record, resume=True)
        train, test = load_tensors(data, side, self.device, seed=0)
        self.train, self.test = train.first(self.size.train_images), test.first(self.size.test_images)
        claim_run_folder(self.folder, record, resume=True)

    def chosen(self, arms: list[Arm]) -> list[Arm]:
        """The arms that were asked for.

        Raises:
            ValueError: an unknown arm.
        """
        names = [arm.name for arm in arms]
        for name in self.only or ():
            if name not in names:
                raise ValueError(f"--arms {name!r} must be among {', '.join(map(repr, names))}.")
        return [arm for arm in arms if self.only is None or arm.name in self.only]

    def train_bases(self) -> None:
        """Trains the unreduced models from scratch, each from a seed of its own."""
        for seed in range(self.size.bases):
            if (self.base(seed) / "config.json").exists():
                continue
            set_seed(seed)
            if self.size.coarse_epochs:
                coarse = ViTForImageClassification(with_coarse_patches(self.config))
                self.train_from_scratch(coarse, seed, self.size.coarse_epochs)
                model = with_halved_patches(coarse, self.config)
            else:
                model = ViTForImageClassification(self.config)
            self.train_from_scratch(model, seed, self.size.base_epochs)
            write_folder(self.base(seed), model.save_pretrained)

    def train_from_scratch(self, model: ViTForImageClassification, seed: int, epochs: float) -> None:
        """Trains an unreduced model on the labels alone."""
        self.trainer(
            model,
            self.train,
            seed,
            num_train_epochs=epochs,
            learning_rate=self.size.base_learning_rate,
            weight_decay=0.05,
            warmup_steps=0.05,
        ).train()
        print(f"base {seed}, {epochs:g} epochs: {100 * self.accuracy(model):.2f}%", flush=True)

    def base(self, seed: int) -> Path:
        """Where the unreduced model is that a seed starts from."""
        return self.folder / f"base-{seed % self.size.bases}"

    def test_off_the_shelf(self) -> None:
        """Tests many selections, windows and size exponents on the unreduced models, without any training."""
        for seed in range(self.size.bases):
            for ratio in (0.7, 0.5):
                arms = [unreduced_arm(self.config), *off_the_shelf_arms(self.config, ratio)]
                self.record(f"off the shelf at {ratio:g}, base {seed}.json", lambda: self.test_arms(arms, seed))  # noqa: B023

    def test_arms(self, arms: list[Arm], seed: int) -> dict[str, Any]:
        """Accuracy of every arm with the weights of a base."""
        return {"base": seed, "arms": [self.test_arm(arm, seed) for arm in arms]}

    def test_arm(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Accuracy of an arm with the weights of a seed's base."""
        return {"name": arm.name, "macs": arm.macs, "accuracy": self.accuracy(self.load(arm, seed))}

    def look_at_the_background(self) -> None:
        """Notes which tokens draw the attention of the unreduced models."""
        for seed in range(self.size.bases):
            self.record(f"background, base {seed}.json", lambda: {"layers": self.background_rows(seed)})  # noqa: B023

    def background_rows(self, seed: int) -> list[dict[str, float]]:
        """By reduction layer: see ``study_background``."""
        model: Any = FATRViTForImageClassification.from_pretrained(self.base(seed), attn_implementation="eager")
        return background_rows(model.to(self.device).eval(), self.test.first(500))

    def spread_over_budgets(self) -> None:
        """Fine-tunes FATR once for all keep ratios, and tests it at each and by input."""
        for seed in range(self.size.seeds):
            self.record(f"budgets, seed {seed}.json", lambda: self.tune_elastic(seed))  # noqa: B023

    def tune_elastic(self, seed: int) -> dict[str, Any]:
        """Accuracy by budget of one model that was trained with a keep ratio drawn for each step."""
        model: Any = FATRViTForImageClassification.from_pretrained(self.base(seed))
        model.to(self.device)
        trainer = self.tuner(model, seed)
        trainer.add_callback(ElasticKeepRatio(*ELASTIC_RANGE, seed=seed))
        trainer.train()
        print(f"one model for all budgets, seed {seed}", flush=True)
        return {"seed": seed, **budget_rows(model.eval(), self.test)}

    def fine_tune(self) -> None:
        """Fine-tunes every arm from every seed; seeds go round the arms, so that a part of the study is a small one."""
        for run in self.runs():
            self.record(run.file, lambda: self.fine_tune_once(run))  # noqa: B023

    def runs(self) -> Iterator[Run]:
        """All fine-tuning runs."""
        for seed in range(self.size.seeds):
            yield Run(unreduced_arm(self.config), None, seed)
            for ratio, arms in self.arms.items():
                yield from (Run(arm, ratio, seed) for arm in arms)

    def fine_tune_once(self, run: Run) -> dict[str, Any]:
        """Accuracy of an arm before and after its fine-tuning."""
        before = self.record(run.file_of_base(self.size.bases), lambda: self.test_arm(run.arm, run.seed))
        model = self.load(run.arm, run.seed)
        self.tuner(model, run.seed).train()
        after = self.accuracy(model)
        print(f"{run.file[:-5]}: {100 * before['accuracy']:.2f}% -> {100 * after:.2f}%", flush=True)
        names = {"arm": run.arm.name, "keep_ratio": run.keep_ratio, "seed": run.seed, "fields": run.arm.fields}
        return {**names, "macs": run.arm.macs, "before": before["accuracy"], "after": after}

    def tuner(self, model: PreTrainedModel, seed: int) -> FATRTrainer:
        """The trainer of every fine-tuning, with the seed's base as teacher."""
        return self.trainer(
            model,
            self.train.first(self.size.tune_images),
            1000 + seed,
            ViTForImageClassification.from_pretrained(self.base(seed)),
            num_train_epochs=self.size.epochs,
            learning_rate=self.size.learning_rate,
            weight_decay=2e-5,
        )

    def measure_speed(self) -> None:
        """Times the arms of every keep ratio in turn, fused for inference, on a GPU in bfloat16."""
        batch = 256 if self.device.type == "cuda" else 64
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        images = self.test.batch(list(range(min(batch, len(self.test)))))["pixel_values"].to(dtype)
        for ratio, arms in self.arms.items():

            def measure(arms: list[Arm] = arms) -> dict[str, Any]:
                models: dict[str, Any] = {arm.name: self.load(arm, 0) for arm in (unreduced_arm(self.config), *arms)}
                for model in models.values():
                    names = [name for name, _ in model.named_parameters() if name.endswith(TRAINED_PARAMETERS)]
                    draw_trained_parameters(model, names, seed=0)
                halves = {name: model.to(dtype) for name, model in models.items()}
                fused = {name: model.fuse() if hasattr(model, "fuse") else model for name, model in halves.items()}
                return {"batch": len(images), "images_per_second": compare_throughput(fused, images)}

            self.record(f"speed at {ratio:g}.json", measure)
        self.record("machine.json", lambda: dict(describe_machine(self.device)))

    def record(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Writes what a run gives, unless it is written already, and returns it."""
        path = self.folder / "runs" / name
        if not path.exists():
            result = run()
            path.parent.mkdir(exist_ok=True)
            write_json(path, json.loads(json.dumps(result)))
        written: dict[str, Any] = json.loads(path.read_text())
        return written

    def load(self, arm: Arm, seed: int) -> PreTrainedModel:
        """An arm with the weights of a seed's base, on the device."""
        model: Any = arm.build(self.base(seed))
        model.to(self.device).eval()
        loaded: PreTrainedModel = model
        return loaded

    def trainer(
        self,
        model: PreTrainedModel,
        images: TensorImages,
        seed: int,
        teacher: PreTrainedModel | None = None,
        **changes: Any,
    ) -> FATRTrainer:
        """A trainer that leaves nothing behind but the trained model."""
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer"),
            per_device_train_batch_size=self.size.batch_size,
            lr_scheduler_type="cosine",
            bf16=self.device.type == "cuda",
            use_cpu=self.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            logging_steps=1000,
            disable_tqdm=True,
            seed=seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            **changes,
        )
        dataset: Any = range(len(images))
        collator = images.augmented_batch if self.size.augment else images.batch
        set_seed(seed)
        return FATRTrainer(model, arguments, data_collator=collator, train_dataset=dataset, teacher=teacher)

    @torch.inference_mode()
    def accuracy(self, model: PreTrainedModel) -> float:
        """Share of the test images that a model classifies as they are labelled, computed in float32."""
        model.eval()
        places = torch.arange(len(self.test)).split(500)
        batches = [self.test.batch(index.tolist()) for index in places]
        hits = [(model(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).sum() for batch in batches]
        return float(sum(hits)) / len(self.test)


if __name__ == "__main__":
    run_program(main)
