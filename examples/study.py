"""Where FATR stands: the unreduced model, FATR, its ablations and its rivals at equal cost, over several seeds.

    python examples/study.py                                          # scikit-learn's digits
    python examples/study.py --dataset path/to/fashion-mnist          # idx files; sized by the device
    python examples/study.py --dataset path/to/fashion-mnist --size full
    python examples/study.py --preset solar_cells                     # a pretrained ViT-S; see below

Unreduced ViTs are trained from scratch; every arm starts from them and is fine-tuned with the same images, epochs and
loss (cross-entropy and distillation from the unreduced model), "no reduction" too. Every run is recorded as soon as it
ends, and the same command goes on where an earlier one stopped, with other ``--arms`` too. ``results.md`` holds the
tables.

With ``--model_name_or_path`` every arm starts from a checkpoint with a linear classifier fitted to its features, and
learns from that unreduced model after a fine-tuning of its own. The preset wants what ``dinov2_from_package.py`` and
``solar_cells.py`` write to ``outputs/dinov2`` and ``outputs/solar-cells``.
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
from study_base import checkpoint_config, has_fast_bfloat16, normalisation, probed_checkpoint, scratch_config
from study_budgets import ELASTIC_RANGE, budget_rows
from study_data import TensorImages, load_tensors
from study_patches import with_coarse_patches, with_halved_patches
from study_report import write_report
from transformers import (
    AutoModelForImageClassification,
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
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
    if arguments.extras:
        study.test_off_the_shelf()
        study.look_at_the_background()
    study.fine_tune()
    if arguments.extras:
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
        self.checkpoint = arguments.model_name_or_path
        name = "-".join(each for each in (arguments.preset, arguments.size) if each)
        self.folder = Path(arguments.output_dir or f"outputs/study-{name}")
        self.device = choose_device(None)
        data = load_image_data(str(arguments.dataset), check_images=False)
        for note in data.notes:
            print(f"Note: {note}")
        self.only, self.mirror = arguments.arms, arguments.mirror
        self.config: Any
        if self.checkpoint:
            self.config = checkpoint_config(self.checkpoint, arguments.image_size, data.label_names)
        else:
            side = arguments.image_size or min(*data.train[0]["image"].size, 224)
            patch = arguments.patch_size or max(1, side // 14)
            self.config = scratch_config(self.size, side, patch, data.label_names)
        self.all_arms = {ratio: tuned_arms(self.config, ratio) for ratio in self.size.keep_ratios}
        self.arms = {ratio: self.chosen(arms) for ratio, arms in self.all_arms.items()}
        side = self.config.image_size
        record = {"dataset": data.name, "image_size": side, "patch_size": self.config.patch_size, "mirror": self.mirror}
        record |= {**asdict(self.size), "model_name_or_path": self.checkpoint, "device": self.device.type}
        check_run_folder(self.folder, record, resume=True)
        normal = normalisation(self.checkpoint) if self.checkpoint else {}
        train, test = load_tensors(data, side, self.device, seed=0, **normal)
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
        """Makes the unreduced models that the arms start from: from scratch, or of the checkpoint."""
        for seed in range(self.size.bases):
            if not (self.base(seed) / "config.json").exists():
                write_folder(self.base(seed), self.new_base(seed).save_pretrained)

    def new_base(self, seed: int) -> PreTrainedModel:
        """An unreduced model, trained from scratch, or the checkpoint with a linear classifier."""
        set_seed(seed)
        model: PreTrainedModel
        if self.checkpoint:
            model = probed_checkpoint(self.checkpoint, self.config, self.train, self.device)
            print(f"linear classifier: {100 * self.test_model(model)['accuracy']:.2f}%", flush=True)
            return model
        if self.size.coarse_epochs:
            coarse = ViTForImageClassification(with_coarse_patches(self.config))
            self.train_unreduced(coarse, f"base {seed}", seed, self.size.coarse_epochs)
            model = with_halved_patches(coarse, self.config)
        else:
            model = ViTForImageClassification(self.config)
        self.train_unreduced(model, f"base {seed}", seed, self.size.base_epochs)
        return model

    def train_unreduced(self, model: PreTrainedModel, name: str, seed: int, epochs: float) -> None:
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
        print(f"{name}, {epochs:g} epochs: {100 * self.test_model(model)['accuracy']:.2f}%", flush=True)

    def teacher(self, seed: int) -> Path:
        """Where the unreduced model is that teaches in a seed's runs: its base, of a checkpoint's after a training."""
        if not self.checkpoint:
            return self.base(seed)
        folder = self.folder / f"teacher-{seed}"
        if not (folder / "config.json").exists():
            model = self.load(unreduced_arm(self.config), seed)
            self.train_unreduced(model, f"teacher {seed}", seed, self.size.base_epochs)
            write_folder(folder, model.save_pretrained)
        return folder

    def base(self, seed: int) -> Path:
        """Where the unreduced model is that a seed starts from."""
        return self.folder / f"base-{seed % self.size.bases}"

    def test_off_the_shelf(self) -> None:
        """Tests many selections, windows and size exponents on the unreduced models, without any training."""
        for seed in range(self.size.bases):
            for ratio in (0.7, 0.5):
                arms = [unreduced_arm(self.config), *off_the_shelf_arms(self.config, ratio)]
                name = f"off the shelf at {ratio:g}, base {seed}.json"
                tested = {row["name"]: row for row in self.read(name).get("arms", [])}
                if any(arm.name not in tested for arm in arms):
                    rows = [tested.get(arm.name) or self.test_arm(arm, seed) for arm in arms]
                    self.write(name, {"base": seed, "arms": rows})

    def test_arm(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Accuracy of an arm with the weights of a seed's base."""
        return {"name": arm.name, "macs": arm.macs, **self.test_model(self.load(arm, seed))}

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
        after = self.test_model(model)
        print(f"{run.file[:-5]}: {100 * before['accuracy']:.2f}% -> {100 * after['accuracy']:.2f}%", flush=True)
        names = {"arm": run.arm.name, "keep_ratio": run.keep_ratio, "seed": run.seed, "fields": run.arm.fields}
        balanced = {"balanced": after["balanced"]} if "balanced" in after else {}
        return {**names, "macs": run.arm.macs, "before": before["accuracy"], "after": after["accuracy"], **balanced}

    def tuner(self, model: PreTrainedModel, seed: int) -> FATRTrainer:
        """The trainer of every fine-tuning, with the seed's unreduced model as teacher."""
        return self.trainer(
            model,
            self.train.first(self.size.tune_images),
            1000 + seed,
            AutoModelForImageClassification.from_pretrained(self.teacher(seed)),
            num_train_epochs=self.size.epochs,
            learning_rate=self.size.learning_rate,
            weight_decay=2e-5,
        )

    def measure_speed(self) -> None:
        """Times the arms of every keep ratio in turn, fused for inference, on a GPU in bfloat16."""
        # A pretrained model takes a CPU seconds for a few images.
        batch = 256 if self.device.type == "cuda" else 8 if self.checkpoint else 64
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        images = self.test.batch(list(range(min(batch, len(self.test)))))["pixel_values"].to(dtype)
        for ratio, arms in self.arms.items():
            name = f"speed at {ratio:g}.json"
            timed = self.read(name).get("images_per_second", {}).keys()
            wanted = {arm.name for arm in arms}
            if wanted <= timed:
                continue
            # Only what is timed in turn can be compared.
            again = [arm for arm in self.all_arms[ratio] if arm.name in wanted | timed]
            models: dict[str, Any] = {arm.name: self.load(arm, 0) for arm in (unreduced_arm(self.config), *again)}
            for model in models.values():
                names = [each for each, _ in model.named_parameters() if each.endswith(TRAINED_PARAMETERS)]
                draw_trained_parameters(model, names, seed=0)
            halves = {each: model.to(dtype) for each, model in models.items()}
            fused = {each: model.fuse() if hasattr(model, "fuse") else model for each, model in halves.items()}
            self.write(name, {"batch": len(images), "images_per_second": compare_throughput(fused, images)})
        self.record("machine.json", lambda: dict(describe_machine(self.device)))

    def record(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Writes what a run gives, unless it is written already, and returns it."""
        return self.read(name) or self.write(name, run())

    def read(self, name: str) -> dict[str, Any]:
        """What is written of a run; nothing where it has not ended."""
        path = self.folder / "runs" / name
        written: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return written

    def write(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        """Writes what a run gives, and returns it as it is read."""
        path = self.folder / "runs" / name
        path.parent.mkdir(exist_ok=True)
        write_json(path, result)
        return self.read(name)

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
            bf16=has_fast_bfloat16(self.device) if self.checkpoint else self.device.type == "cuda",
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
        collator = images.mirrored_batch if self.mirror else collator
        set_seed(seed)
        return FATRTrainer(model, arguments, data_collator=collator, train_dataset=dataset, teacher=teacher)

    @torch.inference_mode()
    def test_model(self, model: PreTrainedModel) -> dict[str, float]:
        """What share of the test images a model classifies rightly (see ``TensorImages.scores``), in float32."""
        model.eval()
        # Of images as large as a checkpoint's, more would fill the memory and save no time.
        places = torch.arange(len(self.test)).split(50 if self.checkpoint else 500)
        batches = (self.test.batch(index.tolist())["pixel_values"] for index in places)
        return self.test.scores(torch.cat([model(pixel_values).logits.argmax(1) for pixel_values in batches]))


if __name__ == "__main__":
    run_program(main)
