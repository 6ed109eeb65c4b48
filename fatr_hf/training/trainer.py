"""Training with self-distillation, averaged weights and soft labels on top of transformers' Trainer.

The pieces are next door: ``ema.py``, ``teachers.py``, ``safety.py`` (what stops a run), ``repeated_sampler.py`` and
``reduction_log.py``. Here they meet the Trainer, by overriding its methods where a callback cannot reach.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from ..modeling.hub_repository import HubRepositoryMixin, unsharded_class
from .ema import EMACallback, open_average
from .repeated_sampler import RepeatedSampler, SetSamplerEpoch
from .run_folder import last_checkpoint
from .safety import NonFiniteLossGuard, refuse_non_finite_weights, whole_checkpoint
from .teachers import Teacher, refuse_unfit_teacher, run_with_average


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the softened class distributions, mean over the batch.

    Args:
        student_logits, teacher_logits: (batch, classes).
        temperature: ``T``, divides the logits.

    Returns:
        Scalar in float32; the factor ``T^2`` keeps the gradient's size independent of the temperature.
    """
    student = functional.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, mean over the batch, in float32.

    Args:
        logits: (batch, classes).
        labels: (batch,) int64 classes, or (batch, classes) of any floating-point type: the share of each class.
        label_smoothing: share of every label that is spread evenly over all classes.

    Raises:
        ValueError: floating-point labels of another shape than the logits.
    """
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels of type {labels.dtype} must be (batch, classes) {(*logits.shape,)}, the share of each class, "
                f"but are {(*labels.shape,)}; class numbers must be integers."
            )
        labels = labels.float()
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


class FATRTrainer(Trainer):
    """Trainer with cross-entropy, distillation from a teacher, an average of the weights and repeated augmentation.

    All but the cross-entropy is off by default. Labels may be class numbers or, after mixing images, shares of the
    classes (batch, classes). Every process and every accumulation step contributes the mean over its own batch. Label
    smoothing (``args.label_smoothing_factor``) applies to the cross-entropy in training only.

    With ``ema_decay`` evaluations and predictions, from the start of training on, are those of the averaged weights,
    and with them the choice of the best checkpoint; every checkpoint holds the average (``ema.safetensors``), and a
    resumed run goes on with it. The model keeps the trained weights until ``use_averaged_weights`` is called.

    A loss or weights that are no numbers, and a full disk, stop the run in words and leave the last good checkpoint.

    Args:
        teacher: a model with the student's classes and image size, such as the unreduced start model, frozen and
            moved to the device; or "ema", the average of the student's own weights.
        distillation_weight: factor of the distillation loss.
        distillation_temperature: its temperature.
        ema_decay: share of the average that stays in a step, such as the paper's 0.9998; None for no average.
        ema_warmup: whether the first steps keep less (see ``EMACallback``).
        repeats: how often an image that is drawn for an epoch comes in it (see ``RepeatedSampler``).
        train_collator: makes the batches of training, such as a ``MixingCollator``; by default ``data_collator``.

    Raises:
        ValueError: a teacher that is the student itself or does not fit it, a negative weight, a temperature that is
            not positive, a decay outside [0, 1), or repeats of a data set without a length.
    """

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
        # No parameter is without gradient. The Trainer hands this to accelerate in its constructor.
        if args is not None and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False
        super().__init__(model, args, *others, **kwargs)
        if distillation_weight < 0:
            raise ValueError(f"distillation_weight={distillation_weight} must be at least 0.")
        if distillation_temperature <= 0:
            raise ValueError(f"distillation_temperature={distillation_temperature} must be above 0.")
        if repeats < 1 or (repeats > 1 and self.train_dataset is not None and not has_length(self.train_dataset)):
            raise ValueError(f"repeats={repeats} must be at least 1, and 1 for a data set without a length.")
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.repeats = repeats
        self.train_collator = train_collator
        self.ema = None if ema_decay is None else EMACallback(ema_decay, ema_warmup)
        self.loss_guard = NonFiniteLossGuard(self.accelerator)
        for callback in (self.ema, self.loss_guard, SetSamplerEpoch()):
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
        return super().evaluation_loop(*args, **kwargs)

    def prepare_teacher(self, teacher: Teacher | None) -> Any:
        """Freezes a model that is to teach, and moves it to the device; raises a ValueError for an unfit teacher."""
        if teacher is None:
            return None
        if not isinstance(teacher, str):
            refuse_unfit_teacher(teacher, self.unwrapped_model())
            return nn.Module.to(teacher, self.args.device).eval().requires_grad_(False)
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
            ValueError: nothing to resume from in the output folder, or a checkpoint without the average that goes on.
            FloatingPointError: a loss or weights that are nan or inf.
            OSError: a full disk.
        """
        if resume_from_checkpoint is True:
            folder = str(self.args.output_dir)
            resume_from_checkpoint = last_checkpoint(Path(folder))
            if resume_from_checkpoint is None:
                raise ValueError(f"resume_from_checkpoint=True, but {folder} holds no complete checkpoint.")
        if self.ema is not None:
            self.ema.resume_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
            if self.ema.resume_from is not None:
                open_average(self.ema.resume_from)
        # An evaluation prepares the model without DDP, and accelerate never prepares a model again: several processes
        # would train apart, each on its own images.
        model: Any = self.model
        model._is_accelerate_prepared = False
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in Trainer, with the collator of training."""
        evaluation_collator = self.data_collator
        self.data_collator = self.train_collator or evaluation_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = evaluation_collator

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Any] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset):
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
        """Cross-entropy, and in training the weighted distillation loss; mean over the batch."""
        labels = inputs["labels"]
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
        refuse_non_finite_weights(self.unwrapped_model(), folder, self.accelerator)
        with whole_checkpoint(folder, bool(self.args.should_save)):
            if self.ema is not None:
                self.ema.save(folder, self.unwrapped_model(), bool(self.args.should_save))
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Restores weights on resuming.

        The Trainer reads a weights file by the names in it and only logs those that do not match; stock ViT's files
        hold older names, so it would resume from fresh weights. Loading through the model class renames or refuses.
        """
        is_plain_file = (Path(resume_from_checkpoint) / "model.safetensors").is_file()
        if not is_plain_file or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        restored = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
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
            card = model.build_card(
                dataset=names[0] if names else None,
                accuracy=accuracies[-1] if accuracies else None,
                tags=[tags] if isinstance(tags, str) else tags or [],
                **{name: value for name, value in given.items() if value is not None},
            )
            card.save(Path(str(self.args.output_dir)) / "README.md")
