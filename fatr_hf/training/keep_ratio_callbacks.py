"""Keep ratios that change while training: one model for many budgets, or a gentle start.

Outside of forward passes the configuration is as it was given: evaluations and checkpoints see that and nothing else.
"""

import random
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..modeling.budget import admissible_keep_ratios, is_admissible
from ..modeling.reduction_model import ReductionModel
from ..modeling.token_plan import per_layer
from .guards import check_count, check_number


class KeepRatioCallback(TrainerCallback):
    """Gives every optimiser step a keep ratio; subclasses say which.

    It holds within the model's forward pass in training and nowhere else: whatever evaluates or saves, be it amid a
    step or after an error, finds the configuration as it was given.
    """

    def __init__(self) -> None:
        self.nominal: Any = None
        self.allowed: list[float] = []
        self.current: Any = None
        self.run: TrainerState | None = None
        self.hooks: list[RemovableHandle] = []

    def keep_ratio(self, args: TrainingArguments, state: TrainerState, model: Any) -> Any:
        """The keep ratio of the coming step: one, or one for each reduction layer."""
        raise NotImplementedError

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Notes the keep ratio as it is configured, and waits for forward passes.

        Raises:
            ValueError: a model that is no FATR model, or another callback of this kind.
        """
        fatr = fatr_model(model, type(self).__name__)
        for hook in list(fatr._forward_pre_hooks.values()):
            other = getattr(hook, "__self__", None)
            if isinstance(other, KeepRatioCallback) and other is not self and other.run is state:
                raise ValueError(
                    f"{type(other).__name__} and {type(self).__name__} both change the keep ratio: use one callback of "
                    "this kind at a time."
                )
            if isinstance(other, KeepRatioCallback):
                other.detach()  # left by a run that an error ended
        self.nominal, self.allowed = fatr.config.keep_ratio, admissible_keep_ratios(fatr.config)
        self.run, self.current = state, self.nominal
        self.hooks = [
            fatr.register_forward_pre_hook(self.before_forward),
            fatr.register_forward_hook(self.after_forward, always_call=True),
        ]

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Chooses the step's keep ratio, for all of its accumulated batches; the model checks it."""
        fatr = fatr_model(model, type(self).__name__)
        self.current = self.keep_ratio(args, state, fatr)
        if self.current != self.nominal:
            fatr.set_reduction(keep_ratio=self.current)
            fatr.config.keep_ratio = self.nominal

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves the model alone."""
        self.detach()

    def before_forward(self, model: Any, inputs: Any) -> None:
        if model.training:
            model.config.keep_ratio = self.current

    def after_forward(self, model: Any, inputs: Any, outputs: Any) -> None:
        model.config.keep_ratio = self.nominal

    def detach(self) -> None:
        """Takes the hooks off the model."""
        for hook in self.hooks:
            hook.remove()
        self.hooks, self.run = [], None


class ElasticKeepRatio(KeepRatioCallback):
    """Draws one keep ratio for each step, the same in all layers and on all processes.

    The model then serves every budget in the range: ``model.set_reduction(keep_ratio=...)``, ``model.for_budget(...)``.
    The draw depends on the seed and the number of the step alone, so that a resumed run goes on with the same ones.

    Args:
        low, high: the range, both included.
        seed: of the draws.
        step: distance between the ratios that are drawn, the last of which may be nearer; each is another shape for
            ``torch.compile``.

    Raises:
        ValueError: a range that is empty or not in (0, 1), or a step that is not positive or longer than the range; in
            training, ratios that the model's schedule does not allow.
    """

    def __init__(self, low: float, high: float, seed: int = 0, step: float = 0.05):
        super().__init__()
        check_number("low", low, above=0)
        check_number("high", high, above=0)
        check_number("step", step, above=0)
        check_count("seed", seed, at_least=0)
        if not 0 < low <= high < 1:
            raise ValueError(
                f"The range of keep ratios from {low} to {high} must be ascending and inside (0, 1); at 1 nothing is "
                "reduced, and parameters of the reduction would get no gradient."
            )
        if low + step > high + 1e-6 and low < high:
            raise ValueError(f"step={step} must be at most the range from {low} to {high}: only {low} would be drawn.")
        self.seed = seed
        # The margin keeps a step that hits the end from being lost to rounding.
        self.ratios = [round(low + place * step, 6) for place in range(int((high - low) / step + 1e-6) + 1)]
        if self.ratios[-1] < round(high, 6):
            self.ratios.append(high)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Refuses ratios that the model's schedule does not allow."""
        super().on_train_begin(args, state, control, model, **kwargs)
        low, high, allowed = self.ratios[0], self.ratios[-1], self.allowed
        if not allowed or low < allowed[0] or high > allowed[-1]:
            limits = f"from {allowed[0]} to {allowed[-1]}" if allowed else "none at all"
            raise ValueError(
                f"Keep ratios from {low} to {high} are to be drawn, but the schedule allows {limits}: a reduction must "
                "shorten the sequence."
            )

    def keep_ratio(self, args: TrainingArguments, state: TrainerState, model: Any) -> float:
        return random.Random(f"{self.seed} {state.global_step}").choice(self.ratios)


class KeepRatioWarmup(KeepRatioCallback):
    """Lowers the keep ratios in a straight line, from the highest that the schedule allows to the configured ones.

    Args:
        steps: optimiser steps until the configured ratios are reached, or below 1 the share of all steps.

    Raises:
        ValueError: steps that are not positive.
    """

    def __init__(self, steps: float):
        super().__init__()
        check_number("keep_ratio_warmup", steps, above=0)
        self.steps = steps

    def keep_ratio(self, args: TrainingArguments, state: TrainerState, model: Any) -> Any:
        steps = self.steps if self.steps >= 1 else self.steps * state.max_steps
        done = min(1.0, state.global_step / steps)
        if done == 1 or not self.allowed:
            return self.nominal
        highest = self.allowed[-1]
        ratios = per_layer("keep_ratio", self.nominal, model.config.reduction_layers)
        higher = [ratio if ratio == 1 else max(ratio, ratio + (1 - done) * (highest - ratio)) for ratio in ratios]
        # Very unlike ratios can meet in a schedule that would not shorten the sequence everywhere.
        return higher if is_admissible(model.config, higher) else self.nominal


def fatr_model(model: nn.Module | None, name: str) -> ReductionModel:
    """The FATR model behind the wrappers of DDP and ``torch.compile``.

    Raises:
        ValueError: another model.
    """
    unwrapped = extract_model_from_parallel(model, keep_torch_compile=False)
    if not isinstance(unwrapped, ReductionModel):
        raise ValueError(f"{name} changes the reduction of a FATR model, which {type(unwrapped).__name__} is not.")
    return unwrapped
