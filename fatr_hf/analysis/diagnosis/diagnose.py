"""Whether a reduction suits a model: everything that tells, measured in one pass over images.

``findings.find`` draws conclusions from it, ``page`` writes them down. Images stream through in batches; what is kept
of them are means and counts, so that memory does not grow with their number.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...baselines.arguments import check_fatr, check_takes_images
from ...baselines.matched import build_rival
from ...modeling.reduction_config import REDUCTION_FIELDS
from ...modeling.reduction_model import ReductionModel
from ..analyze import Moments, RunningAnalysis, to_row
from ..compare import to_figure
from ..images import Batch
from ..model_inputs import check_finite, model_batches
from ..outputs import judge, model_output
from ..schedule import Schedule
from ..trace import check_traceable, trace
from .measures import attractor_measures, attractors, reduction_measures
from .result import LEAST_IMAGES, Diagnosis, FixedSink
from .trials import Key, list_trials, local_schedule, run_trials

STATE_MEASURES = ("effective_rank", "high_frequency_share", "pairwise_cosine")
"""What tells whether tokens grow alike, of ``model_measures.MEASURES``."""

FIXED_SINK_SHARE = 0.5
"""A place is a fixed sink where its patch is a sink in at least so large a share of the images."""


def diagnose(model: ReductionModel, data: Any, batch_size: int = 32) -> Diagnosis:
    """Measures what a reduction does to a model, and what others would do.

    Every batch takes about three forward passes for each layer of the model, and ten more.

    Args:
        model: a FATR classifier or encoder with eager attention, in evaluation mode; it is left as it is.
        data: see ``images.batches``.
        batch_size: images at a time.

    Returns:
        ``answers``: those of ``outputs.judge`` for the model beside itself with the reduction off; where images have
        a class of the model also ``unreduced_accuracy``, and ``accuracy_lost``, their difference; and of ``trials``
        those of whole schedules. ``rows``: those of ``measures.attractor_measures`` for every layer without
        reduction, of ``reduction_measures`` for every reduction, and of trials in one layer.

    Raises:
        ValueError: what is no FATR model, or one that is in training, fused, without attention maps or without a
            reduction; data that it cannot take; outputs that are not finite.
    """
    running = RunningDiagnosis(model)
    for batch in model_batches(model, data, batch_size):
        running.add(batch)
    return running.finish()


class RunningDiagnosis:
    """A diagnosis that takes batch after batch.

    Args:
        model: see ``diagnose``.
    """

    def __init__(self, model: ReductionModel):
        check_maps(model)
        self.trials = list_trials(model.config)
        self.model = model
        self.twin: Any = build_rival(model, "random")
        self.moments: dict[Key, Moments] = {}
        self.analyses = {name: RunningAnalysis(STATE_MEASURES) for name in ("unreduced", "reduced", "random")}
        rows, columns = model.config.patch_grid()
        self.sink_counts = torch.zeros(model.config.num_hidden_layers, rows, columns, dtype=torch.int64)

    def add(self, batch: Batch) -> None:
        """Takes images and, perhaps, their labels."""
        pixel_values = batch.pixel_values
        with self.model.reduction(False):
            reference = check_finite(self.model, model_output(self.model, pixel_values))
            self.analyses["unreduced"].add(self.model, pixel_values)
            kinds = self.add_unreduced_layers(pixel_values)
        self.analyses["reduced"].add(self.model, pixel_values)
        for each in trace(self.model, pixel_values):
            if each.reduction is not None:
                self.take(at(each.layer, reduction_measures(each, kinds)))
        self.take(at(None, compare_answers(self.model, batch, reference)))
        self.analyses["random"].add(self.twin, pixel_values)
        self.take(run_trials(self.twin, self.trials, pixel_values, reference))

    def add_unreduced_layers(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Takes sinks and high norms of all layers; gives the patches (batch, patches) that are such in any layer."""
        found: dict[str, Tensor] = {}
        for each in trace(self.model, pixel_values):
            masks = attractors(each)
            self.take(at(each.layer, attractor_measures(each, masks)))
            self.sink_counts[each.layer] += masks["sinks"].sum(dim=0).cpu().unflatten(0, each.entering.grid)
            found = {name: mask | found.get(name, torch.zeros_like(mask)) for name, mask in masks.items()}
        return found

    def take(self, measures: Mapping[Key, Tensor]) -> None:
        """Adds the values (batch,) of some measures to what is known of them."""
        for key, values in measures.items():
            new = Moments.of(values)
            self.moments[key] = self.moments[key].merge(new) if key in self.moments else new

    def finish(self) -> Diagnosis:
        """The diagnosis of all images so far."""
        config = self.model.config
        rows, columns = config.patch_grid()
        found = [(name, layer, each) for (name, layer), each in self.moments.items() if each.number]
        local = local_schedule(config)
        schedules = {"unreduced": Schedule(), "reduced": Schedule.of(config), "local": local}
        images = self.analyses["reduced"].images
        return Diagnosis(
            images=images,
            grid=(rows, columns),
            depth=config.num_hidden_layers,
            reduction={name: getattr(config, name) for name in REDUCTION_FIELDS},
            local_reduction=None if local is None else local.fields,
            macs={name: schedule.macs(config) for name, schedule in schedules.items() if schedule is not None},
            answers={name: to_figure(each) for name, layer, each in found if layer is None},
            rows=tuple(to_row(name, layer, None, each) for name, layer, each in found if layer is not None),
            analyses={name: analysis.finish() for name, analysis in self.analyses.items()},
            fixed_sinks=find_fixed_sinks(self.sink_counts, images),
        )


def check_maps(model: ReductionModel) -> None:
    """Raises a ValueError for what is no FATR model that can be traced, or whose attention makes no maps."""
    check_fatr(model, "diagnosed")
    check_takes_images(model.config, "diagnosed")
    check_traceable(model)
    if model.config._attn_implementation != "eager":
        raise ValueError(
            "A diagnosis needs attention maps: load the model with attn_implementation='eager', "
            f"not {model.config._attn_implementation!r}."
        )


def at(layer: int | None, measures: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    """Measures of one layer, or of none, as ``take`` wants them."""
    return {(name, layer): values for name, values in measures.items()}


def find_fixed_sinks(counts: Tensor, images: int) -> tuple[FixedSink, ...]:
    """The places that are sinks in most images.

    Args:
        counts: (layers, rows, columns) int64, in how many of the images a place is a sink.
        images: how many there are.
    """
    if images < LEAST_IMAGES:
        return ()
    shares = counts / images
    places = (shares >= FIXED_SINK_SHARE).nonzero().tolist()
    return tuple(FixedSink(layer, row, column, float(shares[layer, row, column])) for layer, row, column in places)


def compare_answers(model: ReductionModel, batch: Batch, reference: Tensor) -> dict[str, Tensor]:
    """What a model answers beside its unreduced outputs (batch, features), for each image.

    Raises:
        ValueError: outputs that are not finite.
    """
    output = check_finite(model, model_output(model, batch.pixel_values))
    measures = judge(model, batch, output, reference)
    if "accuracy" in measures:
        measures["unreduced_accuracy"] = judge(model, batch, reference, reference)["accuracy"]
        measures["accuracy_lost"] = measures["unreduced_accuracy"] - measures["accuracy"]
    return measures
