"""Fine-tunes a vision transformer with frequency-aware token reduction and leaves a folder that is ready for the Hub.

    accelerate launch examples/finetune.py                        # scikit-learn's digits, from scratch, on any machine
    accelerate launch examples/finetune.py --model_name_or_path google/vit-base-patch16-224 --dataset path/to/images
    accelerate launch examples/finetune.py arguments.yaml --learning_rate 5e-5

``--preset`` names a recipe in ``examples/configs``: the paper's for real images, a short one for the digits. Without a
checkpoint a small stock ViT is trained first, so that one run tells the whole story: the unreduced model, the reduced
one before and after fine-tuning, their cost and their speed. The run fails unless the saved folder gives the same
accuracy in a process that cannot import fatr_hf.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from finetune_arguments import DataArguments, FineTuningArguments, ModelArguments, parse_arguments, result_arguments
from finetune_base import check_same_classes, fetch_base, new_base, reduced_model
from finetune_data import describe, load_data
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)

from fatr_hf.benchmark import ModelCost, compare_throughput, count_macs, results_table
from fatr_hf.hub.clean_process import predict_classes
from fatr_hf.hub.errors import ProofError
from fatr_hf.hub.model_card import budget_table, build_model_card
from fatr_hf.hub.publish import check_access, publish_folder
from fatr_hf.hub.verify import classify_without_package, plain_pictures
from fatr_hf.images import check_processor
from fatr_hf.modeling import admissible_keep_ratios
from fatr_hf.modeling.reduction_model import ReductionModel
from fatr_hf.programs import run_program
from fatr_hf.training.augmentation import AUGMENTATIONS, Augmentation, find_augmentation
from fatr_hf.training.ema import EMACallback
from fatr_hf.training.keep_ratio_callbacks import ElasticKeepRatio, KeepRatioWarmup
from fatr_hf.training.labels import spread_rows
from fatr_hf.training.metrics import classification_metrics
from fatr_hf.training.preprocessing import MixingCollator, ReproducibleImages, collate, image_transform
from fatr_hf.training.processes import check_data_size, check_float16
from fatr_hf.training.reduction_log import ReductionLogCallback
from fatr_hf.training.run_folder import check_run_folder, claim_run_folder, last_checkpoint, write_folder, write_json
from fatr_hf.training.trainer import FATRTrainer


def main() -> None:
    """Runs every step; what an earlier run of the same folder has finished is not done again."""
    model_arguments, data_arguments, augmentation, arguments = parse_arguments(sys.argv[1:])
    run = FineTuning(model_arguments, data_arguments, augmentation.resolved(), arguments)
    run.prepare_base()
    base, model, processor = run.load_models()
    base_accuracy, start_accuracy = run.test(base, processor), run.test(model, processor)
    trainer = run.tuner(model, processor, base)
    set_seed(arguments.seed)  # testing has drawn random numbers, and not the same ones for every number of processes
    trainer.train(resume_from_checkpoint=run.checkpoint("checkpoints"))
    if trainer.ema is not None:
        trainer.use_averaged_weights()
    accuracy = trainer.evaluate()["eval_accuracy"]
    budgets = run.test_budgets(trainer, model)
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        costs = run.measure(base, model, processor, (base_accuracy, start_accuracy, accuracy))
        run.finish(model, processor, costs, budgets)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


class FineTuning:
    """The steps of one run, which all read the same arguments and images and write under one folder.

    ``run.json`` holds the arguments, ``base/`` the unreduced model, ``checkpoints/`` the training in progress,
    ``model/`` the finished model and ``results.json`` what was measured.
    """

    def __init__(
        self,
        model_arguments: ModelArguments,
        data_arguments: DataArguments,
        augmentation: Augmentation,
        arguments: FineTuningArguments,
    ):
        self.model_arguments = model_arguments
        self.data_arguments = data_arguments
        self.augmentation = augmentation
        self.arguments = arguments
        self.folder = Path(str(arguments.output_dir))
        self.publish_to = arguments.hub_model_id if arguments.push_to_hub else None
        if arguments.push_to_hub:
            check_access(arguments.hub_model_id)
            # The finished folder is published in one commit, not checkpoint by checkpoint.
            arguments.push_to_hub = False
        check_float16(arguments)
        self.record = result_arguments(model_arguments, data_arguments, augmentation, arguments)
        self.resumes = wants_resume(arguments.resume_from_checkpoint)
        check_run_folder(self.folder, self.record, self.resumes, arguments.overwrite_output_dir)
        self.has_base = not arguments.overwrite_output_dir and (self.folder / "base" / "config.json").exists()
        with arguments.main_process_first(local=False, desc="reading the images"):
            self.data = load_data(data_arguments, arguments.seed)
        check_data_size(len(self.data.train), arguments)
        self.check_options()
        self.say(describe(self.data))

    def say(self, words: str) -> None:
        """Prints on the first process."""
        if self.arguments.process_index == 0:
            print(words, flush=True)

    def claim_folder(self) -> None:
        """Makes the output folder this run's own, when what comes first is ready to be written."""
        with self.arguments.main_process_first(local=False, desc="claiming the output folder"):
            if self.arguments.process_index == 0:
                claim_run_folder(self.folder, self.record, self.resumes, self.arguments.overwrite_output_dir)

    def check_options(self) -> None:
        """Raises a ValueError for what would otherwise be refused when the unreduced model has been trained."""
        options, names = self.arguments, self.data.label_names
        keep_ratio_callbacks(options)
        find_augmentation(self.model_arguments.base_augmentation)
        if options.distillation_weight < 0 or not options.distillation_temperature > 0:
            raise ValueError(
                f"--distillation_weight {options.distillation_weight} must be at least 0, and "
                f"--distillation_temperature {options.distillation_temperature} above 0."
            )
        if options.prediction_loss_only:
            raise ValueError("--prediction_loss_only true leaves out the predictions, whose accuracy is the result.")
        if self.model_arguments.image_size is not None and self.model_arguments.model_name_or_path is None:
            raise ValueError("--image_size is for --model_name_or_path; a ViT from scratch takes --base_image_size.")
        if options.ema_decay:
            EMACallback(options.ema_decay)
        elif options.teacher == "ema":
            raise ValueError("--teacher ema is the average of the weights: it needs --ema_decay, such as 0.9998.")
        if options.teacher not in ("start", "ema"):
            config = AutoConfig.from_pretrained(options.teacher, revision=options.teacher_revision)
            check_same_classes(config, names, f"--teacher {options.teacher}", self.data.name)

    def prepare_base(self) -> None:
        """Writes the unreduced model to ``base/``, with its image processor, unless it is there."""
        if self.has_base:
            return
        set_seed(self.arguments.seed)
        from_scratch = self.model_arguments.model_name_or_path is None
        teaches = bool(self.arguments.distillation_weight) and self.arguments.teacher == "start"
        if from_scratch:
            base, processor = new_base(self.model_arguments, self.data.label_names)
        else:
            base, processor, words = fetch_base(self.model_arguments, self.data, teaches)
            self.say(words)
        check_processor(processor, base.config)
        self.prove_untrained(base, processor)
        self.claim_folder()
        if from_scratch:
            base = self.train_base(base, processor)
        with self.arguments.main_process_first(local=False, desc="writing the unreduced model"):
            if self.arguments.process_index == 0:
                write_folder(self.folder / "base", lambda folder: save(base, processor, folder))

    def train_base(self, base: PreTrainedModel, processor: BaseImageProcessor) -> PreTrainedModel:
        """Trains a ViT from scratch."""
        options = self.model_arguments
        trainer = self.trainer(
            base,
            processor,
            "base-checkpoints",
            augmentation=find_augmentation(options.base_augmentation),
            num_train_epochs=options.base_epochs,
            learning_rate=options.base_learning_rate,
            weight_decay=options.base_weight_decay,
            warmup_steps=options.base_warmup_steps,
            max_steps=-1,
        )
        trainer.train(resume_from_checkpoint=self.checkpoint("base-checkpoints"))
        return trainer.whole_model()

    def prove_untrained(self, base: PreTrainedModel, processor: BaseImageProcessor) -> None:
        """Proves before training what ``verify`` proves after it, with the reduced model as it starts.

        Raises:
            ProofError: what is saved would not work on its own.
        """
        with self.arguments.main_process_first(local=False, desc="proving that what is saved works on its own"):
            if self.arguments.process_index == 0:
                # Neither other processes nor a resumed run draw what this does.
                with TemporaryDirectory() as folder, torch.random.fork_rng():
                    model: Any = reduced_model(base, self.model_arguments)
                    save(model, processor, Path(folder, "model"))
                    self.verify(Path(folder, "model"), model.to(self.arguments.device), processor, at_most=16)

    def load_models(self) -> tuple[PreTrainedModel, ReductionModel, BaseImageProcessor]:
        """The unreduced model, which lies in ``base/``, and the one to fine-tune."""
        folder = self.folder / "base"
        base = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False)
        return base, reduced_model(base, self.model_arguments), AutoImageProcessor.from_pretrained(folder)

    def test(self, model: PreTrainedModel, processor: BaseImageProcessor) -> float:
        """Accuracy before training; reported by no more than the table, since TensorBoard's folder is not known yet."""
        metrics = self.trainer(model, processor, "checkpoints", report_to="none").evaluate()
        return float(metrics["eval_accuracy"])

    def tuner(self, model: ReductionModel, processor: BaseImageProcessor, base: PreTrainedModel) -> FATRTrainer:
        """The trainer of the fine-tuning, with teacher, average of the weights, keep ratios and logs."""
        options = self.arguments
        trainer = self.trainer(
            model,
            processor,
            "checkpoints",
            augmentation=self.augmentation,
            learning_rate=options.scaled_learning_rate,
            teacher=self.teacher(base) if options.distillation_weight else None,
            distillation_weight=options.distillation_weight,
            distillation_temperature=options.distillation_temperature,
            ema_decay=options.ema_decay or None,
        )
        for callback in keep_ratio_callbacks(options):
            trainer.add_callback(callback)
        if {*options.report_to} - {"none"}:
            trainer.add_callback(ReductionLogCallback(trainer))
        return trainer

    def teacher(self, base: PreTrainedModel) -> PreTrainedModel | Literal["ema"]:
        """The unreduced model, the average of the student's weights, or a checkpoint."""
        name = self.arguments.teacher
        if name == "start":
            return base
        if name == "ema":
            return "ema"
        loaded: PreTrainedModel = AutoModelForImageClassification.from_pretrained(
            name, revision=self.arguments.teacher_revision
        )
        return loaded

    def trainer(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        folder: str,
        augmentation: Augmentation = AUGMENTATIONS["none"],
        teacher: PreTrainedModel | Literal["ema"] | None = None,
        distillation_weight: float = 0.0,
        distillation_temperature: float = 1.0,
        ema_decay: float | None = None,
        **changes: Any,
    ) -> FATRTrainer:
        """A trainer that saves to a folder of the run; ``changes`` replace training arguments."""
        return FATRTrainer(
            model,
            replace(self.arguments, output_dir=str(self.folder / folder), **changes),
            data_collator=collate,
            train_collator=MixingCollator(len(self.data.label_names), augmentation),
            train_dataset=ReproducibleImages(
                self.data.train.with_transform(image_transform(processor, augmentation)), self.arguments.seed
            ),
            eval_dataset=self.data.test.with_transform(image_transform(processor)),
            compute_metrics=classification_metrics,
            teacher=teacher,
            distillation_weight=distillation_weight,
            distillation_temperature=distillation_temperature,
            ema_decay=ema_decay,
            repeats=augmentation.repeats,
        )

    def test_budgets(self, trainer: FATRTrainer, model: ReductionModel) -> dict[float, float]:
        """Accuracy by keep ratio of a model that was trained for many; empty where it was trained for one."""
        if self.arguments.elastic is None:
            return {}
        low, high = self.arguments.elastic
        ratios = [ratio for ratio in admissible_keep_ratios(model.config) if low <= ratio <= high]
        before, accuracies = model.config.keep_ratio, {}
        for ratio in ratios[:: max(1, len(ratios) // 6)]:
            model.set_reduction(keep_ratio=ratio)
            accuracies[ratio] = trainer.evaluate()["eval_accuracy"]
        model.set_reduction(keep_ratio=before)
        return accuracies

    def checkpoint(self, folder: str) -> str | None:
        """The checkpoint to continue from: the one that was named, or the last in a folder of the run."""
        named = self.arguments.resume_from_checkpoint
        if folder == "checkpoints" and named is not None and Path(named).is_dir():
            return named
        return last_checkpoint(self.folder / folder, self.arguments.world_size)

    def measure(
        self,
        base: PreTrainedModel,
        model: ReductionModel,
        processor: BaseImageProcessor,
        accuracies: tuple[float, float, float],
    ) -> list[ModelCost]:
        """Accuracy, multiply-accumulates and speed of the unreduced model and of FATR before and after training."""
        transform = image_transform(processor)
        pixel_values = transform(self.data.test[: self.arguments.per_device_eval_batch_size])["pixel_values"]
        models: dict[str, PreTrainedModel] = {"unreduced": base, "FATR": model.fuse()}
        speed = compare_throughput(models, pixel_values.to(model.device))
        macs = {name: count_macs(each) for name, each in (("unreduced", base), ("FATR", model))}
        return [
            ModelCost(f"{family_name(base)}, unreduced", accuracies[0], macs["unreduced"], speed["unreduced"]),
            ModelCost("FATR, before fine-tuning", accuracies[1], macs["FATR"], speed["FATR"]),
            ModelCost("FATR, fine-tuned", accuracies[2], macs["FATR"], speed["FATR"]),
        ]

    def finish(
        self,
        model: ReductionModel,
        processor: BaseImageProcessor,
        costs: list[ModelCost],
        budgets: dict[float, float],
    ) -> None:
        """Writes ``model/`` and ``results.json``, proves that the folder works on its own, prints and publishes.

        Raises:
            RuntimeError: the folder does not load without this package, or gives another accuracy.
        """
        table = results_table(costs, model.config.plan())
        if budgets:
            table += f"\n{budget_table(model.config, budgets)}"
        origin = self.model_arguments.model_name_or_path
        card = build_model_card(
            model.config,
            repo_id=self.publish_to or "user/model",
            license=self.model_arguments.license,
            base_model=None if origin is None or Path(origin).exists() else origin,
            dataset=self.data.name,
            accuracy=costs[-1].accuracy,
            results=f"Top-1 accuracy on {len(self.data.test)} test images of {self.data.name}.\n\n{table}",
        )
        target, results = self.folder / "model", self.folder / "results.json"
        write_folder(target, lambda folder: save(model, processor, folder, model_card=card))
        measured = {
            "dataset": self.data.name,
            "test_images": len(self.data.test),
            "models": [cost._asdict() for cost in costs],
            "accuracy_by_keep_ratio": budgets,
            "token_plan": [tokens._asdict() for tokens in model.config.plan()],
        }
        write_json(results, {**measured, "verified_images": None})
        print(f"\n{table}")
        try:
            verified = self.verify(target, model, processor)
        except ProofError as error:
            raise ProofError(
                f"{error}\n{target} and {results} are written, and nothing is published. When the reason is gone, the "
                "same command with --resume_from_checkpoint true proves the folder again."
            ) from error
        write_json(results, {**measured, "verified_images": verified})
        if verified:
            print(f"Loaded without fatr_hf, {target} classifies {verified} test images with the same accuracy.")
        if self.publish_to:
            print("Published:", publish_folder(target, self.publish_to, self.arguments.hub_private_repo))

    def verify(
        self, folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, at_most: int | None = None
    ) -> int:
        """Compares the accuracy of the saved folder, loaded without this package, with the model's; counts the images.

        Raises:
            ProofError: they differ, or the folder does not load or run.
        """
        number = min(self.data_arguments.verify_samples, at_most or len(self.data.test), len(self.data.test))
        if not number:
            return 0
        chosen = self.data.test.select(spread_rows(self.data.test["labels"], number))
        images = plain_pictures(chosen, processor)
        clean = accuracy(classify_without_package(folder, images, str(model.device)), chosen["labels"])
        own = accuracy(predict_classes(model, processor, images), chosen["labels"])
        if clean != own:
            raise ProofError(
                f"{folder}, loaded without fatr_hf, reaches an accuracy of {clean:.6f} on {number} test images, the "
                f"model {own:.6f}: the folder is not what was saved."
            )
        return number


def wants_resume(value: str | None) -> bool:
    """Reads ``--resume_from_checkpoint``.

    Raises:
        ValueError: neither true nor false nor a folder.
    """
    if value is None or value.lower() == "false":
        return False
    if value.lower() != "true" and not Path(value).is_dir():
        raise ValueError(f"--resume_from_checkpoint {value} must be true, false or the folder of a checkpoint.")
    return True


def keep_ratio_callbacks(options: FineTuningArguments) -> list[TrainerCallback]:
    """What changes the keep ratio while training."""
    callbacks: list[TrainerCallback] = []
    if options.elastic is not None:
        if len(options.elastic) != 2:
            raise ValueError(f"--elastic {options.elastic} must be two keep ratios, the lowest and the highest.")
        low, high = options.elastic
        callbacks.append(ElasticKeepRatio(low, high, seed=options.seed))
    if options.keep_ratio_warmup:
        callbacks.append(KeepRatioWarmup(options.keep_ratio_warmup))
    return callbacks


def family_name(model: PreTrainedModel) -> str:
    """What tables call a classifier's family, such as ViT."""
    return type(model).__name__.removeprefix("FATR").split("ForImageClassification")[0]


def save(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path, **options: Any) -> None:
    """Saves a model with its image processor."""
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)


def accuracy(classes: list[int], labels: list[int]) -> float:
    """Share of images whose predicted class is their label."""
    return sum(predicted == label for predicted, label in zip(classes, labels, strict=True)) / len(labels)


if __name__ == "__main__":
    run_program(main)
