"""Training with self-distillation on top of transformers' Trainer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, Trainer

from ..modeling.hub_repository import HubRepositoryMixin


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


class FATRTrainer(Trainer):
    """Trainer with cross-entropy and distillation from a teacher, by default none.

    Every process and every accumulation step contributes the mean over its own batch. Label smoothing
    (``args.label_smoothing_factor``) applies to the cross-entropy in training only.

    Args:
        teacher: a model with the student's classes, such as the unreduced start model; frozen, moved to the device.
        distillation_weight: factor of the distillation loss.
        distillation_temperature: its temperature.

    Raises:
        ValueError: a teacher that is the student itself or has other classes, a negative weight or a temperature
            that is not positive.
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel | None = None,
        distillation_weight: float = 1.0,
        distillation_temperature: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if distillation_weight < 0:
            raise ValueError(f"distillation_weight={distillation_weight} must be at least 0.")
        if distillation_temperature <= 0:
            raise ValueError(f"distillation_temperature={distillation_temperature} must be above 0.")
        if teacher is not None:
            self.refuse_unfit_teacher(teacher)
            nn.Module.to(teacher, self.args.device).eval().requires_grad_(False)
        self.teacher = teacher
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        # ViT's forward takes any keyword, from which the Trainer would conclude that the loss is already divided by
        # the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False

    def refuse_unfit_teacher(self, teacher: PreTrainedModel) -> None:
        """Raises a ValueError for a teacher that shares the student's weights or has other classes."""
        student = self.accelerator.unwrap_model(self.model)
        if teacher is student:
            raise ValueError("teacher is the model itself: pass a copy, such as the checkpoint it was loaded from.")
        if teacher.config.num_labels != student.config.num_labels:
            raise ValueError(
                f"teacher has {teacher.config.num_labels} classes, the model has {student.config.num_labels}: "
                "distillation compares their logits, so the classes must be the same."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; arguments as in Trainer."""
        # An evaluation prepares the model without DDP, and accelerate never prepares a model again: several processes
        # would train apart, each on its own images.
        model: Any = self.model
        model._is_accelerate_prepared = False
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy, and in training the weighted distillation loss; mean over the batch."""
        labels = inputs["labels"]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs)
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        loss = functional.cross_entropy(outputs.logits.float(), labels, label_smoothing=smoothing)
        if self.teacher is not None and self.distillation_weight and model.training:
            with torch.no_grad(), self.accelerator.autocast():
                teacher_logits = self.teacher(**inputs).logits
            distillation = distillation_loss(outputs.logits, teacher_logits, self.distillation_temperature)
            loss = loss + self.distillation_weight * distillation
        return (loss, outputs) if return_outputs else loss

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
