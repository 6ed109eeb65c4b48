"""The measures of a model by layer, by name: which there are, and how they follow from what a layer was seen to do.

State measures are of the tokens that enter a layer, or leave the last one; layer measures of what the layer did.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .measures import (
    attention_entropy,
    collapse_ratio,
    column_mass,
    dc_similarity,
    effective_rank,
    high_frequency_energy,
    high_frequency_share,
    highest,
    mean_pairwise_cosine,
    overlap,
    stable_rank,
    token_similarity,
    widened,
)
from .spectrum import grid_frequencies, relative_log_amplitudes
from .trace import LayerTrace, TokenState

HIGH_SHARE = 0.25
"""The share of patches, by column mean, that are called high-frequency, or low-frequency, tokens here (figure 2)."""

KEPT_SHARE = 0.7
"""The share of patches that two selections keep where their overlap is measured: the method's default."""

MASS_SHARES = tuple(tenths / 10 for tenths in range(1, 11))
"""Where the curve of column mass is taken."""

Grid = tuple[int, int]


class StateMeasure(NamedTuple):
    """A measure of tokens."""

    label: str
    evaluate: Callable[[TokenState, TokenState], Tensor | None]
    """Of a state and of the last one: (batch,) or (batch, points), or None where it is not defined."""
    points: Callable[[Grid], tuple[float, ...]] | None = None
    """The frequencies of a spectrum, in units of pi, by the grid; None for a measure of one number."""


class LayerMeasure(NamedTuple):
    """A measure of what a layer does."""

    label: str
    evaluate: Callable[[LayerTrace], Tensor | None]
    needs_attention: bool = False
    """Whether it is defined under eager attention only."""
    points: Callable[[Grid], tuple[float, ...]] | None = None
    """As for ``StateMeasure``, or shares of tokens."""


def spectrum(state: TokenState, last: TokenState) -> Tensor:
    """Of the tokens on the grid: what a reduced sequence stands for."""
    return relative_log_amplitudes(state.on_grid, state.grid, grid_frequencies(state.grid))


def similarity_to_last(state: TokenState, last: TokenState) -> Tensor:
    """Cosine between the tokens that stand for a patch here and after the last layer, averaged over patches."""
    return token_similarity(state.on_grid, last.on_grid)


def dc_similarity_of_dc_tokens(state: TokenState, last: TokenState) -> Tensor | None:
    """Cosine of DC tokens with the DC signal, averaged over them."""
    return dc_similarity(state.tokens)[:, -state.num_dc :].mean(dim=1) if state.num_dc else None


def dc_similarity_of_cls(state: TokenState, last: TokenState) -> Tensor | None:
    """Cosine of the first token with the DC signal (figure 6)."""
    return dc_similarity(state.tokens)[:, 0] if state.num_prefix else None


def chosen_patches(trace: LayerTrace, high: bool, share: float = HIGH_SHARE) -> Tensor:
    """(batch, patches) bool: the patches with the highest, or lowest, column means of those that are own tokens."""
    return highest(trace.patch_scores if high else -trace.patch_scores, share)


def spectrum_of_chosen(high: bool) -> Callable[[LayerTrace], Tensor]:
    """The spectrum of high- or low-frequency tokens; all other places of the grid hold the mean of the patches.

    Not-a-number for an image none of whose patches has a token of its own.
    """

    def evaluate(trace: LayerTrace) -> Tensor:
        state, chosen = trace.entering, chosen_patches(trace, high)
        tokens = widened(state.on_grid)
        mean = tokens.mean(dim=1, keepdim=True)
        alone = mean + chosen[:, :, None] * (tokens - mean)
        values = relative_log_amplitudes(alone, state.grid, grid_frequencies(state.grid))
        return values.where(chosen.any(dim=1, keepdim=True), torch.nan)

    return evaluate


def dc_similarity_of_chosen(high: bool) -> Callable[[LayerTrace], Tensor]:
    """Cosine of high- or low-frequency tokens with the DC signal, averaged over them."""

    def evaluate(trace: LayerTrace) -> Tensor:
        state, chosen = trace.entering, chosen_patches(trace, high)
        similarity = dc_similarity(state.tokens).gather(1, state.source.clamp(min=0))
        return (similarity * chosen).sum(dim=1) / chosen.sum(dim=1)

    return evaluate


def selection_overlap(trace: LayerTrace) -> Tensor | None:
    """Intersection over union of what column means and CLS's attention (EViT) would keep here."""
    state = trace.entering
    if trace.attention is None or not state.num_prefix:
        return None
    cls = trace.attention[:, :, 0].mean(dim=1).gather(1, state.source.clamp(min=0))
    cls = cls.masked_fill(~state.own, torch.nan)
    return overlap(highest(trace.patch_scores, KEPT_SHARE), highest(cls, KEPT_SHARE))


def energy_kept(trace: LayerTrace) -> Tensor | None:
    """``||H_f X'||^2 / ||H_f X||^2`` of the sequence after and before a reduction."""
    if trace.reduction is None:
        return None
    before, after = trace.reduction
    return high_frequency_energy(after) / high_frequency_energy(before)


def mass_kept(trace: LayerTrace) -> Tensor | None:
    """The part of the patches' column mass that the patches carry which a reduction keeps, of those it had."""
    if trace.reduction is None:
        return None
    scores = trace.patch_scores
    return scores.masked_fill(~trace.leaving.own, 0).nansum(dim=1) / scores.nansum(dim=1)


STATE_MEASURES: dict[str, StateMeasure] = {
    "spectrum": StateMeasure("relative log amplitude", spectrum, grid_frequencies),
    "high_frequency_energy": StateMeasure(
        "high-frequency energy", lambda state, last: high_frequency_energy(state.tokens)
    ),
    "high_frequency_share": StateMeasure(
        "share of high-frequency energy", lambda state, last: high_frequency_share(state.tokens)
    ),
    "effective_rank": StateMeasure("effective rank", lambda state, last: effective_rank(state.tokens)),
    "stable_rank": StateMeasure("stable rank", lambda state, last: stable_rank(state.tokens)),
    "pairwise_cosine": StateMeasure(
        "mean cosine over pairs of tokens", lambda state, last: mean_pairwise_cosine(state.tokens)
    ),
    "similarity_to_last": StateMeasure("cosine to the last layer's tokens", similarity_to_last),
    "dc_similarity": StateMeasure(
        "cosine to the DC signal, all tokens", lambda state, last: dc_similarity(state.tokens).mean(dim=1)
    ),
    "dc_similarity_cls": StateMeasure("cosine to the DC signal, CLS", dc_similarity_of_cls),
    "dc_similarity_dc": StateMeasure("cosine to the DC signal, DC tokens", dc_similarity_of_dc_tokens),
}
"""By name. Energy and ranks are of the sequence as it is: shorter sequences have less of both."""

LAYER_MEASURES: dict[str, LayerMeasure] = {
    "collapse_ratio": LayerMeasure(
        "collapse ratio",
        lambda trace: collapse_ratio(trace.entering.tokens, trace.leaving.tokens),
    ),
    "energy_kept": LayerMeasure("high-frequency energy that a reduction keeps", energy_kept),
    "mass_kept": LayerMeasure("column mass that a reduction keeps", mass_kept, needs_attention=True),
    "attention_entropy": LayerMeasure(
        "entropy of attention in nats",
        lambda trace: None if trace.attention is None else attention_entropy(trace.attention),
        needs_attention=True,
    ),
    "column_mass": LayerMeasure(
        "column mass of the highest patches",
        lambda trace: column_mass(trace.patch_scores, MASS_SHARES),
        needs_attention=True,
        points=lambda grid: MASS_SHARES,
    ),
    "spectrum_high": LayerMeasure(
        "relative log amplitude of high-frequency tokens",
        spectrum_of_chosen(high=True),
        needs_attention=True,
        points=grid_frequencies,
    ),
    "spectrum_low": LayerMeasure(
        "relative log amplitude of low-frequency tokens",
        spectrum_of_chosen(high=False),
        needs_attention=True,
        points=grid_frequencies,
    ),
    "dc_similarity_high": LayerMeasure(
        "cosine to the DC signal, high-frequency tokens", dc_similarity_of_chosen(high=True), needs_attention=True
    ),
    "dc_similarity_low": LayerMeasure(
        "cosine to the DC signal, low-frequency tokens", dc_similarity_of_chosen(high=False), needs_attention=True
    ),
    "selection_overlap": LayerMeasure(
        "overlap of column-mean and CLS selection", selection_overlap, needs_attention=True
    ),
}
"""By name. Attention is the map before re-weighting."""

MEASURES: dict[str, StateMeasure | LayerMeasure] = {**STATE_MEASURES, **LAYER_MEASURES}
