# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""What the classifiers of all families share: what they read of an encoder's tokens, and a linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .reduction_config import ReductionConfig
from .reduction_model import FATRModelOutput, ReductionModel, check_no_training
from .token_plan import LayerPlan
from .token_reduction import restore_tokens


@dataclass
class FATRImageClassifierOutput(ImageClassifierOutput):
    """A stock classifier's output and, where asked for, ``token_sources`` (see ``FATRModelOutput``)."""

    token_sources: tuple[Tensor, ...] | None = None


class ReductionClassifier(ReductionModel):
    """An encoder, as ``base_model``, and a linear classifier on what is read out of it."""

    output_class: ClassVar[type[FATRImageClassifierOutput]] = FATRImageClassifierOutput

    def classified(self, outputs: FATRModelOutput) -> Tensor:
        """What is classified of an encoder's outputs, (batch, channels)."""
        sequence: Any = outputs.last_hidden_state
        parts = []
        if self.config.classifier_reads in ("cls", "cls_and_patches"):
            parts.append(sequence[:, 0])
        if self.config.classifier_reads in ("patches", "cls_and_patches"):
            parts.append(mean_of_patches(sequence, outputs.token_sizes, self.config.num_prefix_tokens))
        if self.config.classifier_reads == "first_patch":
            parts.append(first_patch(sequence, outputs.token_sources, self.config.num_prefix_tokens))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def classify(self, outputs: FATRModelOutput) -> Tensor:
        """Logits (batch, classes) of an encoder's outputs."""
        classifier: Any = self.classifier
        logits: Tensor = classifier(self.classified(outputs))
        return logits

    def further_outputs(self, outputs: FATRModelOutput) -> dict[str, Tensor]:
        """What a classifier gives beside logits, by name."""
        return {}

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        plan: Sequence[LayerPlan] | None = None,
        output_token_sources: bool = False,
        **kwargs: Any,
    ) -> FATRImageClassifierOutput:
        """Classifies images; arguments as for the encoder.

        Args:
            labels: (batch,) int64 class indices, for the loss.
        """
        check_no_training(self)
        plan = self.plan_for(pixel_values, plan)
        asked = {"output_token_sources": output_token_sources, **kwargs}
        if self.config.classifier_reads == "cls" and not asks_for_more(self.config, asked):
            plan[-1] = plan[-1]._replace(prefix_only=True)
        # Dense outputs begin with the first patch.
        reads_first = self.config.classifier_reads == "first_patch" and not self.config.dense_outputs
        outputs = self.base_model(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            plan=plan,
            output_token_sources=output_token_sources or reads_first,
            output_token_sizes=self.config.classifier_reads != "cls",
            return_dict=True,
            **kwargs,
        )
        logits = self.classify(outputs)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return self.output_class(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_sources=outputs.token_sources if output_token_sources else None,
            **self.further_outputs(outputs),
        )


def mean_of_patches(sequence: Tensor, sizes: Tensor | None, num_prefix: int) -> Tensor:
    """The mean over all patches of the image, each token weighed by the patches it stands for.

    It equals the mean of the restored grid (``restore_tokens``).

    Args:
        sequence: (batch, tokens, hidden).
        sizes: (batch, tokens), of ``token_sizes``; None where every token stands for one patch.
        num_prefix: tokens before the patches.

    Returns:
        (batch, hidden).
    """
    patches = sequence[:, num_prefix:]
    if sizes is None:
        return patches.mean(dim=1)
    shares = sizes[:, num_prefix:].to(torch.promote_types(sequence.dtype, torch.float32))
    shares = shares / shares.sum(dim=1, keepdim=True)
    return (shares[:, None].to(sequence.dtype) @ patches).squeeze(1)


def first_patch(sequence: Tensor, sources: tuple[Tensor, ...] | None, num_prefix: int) -> Tensor:
    """The token that stands for the first patch, (batch, hidden); zeros where none does.

    Args:
        sequence: (batch, tokens, hidden).
        sources: for each reduction, of ``token_sources``.
        num_prefix: tokens before the patches.
    """
    return restore_tokens(sequence, sources[-1][:, :1])[:, 0] if sources else sequence[:, num_prefix]


def linear_classifier(config: ReductionConfig) -> nn.Linear | nn.Identity:
    """The classifier of a configuration; the identity where it has no classes."""
    return nn.Linear(config.classifier_width, config.num_labels) if config.num_labels else nn.Identity()


def asks_for_more(config: ReductionConfig, arguments: dict[str, Any]) -> bool:
    """Whether a classifier is asked for more than logits, so that all tokens of its last layer are computed."""
    asked = ("output_hidden_states", "output_attentions", "output_token_sources")
    return config.dense_outputs or any(arguments.get(name, getattr(config, name, False)) for name in asked)
