"""What a diagnosis measures in a layer: what a reduction keeps, and patches that draw attention whatever the image.

Masks of patches are (batch, patches) bool, measures (batch,) in float32 or better.
"""

from collections.abc import Mapping

from torch import Tensor

from ..measures import expected_random_energy, high_frequency_energy, widened
from ..model_measures import mass_kept
from ..trace import LayerTrace

SINK_RATIO = 10.0
"""A patch is a sink in a layer where its column mean is at least so many times that of uniform attention."""

HIGH_NORM_RATIO = 3.0
"""A patch has a high norm where it is at least so many times as long as the median patch of its image."""


def attention_sinks(trace: LayerTrace) -> Tensor:
    """The patches that are sinks in a layer (arXiv 2309.17453 describes them in language models).

    Raises:
        ValueError: there are no scores.
    """
    return trace.patch_scores * trace.entering.tokens.shape[1] >= SINK_RATIO


def high_norms(trace: LayerTrace) -> Tensor:
    """The patches with a high norm among those that leave an unreduced layer (arXiv 2309.16588)."""
    norms = widened(trace.leaving.patch_tokens).norm(dim=2)
    return norms >= HIGH_NORM_RATIO * norms.median(dim=1, keepdim=True).values


def attractors(trace: LayerTrace) -> dict[str, Tensor]:
    """The masks of both kinds of patches in an unreduced layer: ``sinks`` and ``high_norms``."""
    return {"sinks": attention_sinks(trace), "high_norms": high_norms(trace)}


def attractor_measures(trace: LayerTrace, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How many patches of each kind an unreduced layer has and, as ``mass_of_...``, their share of all attention."""
    counts = {name: mask.sum(dim=1) for name, mask in masks.items()}
    return counts | {f"mass_of_{name}": (trace.patch_scores * mask).sum(dim=1) for name, mask in masks.items()}


def reduction_measures(trace: LayerTrace, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a reduction keeps: patches, column mass, high-frequency energy, and patches of certain kinds.

    Args:
        trace: of a FATR model's layer that reduces.
        masks: the kinds of patches, by name.

    Returns:
        ``patches_kept`` and ``mass_kept``, of the patches at hand and of their column mass; ``energy_...`` (see
        ``energy_measures``); and ``..._kept`` for each mask, the share of its patches that still are tokens of their
        own, not-a-number where it is empty.
    """
    mass, own, still_own = mass_kept(trace), trace.entering.own, trace.leaving.own
    assert mass is not None
    shares = {"patches_kept": still_own.sum(dim=1) / own.sum(dim=1), "mass_kept": mass, **energy_measures(trace)}
    return shares | {f"{name}_kept": (mask & still_own).sum(dim=1) / mask.sum(dim=1) for name, mask in masks.items()}


def energy_measures(trace: LayerTrace) -> dict[str, Tensor]:
    """Shares of the high-frequency energy ``E(X)`` before a reduction (sections 2 and 4 of docs/theory.md).

    Returns:
        ``energy_kept`` by the whole sequence after it, ``energy_of_patches`` by prefix and kept patches without the DC
        tokens; for these also ``energy_by_chance``, the mean over all ways to keep as many patches,
        ``energy_over_chance``, the difference, and ``energy_guaranteed``, a lower bound that follows from the energy
        of what is folded, 0 where it says nothing.
    """
    assert trace.reduction is not None
    before, after = (widened(tokens) for tokens in trace.reduction)
    prefix, length = trace.entering.num_prefix, before.shape[1]
    kept = after[:, : after.shape[1] - trace.leaving.num_dc]
    energy = high_frequency_energy(before)
    chance = expected_random_energy(before[:, : length - trace.entering.num_dc], kept.shape[1] - prefix, prefix)
    deviations = (kept - before.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))
    of_patches = high_frequency_energy(kept)
    return {
        "energy_kept": high_frequency_energy(after) / energy,
        "energy_of_patches": of_patches / energy,
        "energy_by_chance": chance / energy,
        "energy_over_chance": (of_patches - chance) / energy,
        "energy_guaranteed": (1 - length / kept.shape[1] * (1 - deviations / energy)).clamp(min=0),
    }
