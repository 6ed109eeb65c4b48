"""Training with self-distillation, averaged weights and soft labels on top of transformers' Trainer.

The pieces are next door: ``losses.py``, ``batches.py``, ``ema.py``, ``teachers.py``, ``guards.py`` (what is refused
before training), ``resuming.py``, ``safety.py`` (what stops a run), ``repeated_sampler.py`` and ``reduction_log.py``.
Here they meet the Trainer, by overriding its methods where a callback cannot reach.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.data.data_collator import default_data_collator
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from ..hub.model_card import model_card_of
from ..modeling.hub_repository import HubRepositoryMixin, unsharded_class
from .batches import LabelCheck, makes_its_columns, takes_its_columns
from .ema import EMACallback, open_average
from .guards import (
    MODEL_LOSSES,
    check_arguments,
    check_callable,
    check_classifier,
    check_count,
    check_learning_rate,
    check_length_of_training,
    check_loss,
    check_number,
    check_optimizer,
    check_trainable,
    pruning,
)
from .losses import classification_loss, distillation_loss
from .processes import check_data_size, check_float16
from .repeated_sampler import RepeatedSampler, SetSamplerEpoch
from .resuming import BatchRecord, LastStep, check_complete, check_same_batch, check_same_model
from .run_folder import last_checkpoint
from .safety import NonFiniteLossGuard, check_finite_parameters, whole_checkpoint
from .teachers import Teacher, check_teacher, run_with_average

logger = logging.get_logger(__name__)


class FATRTrainer(Trainer):
    """Trainer with cross-entropy, distillation from a teacher, an average of the weights and repeated augmentation.

    All but the cross-entropy is off by default. Labels may be class numbers or, after mixing images, shares of the
    classes (batch, classes). Every process and every accumulation step contributes the mean over its own batch. Label
    smoothing (``args.label_smoothing_factor``) applies to the cross-entropy in training only. ``compute_loss_func`` is
    used as by the Trainer, and a model whose ``config.problem_type`` is "multi_label_classification" or "regression"
    trains with its own loss; neither can be combined with a teacher or label smoothing.

    A data set with a transform (``set_transform``) keeps all its columns, though ``args.remove_unused_columns`` is set:
    the transform makes the model's inputs of them. Of any data set ``collate`` and ``MixingCollator`` see all columns.

    ``args.bf16_full_eval`` and ``args.fp16_full_eval`` hold during an evaluation; the weights are then as before.

    With ``ema_decay`` evaluations and predictions, from the start of training on, are those of the averaged weights,
    and with them the choice of the best checkpoint; every checkpoint holds the average (``ema.safetensors``), and a
    resumed run goes on with it. The model keeps the trained weights until ``use_averaged_weights`` is called.

    A loss or weights that are no numbers, and a full disk, stop the run in words and leave the last good checkpoint.

    Args:
        teacher: a model with the student's classes and image size, such as the unreduced start model; it is itself,
            and no copy of it, frozen and brought to the device and the number format of the student. Or "ema", the
            average of the student's own weights.
        distillation_weight: factor of the distillation loss.
        distillation_temperature: its temperature.
        ema_decay: share of the average that stays in a step, such as the paper's 0.9998; None for no average.
        ema_warmup: whether the first steps keep less (see ``EMACallback``).
        repeats: how often an image that is drawn for an epoch comes in it (see ``RepeatedSampler``).
        train_collator: makes the batches of training, such as a ``MixingCollator``; by default ``data_collator``.

    Raises:
        ValueError: a model without class logits, a teacher that is the student itself or does not fit it, a negative
            weight, a temperature that is not positive, a decay outside [0, 1), repeats of a data set without a length,
            or ``args`` that cannot be combined with these or train nothing.
    """

    teacher: Any = None

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *others: Any,
        teacher: Teacher | None = None,
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.0,
        ema_decay: float | None = None,
        ema_warmup: bool = True,
        repeats: int = 1,
        train_collator: Callable[[list[Any]], dict[str, Tensor]] | None = None,
        **kwargs: Any,
    ):
        if model is not None:
            check_classifier("model", model)
        check_number("distillation_weight", distillation_weight, at_least=0)
        check_number("distillation_temperature", distillation_temperature, above=0)
        if ema_decay is not None:
            check_number("ema_decay", ema_decay, at_least=0)
        check_count("repeats", repeats)
        check_callable("train_collator", train_collator)
        # No parameter is without gradient. The Trainer hands this to accelerate in its constructor.
        if isinstance(args, TrainingArguments) and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False
        if args is not None:
            check_arguments(args, repeats)
        super().__init__(model, args, *others, **kwargs)
        check_callable("compute_metrics", self.compute_metrics)
        check_callable("compute_loss_func", self.compute_loss_func)
        if repeats > 1 and self.train_dataset is not None and not is_sampled(self.train_dataset):
            raise ValueError(f"repeats={repeats} must be 1 for a data set without a length, or one that is iterated.")
        config = self.unwrapped_model().config
        has_loss_function = self.compute_loss_func is not None
        check_loss(self.args, config, has_loss_function=has_loss_function, has_teacher=teacher is not None)
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.repeats = repeats
        self.train_collator = train_collator
        self.ema = None if ema_decay is None else EMACallback(ema_decay, ema_warmup)
        self.loss_guard = NonFiniteLossGuard()
        for callback in (self.ema, self.loss_guard, SetSamplerEpoch(), LastStep()):
            if callback is not None:
                self.add_callback(callback)
        self.teacher = self.prepare_teacher(teacher)
        self.evaluates_average = False
        # ViT's forward takes any keyword, from which the Trainer would conclude that the loss is already divided by
        # the number of accumulation steps.
        self.model_accepts_loss_kwargs = False

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates; arguments as in Trainer."""
        # FSDP version 2 shards a model only together with its optimizer: before training it is evaluated whole.
        if self.is_fsdp_enabled and not self.accelerator._models:
            model: Any = self.model
            self.accelerator.prepare_model(model.to(self.args.device), evaluation_mode=True)
        with self.own_number_format():
            return super().evaluation_loop(*args, **kwargs)

    @contextmanager
    def own_number_format(self) -> Iterator[None]:
        """Within a ``with`` block an evaluation may cast the weights (``bf16_full_eval``); then they are as before."""
        casts = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        if not casts or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            yield
            return
        model = self.unwrapped_model()
        weights = [(parameter, parameter.data) for parameter in model.parameters()]
        buffers = [(module, dict(module._buffers)) for module in model.modules()]
        try:
            yield
        finally:
            for parameter, data in weights:
                parameter.data = data
            for module, kept in buffers:
                module._buffers.update(kept)

    def prepare_teacher(self, teacher: Teacher | None) -> Any:
        """Freezes a model that is to teach, brings it to the student's device and number format, or refuses it."""
        if teacher is None:
            return None
        if not isinstance(teacher, str):
            check_classifier("teacher", teacher)
            student = self.unwrapped_model()
            check_teacher(teacher, student)
            return nn.Module.to(teacher, self.args.device, student.dtype).eval().requires_grad_(False)
        if teacher != "ema":
            raise ValueError(f"teacher={teacher!r} must be a model, or 'ema' for the average of the student's weights.")
        if self.ema is None:
            raise ValueError("teacher='ema' is the average of the student's weights: set ema_decay, such as 0.9998.")
        if self.is_fsdp_enabled:
            raise ValueError("teacher='ema' needs whole weights: FSDP shards them; use DDP, or a model as teacher.")
        return teacher

    @torch.no_grad()
    def teacher_logits(self, inputs: dict[str, Any]) -> Tensor:
        """What the teacher says of a batch: (batch, classes)."""
        with self.accelerator.autocast():
            if self.teacher != "ema":
                return self.teacher(**inputs).logits
            assert self.ema is not None, "checked with the teacher"
            return run_with_average(self.unwrapped_model(), self.ema, inputs).logits

    def unwrapped_model(self) -> Any:
        """The model without DDP and ``torch.compile``."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def trains_by_own_loss(self) -> bool:
        """Whether the loss is the model's own, or the caller's ``compute_loss_func``."""
        model: Any = self.model
        return self.compute_loss_func is not None or getattr(model.config, "problem_type", None) in MODEL_LOSSES

    def whole_model(self) -> Any:
        """The trained model outside DDP and FSDP, with the trained weights on process 0; all processes must call."""
        model = self.unwrapped_model()
        if not self.is_fsdp_enabled:
            return model
        weights = self.accelerator.get_state_dict(self.model)
        with unsharded_class(model):
            whole = type(model)(model.config)
        if self.is_world_process_zero():
            whole.load_state_dict(weights)
        return whole.to(self.args.device).eval()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; arguments as in Trainer.

        Raises:
            ValueError: nothing to resume from in the output folder; a checkpoint without the average that goes on, of
                another total batch or another model; nothing to train, or no images to train on; in half precision
                without mixed precision; labels that do not fit the model.
            FloatingPointError: a loss or weights that are nan or inf.
            OSError: a full disk.
        """
        if resume_from_checkpoint is True:
            folder = str(self.args.output_dir)
            resume_from_checkpoint = last_checkpoint(Path(folder))
            if resume_from_checkpoint is None:
                raise ValueError(f"resume_from_checkpoint=True, but {folder} holds no complete checkpoint.")
        check_length_of_training(self.args)
        check_float16(self.args)
        if self.train_dataset is not None and has_length(self.train_dataset):
            check_data_size(len(self.train_dataset), self.args)
        checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if checkpoint is not None:
            check_complete(checkpoint)
        if checkpoint is not None and not self.args.auto_find_batch_size:
            check_same_batch(checkpoint, self.batch_record())
        if self.ema is not None:
            self.ema.resume_from = checkpoint
            if checkpoint is not None:
                open_average(checkpoint)
            if self.model_init is not None:
                self.ema.average = None  # of another model
        # An evaluation prepares the model without DDP, and accelerate never prepares a model again: several processes
        # would train apart, each on its own images. Between the trials of a search there is no model.
        model: Any = self.model
        if model is not None:
            model._is_accelerate_prepared = False
        trial = args[0] if args else kwargs.get("trial")
        with pruning(trial if self.args.world_size == 1 else None):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """A new model, which must fit the teacher as the first one does."""
        model, teacher = super().call_model_init(trial), self.teacher
        check_classifier("What model_init gives", model)
        if isinstance(teacher, PreTrainedModel):
            check_teacher(teacher, model)
        return model

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in Trainer, for a model that can be trained."""
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        trained: Any = self.model if model is None else model
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_learning_rate(self.args.learning_rate)
        elif self.optimizer is not None and not is_sharded:
            check_optimizer(self.optimizer, trained)
        check_trainable(trained, is_sharded)
        if hasattr(trained, "peft_config"):
            from .adapters import check_saved

            check_saved(trained)
        return super().create_optimizer(model)

    def batch_record(self) -> BatchRecord:
        """What one step of training is made of."""
        return BatchRecord(
            batch=self._train_batch_size,
            accumulation_steps=self.args.gradient_accumulation_steps,
            total=self.get_total_train_batch_size(self.args),
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # The Trainer looks whether a run is over after a step, and a finished run that is resumed takes one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in Trainer, with the collator of training."""
        with self.collator(self.train_collator or self.data_collator, self.train_dataset, is_training=True):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As in Trainer."""
        own: Any = self.eval_dataset
        dataset = own if eval_dataset is None else own[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        with self.collator(self.data_collator, dataset):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As in Trainer."""
        with self.collator(self.data_collator, test_dataset):
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def collator(self, collator: Any, dataset: Any, is_training: bool = False) -> Iterator[None]:
        """Within a ``with`` block loaders have a collator that checks labels, and sees the columns that it takes."""
        kept = self.data_collator
        num_classes = getattr(self.unwrapped_model().config, "num_labels", None)
        checked = LabelCheck(collator, num_classes, is_required=is_training, is_free=self.trains_by_own_loss)
        self.data_collator = checked
        # The default one takes whatever it is given, which for a transform's columns is left out behind it.
        if makes_its_columns(dataset) and collator is default_data_collator:
            self.data_collator = self._get_collator_with_removed_columns(checked)
        try:
            yield
        finally:
            self.data_collator = kept

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if makes_its_columns(dataset) or takes_its_columns(self.data_collator):
            return dataset
        return super()._remove_unused_columns(dataset, description)

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        if takes_its_columns(data_collator):
            return data_collator
        return super()._get_collator_with_removed_columns(data_collator, description)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset) or self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return RepeatedSampler(len(dataset), self.repeats, seed)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a batch; arguments as in Trainer."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.loss_guard.watch(loss, inputs)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy, and in training the weighted distillation loss; mean over the batch.

        Instead of it ``compute_loss_func``, or the model's own loss (see the class).
        """
        if self.trains_by_own_loss:
            if self.compute_loss_func is None and inputs.get("labels") is not None:
                inputs = {**inputs, "labels": inputs["labels"].float()}  # such losses take no integers
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.get("labels")
        if labels is None:
            raise ValueError(f"The loss needs labels, but the batch has {', '.join(inputs)} alone.")
        # Without labels the model computes no loss of its own, which for shares of classes would be another one.
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs)
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        loss = classification_loss(outputs.logits, labels, smoothing)
        if self.teacher is not None and self.distillation_weight and model.training:
            taught = self.teacher_logits(inputs)
            distillation = distillation_loss(outputs.logits, taught, self.distillation_temperature)
            loss = loss + self.distillation_weight * distillation
        return (loss, outputs) if return_outputs else loss

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within a ``with`` block the model has the averaged weights, if there are any; then its own again."""
        if self.ema is None or self.ema.average is None or self.evaluates_average:
            yield
            return
        self.evaluates_average = True
        try:
            with self.ema.averaged_weights(self.unwrapped_model()):
                yield
        finally:
            self.evaluates_average = False

    def use_averaged_weights(self) -> None:
        """Makes the average the model's weights for good: call after training, before the model is saved or used.

        Raises:
            ValueError: there is no average.
        """
        if self.ema is None or self.ema.average is None:
            raise ValueError("There are no averaged weights: set ema_decay, and train or resume first.")
        self.ema.copy_to(self.unwrapped_model())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates, with the averaged weights if there are any; arguments as in Trainer."""
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predicts, with the averaged weights if there are any; arguments as in Trainer."""
        with self.averaged_weights():
            return super().predict(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        check_finite_parameters(self.unwrapped_model(), folder, self.accelerator)
        with whole_checkpoint(folder, bool(self.args.should_save)):
            if self.ema is not None:
                self.ema.save(folder, self.unwrapped_model(), bool(self.args.should_save))
            if self.args.should_save:
                self.batch_record().save(folder)
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Restores weights on resuming.

        The Trainer reads a weights file by the names in it and only logs those that do not match; stock ViT's files
        hold older names, so it would resume from fresh weights. Loading through the model class renames or refuses.
        """
        names = ("model.safetensors", "model.safetensors.index.json")
        is_a_models = any((Path(resume_from_checkpoint) / name).is_file() for name in names)
        if not is_a_models or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        restored = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        check_same_model(Path(resume_from_checkpoint), restored, target)
        target.load_state_dict(restored.state_dict(), strict=True)

    def _load_best_model(self) -> None:
        """Restores the best checkpoint's weights (``load_best_model_at_end``), and their average."""
        best = str(self.state.best_model_checkpoint)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(best)
        if self.ema is not None:
            self.ema.load(Path(best), self.unwrapped_model())

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes the model's own card (``build_model_card``) into the output folder; arguments as in Trainer."""
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, HubRepositoryMixin):
            super().create_model_card(
                language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
            )
        elif self.is_world_process_zero():
            given = {"license": license, "base_model": finetuned_from, "repo_id": self.hub_model_id or model_name}
            names = [dataset] if isinstance(dataset, str) else dataset or []
            accuracies = [entry["eval_accuracy"] for entry in self.state.log_history if "eval_accuracy" in entry]
            card = model_card_of(
                model,
                dataset=names[0] if names else None,
                accuracy=accuracies[-1] if accuracies else None,
                tags=[tags] if isinstance(tags, str) else tags or [],
                **{name: value for name, value in given.items() if value is not None},
            )
            card.save(Path(str(self.args.output_dir)) / "README.md")


def is_sampled(dataset: Any) -> bool:
    """Whether examples are drawn from a data set by their numbers, and not iterated."""
    return has_length(dataset) and not isinstance(dataset, IterableDataset)
