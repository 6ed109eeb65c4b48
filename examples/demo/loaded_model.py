"""A model of pictures or videos, and what it is compared with: plans at the same cost, on one copy of its weights.

Nothing of a ``LoadedModel`` changes but the plans that it keeps, so visitors with other budgets share it.
"""

from typing import Any, NamedTuple

import torch
from transformers import BaseImageProcessor

from fatr_hf.baselines.macs import plan_macs
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.benchmark.frontier import LABELS, plan_within
from fatr_hf.benchmark.machine import choose_device
from fatr_hf.hub.checkpoints import find_image_processor, is_fatr, read_config
from fatr_hf.hub.load import check_family, check_has_processor, load_reduced, quiet_loading, reduced_class
from fatr_hf.images.processors import resize_processor
from fatr_hf.modeling.reduction_config import as_pair
from fatr_hf.modeling.reduction_model import ReductionModel
from fatr_hf.modeling.token_plan import LayerPlan

METHODS = ("faithful", "paper", "tome")
"""Of ``LABELS``: what stands beside the unreduced model."""

UNREDUCED, AS_SAVED = "Unreduced", "FATR, as saved"


class Contestant(NamedTuple):
    """A way to run the model."""

    label: str
    model: ReductionModel
    """Whose layers can be looked into."""
    runner: ReductionModel
    """Its fused copy, which is timed."""
    plan: list[LayerPlan]
    macs: float
    """Share of the unreduced model's multiply-accumulates."""


class LoadedModel:
    """A model without its reduction, its image processor, and the contestants at every budget.

    Args:
        name: folder or Hub name.
        model: an encoder or a classifier. Where its own configuration reduces and ``is_saved``, it is a contestant too.
        processor: makes pixel values of pictures, or of the frames of a video.
        is_saved: whether the reduction is the checkpoint's own.
    """

    def __init__(self, name: str, model: ReductionModel, processor: BaseImageProcessor, is_saved: bool):
        self.name = name
        self.processor = processor
        self.model = unreduced_copy(model)
        self.runner = self.model.fuse()
        whole = self.model.config.plan(reduce=False)
        self.whole_macs = plan_macs(self.model, whole)
        self.always = [Contestant(UNREDUCED, self.model, self.runner, whole, 1.0)]
        plan = model.config.plan()
        if is_saved and any(step.reduces for step in plan):
            share = plan_macs(model, plan) / self.whole_macs
            self.always.append(Contestant(AS_SAVED, model, model.fuse(), plan, share))
        self.at_budgets: dict[float, list[Contestant]] = {}

    @property
    def is_for_videos(self) -> bool:
        """Whether it takes videos."""
        return "frames" in self.model.config.input_axes

    def contestants(self, budget: float) -> list[Contestant]:
        """The unreduced model, the model as it was saved, and the ``METHODS`` at a budget; the plans are kept.

        A method that cannot meet the budget is left out.

        Args:
            budget: share of the unreduced model's multiply-accumulates, in (0, 1).

        Raises:
            ValueError: no method can meet the budget.
        """
        if budget not in self.at_budgets:
            found, refusals = [], []
            for name in METHODS:
                try:
                    plan = plan_within(self.model, name, budget * self.whole_macs)
                except ValueError as error:
                    refusals.append(error)
                    continue
                share = plan_macs(self.model, plan) / self.whole_macs
                found.append(Contestant(LABELS[name], self.model, self.runner, plan, share))
            if not found:
                raise ValueError(f"Nothing can be compared at {budget:g} of the cost: {refusals[0]}")
            self.at_budgets[budget] = found
        return [*self.always, *self.at_budgets[budget]]


def load(name: str, revision: str | None = None, device: str | None = None) -> LoadedModel:
    """A model of pictures, of any family.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.
        device: such as ``cuda:1`` or ``cpu``; by default CUDA where there is one.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model of no family or of videos, no image processor or one that does not fit, or a device that is
            not there.
    """
    is_saved = is_fatr(read_config(name, revision))
    model, processor = load_reduced(name, revision=revision, device=choose_device(device), **without(is_saved))
    processor = check_has_processor(processor)
    if model.config.takes_any_size:
        processor = resize_processor(processor, as_pair("image_size", model.config.image_size))
    return LoadedModel(name, model, processor, is_saved)


def load_video(name: str, revision: str | None = None, device: str | None = None) -> LoadedModel:
    """A model of videos; arguments as for ``load``.

    Raises:
        FileNotFoundError: no checkpoint of this name.
        ValueError: a model of no family or of pictures, no image processor or one that does not fit, or a device that
            is not there.
    """
    fields = read_config(name, revision)
    if "frames" not in check_family(name, fields["model_type"]).config.input_axes:
        raise ValueError(f"--video_model {name!r} is of model type {fields['model_type']!r}, which takes no videos.")
    with quiet_loading():
        model = reduced_class(name, fields).from_pretrained(name, revision=revision, **without(is_fatr(fields)))
    processor = find_image_processor(name, revision)
    if processor is None:
        raise ValueError(
            f"--video_model {name!r} has no image processor, which frames need: save one beside it, such as "
            "VideoMAEImageProcessor().save_pretrained(folder)."
        )
    frames, channels, height, width = model.config.input_shape()
    blank = torch.zeros(frames, 3, height + 16, width + 32, dtype=torch.uint8)
    given = tuple(processor(list(blank), return_tensors="pt")["pixel_values"].shape[1:])
    if given != (frames, channels, height, width):
        raise ValueError(
            f"The image processor of --video_model {name!r} gives frames of the shape {given[1:]}, and the model takes "
            f"{(channels, height, width)}: set its size and crop_size."
        )
    return LoadedModel(name, model.eval().to(choose_device(device)), processor, is_fatr(fields))


def without(is_saved: bool) -> dict[str, Any]:
    """Fields for loading: of a stock model the reduction's own parameters would start at zero and change nothing."""
    return {} if is_saved else {"reweight_attention": False, "dc_position_embeddings": False}
