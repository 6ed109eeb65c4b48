"""What a diagnosis means: rules, each with its evidence, its threshold and its advice.

The thresholds are rules of thumb, set by hand with a few small models in view. A rule that compares asks for a
difference of ``MARGIN`` standard errors, and is silent below ``LEAST_IMAGES`` images.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ...baselines.arguments import check_kind
from ..compare import Figure
from ..model_inputs import without_class
from .measures import HIGH_NORM_RATIO, SINK_RATIO
from .result import LEAST_IMAGES, Diagnosis

MARGIN = 2.0
"""Standard errors of a mean that are allowed for, about a 95% interval."""

TOLERATED_ACCURACY_LOSS = 0.01
TOLERATED_CHANGES = 0.05
"""Share of the images whose class may change, where labels do not tell whether for the better."""
TOLERATED_COSINE_LOSS = 0.02
"""How far below 1 the cosine to an encoder's unreduced outputs may be; and that of a reduction in one layer alone."""

LOCAL_GAIN = 0.25
"""Local windows are advised where they win back so large a share of what the cosine lost."""

SINK_MASS = 0.05
"""Sinks are reported from this share of a layer's attention on."""

HIGH_NORMS_PER_IMAGE = 0.5
"""Patches of a high norm are reported from so many on."""

SEVERITIES = ("good", "warning", "unsure", "note")


class Finding(NamedTuple):
    """A conclusion."""

    severity: str
    """One of ``SEVERITIES``."""
    title: str
    evidence: str
    """What was measured."""
    threshold: str
    """The rule, with its number."""
    advice: str


class Loss(NamedTuple):
    """What a verdict goes by."""

    words: str
    """What was measured, with its numbers."""
    mean: float
    margin: float
    """How far off the mean may be."""
    tolerated: float
    threshold: str


def find(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """All conclusions that rules draw from a diagnosis, the verdict first."""
    check_kind("diagnosis", diagnosis, Diagnosis, "what diagnose gave")
    found = (rule(diagnosis) for rule in RULES)
    return tuple(finding for finding in found if finding is not None)


def verdict(diagnosis: Diagnosis) -> Finding:
    """Whether the reduction suits the model as it is."""
    loss = decisive_loss(diagnosis)
    if loss.mean + loss.margin <= loss.tolerated:
        advice = "Use it as it is. fatr-hf bench measures the gain in speed on your device."
        return Finding("good", "The reduction suits this model", loss.words, loss.threshold, advice)
    if loss.mean - loss.margin > loss.tolerated:
        advice = "Fine-tune the reduced model, or reduce less: raise the keep ratio or reduce in fewer layers."
        return Finding("warning", "Fine-tune before use", loss.words, loss.threshold, advice)
    advice = (
        f"Give more images like those the model is meant for: at least {LEAST_IMAGES}, better a few hundred. Four "
        "times as many halve the standard error."
    )
    return Finding("unsure", "Too few images for a verdict", loss.words, loss.threshold, advice)


def decisive_loss(diagnosis: Diagnosis) -> Loss:
    """The loss of accuracy; without labels the share of changed answers, of encoders what the cosine lost."""
    answers = diagnosis.answers
    if "accuracy_lost" in answers:
        lost = answers["accuracy_lost"]
        words = (
            f"Accuracy is {percent(answers['unreduced_accuracy'])} without the reduction and "
            f"{percent(answers['accuracy'])} with it: {100 * abs(lost.mean):.1f} points "
            f"{'gained' if lost.mean < 0 else 'lost'}{error(lost, 100)}."
        )
        words = " ".join(filter(None, (words, without_class(lost.images, diagnosis.images))))
        return counted_loss("Accuracy may fall by at most", words, lost, TOLERATED_ACCURACY_LOSS)
    if "agreement" in answers:
        changes = complement(answers["agreement"])
        words = f"The reduction changes the class of {percent(changes)} of the images{error(changes, 100)}."
        return counted_loss("The share of changed classes may be at most", words, changes, TOLERATED_CHANGES)
    lost = complement(answers["cosine"])
    words = f"The cosine to the unreduced outputs is {1 - lost.mean:.4f}{error(lost, 1)}."
    threshold = (
        f"The cosine may be at most {TOLERATED_COSINE_LOSS:g} below 1, including a margin of {MARGIN:g} standard "
        "errors."
    )
    return Loss(words, lost.mean, margin(lost), TOLERATED_COSINE_LOSS, threshold)


def counted_loss(rule: str, words: str, lost: Figure, tolerated: float) -> Loss:
    """A loss that counts images; its margin is three images at least, since none of ``n`` leaves up to ``3/n``."""
    threshold = (
        f"{rule} {tolerated:g}, including a margin of {MARGIN:g} standard errors or 3 images, whichever is larger."
    )
    return Loss(words, lost.mean, max(margin(lost), 3 / lost.images), tolerated, threshold)


def reduce_later(diagnosis: Diagnosis) -> Finding | None:
    """A reduction that alone costs as much as all together may."""
    lost = {layer: complement(cosine) for layer, cosine in diagnosis.by_layer("cosine_alone").items()}
    harmful = [layer for layer, each in lost.items() if each.mean - margin(each) > TOLERATED_COSINE_LOSS]
    if not harmful:
        return None
    moved = diagnosis.by_layer("cosine_moved")
    # A reduction in the last layer saves next to nothing.
    later = [
        layer for layer in range(harmful[-1] + 1, diagnosis.depth - 1) if 1 - moved[layer].mean <= TOLERATED_COSINE_LOSS
    ]
    costs = join(f"{lost[layer].mean:.3f} in layer {layer}" for layer in harmful)
    evidence = f"A reduction alone lowers the cosine to the unreduced outputs by {costs}."
    advice = "Keep more patches: the first reduction costs too much in all later layers too."
    if later:
        evidence += f" Moved to layer {later[0]}, the first reduction lowers it by {1 - moved[later[0]].mean:.3f}."
        advice = f"Reduce from layer {later[0]} on, or keep more patches."
    threshold = (
        f"A reduction in one layer lowers the cosine by more than {TOLERATED_COSINE_LOSS:g}, after a margin of "
        f"{MARGIN:g} standard errors."
    )
    return Finding("warning", "Reduce later", evidence, threshold, advice)


def use_local_windows(diagnosis: Diagnosis) -> Finding | None:
    """Windows near where patches were win back a good part of what was lost."""
    gain, own = diagnosis.answers.get("gain_local"), diagnosis.answers["cosine_as_it_is"].mean
    if gain is None or gain.mean <= max(margin(gain), LOCAL_GAIN * (1 - own)):
        return None
    local, cost = diagnosis.local_reduction or {}, diagnosis.macs["local"] / diagnosis.macs["unreduced"]
    evidence = (
        f"At {cost:.2f} of the unreduced cost, local windows reach a cosine of {own + gain.mean:.4f} to the unreduced "
        f"outputs. The present reduction reaches {own:.4f}, which is {gain.mean:.4f} less{error(gain, 1)}."
    )
    threshold = (
        f"They recover more than {100 * LOCAL_GAIN:g}% of the lost cosine, and more than {MARGIN:g} standard errors."
    )
    advice = (
        f"Try dc_windows={local['dc_windows'][0]}, size_exponent={local['size_exponent']:g} and "
        f"keep_ratio={local['keep_ratio'][0]:g}, or the preset local with an unreduced checkpoint."
    )
    return Finding("note", "Local windows lose less", evidence, threshold, advice)


def compare_with_chance(diagnosis: Diagnosis) -> Finding | None:
    """Whether it matters which patches are kept."""
    gain = diagnosis.answers.get("gain_random")
    if gain is None or gain.images < LEAST_IMAGES:
        return None
    cosines = {name: diagnosis.answers.get(f"cosine_{name}") for name in ("as_it_is", "random", "low_frequency")}
    words = {"as_it_is": "the model's own selection", "random": "a random one", "low_frequency": "low frequencies"}
    each = [f"{words[name]} {cosine.mean:.4f}" for name, cosine in cosines.items() if cosine is not None]
    evidence = (
        f"Cosine to the unreduced outputs at the same cost: {join(each)}. The random selection differs from the "
        f"model's own by {gain.mean:+.4f}{error(gain, 1)}."
    )
    width = margin(gain)
    threshold = f"A difference of more than {MARGIN:g} standard errors."
    if gain.mean + width < 0:
        advice = "Keep the selection: it matters for this model which patches are kept."
        return Finding("good", "The selection does better than chance", evidence, threshold, advice)
    advice = (
        "Do not rely on the choice of patches. Compare selections by their accuracy after fine-tuning, which evens out "
        "most differences (docs/study.md)."
    )
    if gain.mean - width > 0:
        return Finding("warning", "A random selection does better on these images", evidence, threshold, advice)
    return Finding("note", "The selection does no better than chance on these images", evidence, threshold, advice)


def keeps_less_detail(diagnosis: Diagnosis) -> Finding | None:
    """Kept patches that carry less high-frequency energy than a random choice would."""
    over = diagnosis.by_layer("energy_over_chance")
    layers = [layer for layer, each in over.items() if each.mean + margin(each) < 0]
    if not layers:
        return None
    kept, chance = diagnosis.by_layer("energy_of_patches"), diagnosis.by_layer("energy_by_chance")
    each = (f"{percent(kept[layer])} in layer {layer} (by chance {percent(chance[layer])})" for layer in layers)
    return Finding(
        "note",
        "The kept patches carry less detail than a random choice",
        f"Of the high-frequency energy they keep {join(each)}.",
        f"More than {MARGIN:g} standard errors below the mean over all possible choices.",
        "Judge the reduction by its answers: the attention that patches receive does not bound their energy "
        "(docs/theory.md, section 4).",
    )


def report_sinks(diagnosis: Diagnosis) -> Finding | None:
    """Patches that take a good part of the attention whatever the query."""
    masses, counts = diagnosis.by_layer("mass_of_sinks"), diagnosis.by_layer("sinks")
    if not masses:
        return None
    worst = max(masses, key=lambda layer: masses[layer].mean)
    if masses[worst].mean < SINK_MASS and not diagnosis.fixed_sinks:
        return None
    evidence = (
        f"In layer {worst}, sinks receive {percent(masses[worst])} of all attention: {counts[worst].mean:.2g} patches "
        f"per image. {still_kept(diagnosis, 'sinks')}"
    )
    if diagnosis.fixed_sinks:
        places = dict.fromkeys(f"row {sink.row} column {sink.column}" for sink in diagnosis.fixed_sinks)
        evidence += f" At least half of the images have a sink at {join(places)}."
    return Finding(
        "note",
        "A few patches draw attention whatever the query",
        evidence,
        f"A sink's column mean is at least {SINK_RATIO:g} times the uniform share. Reported if sinks receive at least "
        f"{100 * SINK_MASS:g}% of a layer's attention, or lie at a fixed position.",
        "A kept sink takes the place of a patch with detail; the attention to a folded one moves elsewhere. See where "
        "they lie with fatr-hf visualize --kind scores. A model with registers has fewer.",
    )


def report_high_norms(diagnosis: Diagnosis) -> Finding | None:
    """Patches much longer than the others, which registers are meant to replace."""
    counts, masses = diagnosis.by_layer("high_norms"), diagnosis.by_layer("mass_of_high_norms")
    layers = [layer for layer, each in counts.items() if each.mean >= HIGH_NORMS_PER_IMAGE]
    if not layers:
        return None
    most = max(layers, key=lambda layer: counts[layer].mean)
    return Finding(
        "note",
        "Some patches have a norm far above the others",
        f"Layer {most} has {counts[most].mean:.2g} per image, which receive {percent(masses.get(most))} of its "
        f"attention. {len(layers)} of {diagnosis.depth} layers have them. {still_kept(diagnosis, 'high_norms')}",
        f"Their norm is at least {HIGH_NORM_RATIO:g} times the median. Reported if a layer has at least "
        f"{HIGH_NORMS_PER_IMAGE:g} per image.",
        "They store information about the whole image, so keep them: reduce in layers that keep them, or use a model "
        "with registers.",
    )


def still_kept(diagnosis: Diagnosis, name: str) -> str:
    """A sentence on how many of some patches are still tokens of their own after each reduction."""
    kept = diagnosis.by_layer(f"{name}_kept")
    return f"Still kept: {join(f'{percent(each)} after layer {layer}' for layer, each in kept.items())}."


def report_missing_labels(diagnosis: Diagnosis) -> Finding | None:
    """A verdict without accuracy is about faithfulness alone."""
    if "accuracy" in diagnosis.answers:
        return None
    return Finding(
        "note",
        "Accuracy is not known",
        "The images have no labels that are classes of the model."
        if "agreement" in diagnosis.answers
        else "The model is an encoder: it is judged by its outputs, not by a task.",
        "At least one image has a label that is a class of the model.",
        "Put the images of each class into a folder named after it, or measure the task that the model is meant for.",
    )


RULES: tuple[Callable[[Diagnosis], Finding | None], ...] = (
    verdict,
    reduce_later,
    compare_with_chance,
    use_local_windows,
    keeps_less_detail,
    report_sinks,
    report_high_norms,
    report_missing_labels,
)


def margin(figure: Figure) -> float:
    """How far off a mean may be; infinite where it is over too few images to say."""
    if figure.standard_error is None or figure.images < LEAST_IMAGES:
        return math.inf
    return MARGIN * figure.standard_error


def complement(figure: Figure) -> Figure:
    """What is missing to 1."""
    return figure._replace(mean=1 - figure.mean)


def percent(figure: Figure | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if figure is None else f"{100 * figure.mean:.1f}%"


def error(figure: Figure, factor: float) -> str:
    """The standard error and the number of images, as the end of a phrase."""
    if figure.standard_error is None:
        return f" ({figure.images} image, so no standard error)"
    return f" (standard error {factor * figure.standard_error:.2g}, {figure.images} images)"


def join(parts: Iterable[str]) -> str:
    """A list in words."""
    return ", ".join(parts)
