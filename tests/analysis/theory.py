"""What token reduction provably keeps and loses: the quantities of docs/theory.md, as pure tensor functions.

``H_f X`` is a sequence without its mean, ``|H_f X|^2`` its high-frequency energy. ``groups`` (batch, tokens) int64 says
which tokens one token is to stand for: those with the same label, 0 or more, form a group, and a token that is kept is
a group of its own; labels below 0, or that are no integers of this shape, raise a ValueError. All results are in
float32 or better.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fatr_hf.analysis.measures import (
    checked_patch_count,
    high_frequency_energy,
    squared_norms,
    widened,
)
from fatr_hf.modeling.token_reduction import pool_windows, take_tokens


class GroupEnergy(NamedTuple):
    """The two parts of the high-frequency energy, each (batch,); their sum is the whole."""

    within: Tensor
    """Squared distances of the tokens to the mean of their group."""
    between: Tensor
    """Squared distances of the groups' means to the mean of all, once for every token."""


class PoolingLoss(NamedTuple):
    """The energy that is lost when each group's mean takes its place, by cause; each (batch,), 0 or more."""

    within: Tensor
    """The scatter within the groups, which no use of the shortened sequence can recover."""
    multiplicity: Tensor
    """What is missing because a group counts once, however many tokens it had."""
    mean_shift: Tensor
    """What is missing because the shortened sequence has another mean."""


def reduction_groups(source: Tensor, num_prefix: int) -> Tensor:
    """The groups of a reduction: a patch belongs to the place that stands for it, a prefix token to itself.

    Args:
        source: (batch, patches) int64, one entry of the model's ``token_sources``.

    Returns:
        (batch, prefix + patches) int64.
    """
    prefix = torch.arange(num_prefix, device=source.device).expand(source.shape[0], -1)
    return torch.cat([prefix, source], dim=1)


def within_between_energy(tokens: Tensor, groups: Tensor, counts: Tensor | None = None) -> GroupEnergy:
    """Splits the high-frequency energy into that within groups and that between them (section 1 of docs/theory.md).

    Args:
        tokens: (batch, tokens, hidden).
        groups: (batch, tokens) int64.
        counts: (batch, tokens) int64, how many patches each token stands for; it then counts so often in every sum
            and mean. 1 each by default.
    """
    tokens = widened(tokens)
    if counts is None:
        counts = torch.ones_like(groups)
    means = group_means(tokens, groups, counts)
    mean = (counts[:, :, None] * tokens).sum(dim=1, keepdim=True) / counts.sum(dim=1)[:, None, None]
    within = (counts * squared_norms(tokens - means)).sum(dim=1)
    between = (counts * squared_norms(means - mean)).sum(dim=1)
    return GroupEnergy(within, between)


def pooling_loss(tokens: Tensor, groups: Tensor) -> PoolingLoss:
    """The energy of a sequence less that of the shortened one, which holds each group's mean once (section 1).

    Args:
        tokens: (batch, tokens, hidden).
        groups: (batch, tokens) int64.
    """
    tokens = widened(tokens)
    means = group_means(tokens, groups)
    deviations = means - tokens.mean(dim=1, keepdim=True)
    # A sum over groups is a sum over tokens weighted by one over the size of their group.
    shares = 1 / group_sizes(groups).to(tokens.dtype)
    return PoolingLoss(
        within=squared_norms(tokens - means).sum(dim=1),
        multiplicity=((1 - shares) * squared_norms(deviations)).sum(dim=1),
        mean_shift=squared_norms((shares[:, :, None] * deviations).sum(dim=1)) / shares.sum(dim=1),
    )


def mixing_bound(tokens: Tensor, column_sums: Tensor) -> Tensor:
    """An upper bound on the energy of ``M X``, for non-negative ``M`` whose rows sum to 1 (section 2).

    Args:
        tokens: ``X`` (batch, tokens, hidden).
        column_sums: (batch, tokens), those of ``M``; those of attention are its column means times its queries.

    Returns:
        (batch,).

    Raises:
        ValueError: column sums that are not one for each token.
    """
    if column_sums.shape != tokens.shape[:2]:
        raise ValueError(
            f"column_sums of the shape {tuple(column_sums.shape)} must be one number for each token of the shape "
            f"{tuple(tokens.shape)}."
        )
    return (column_sums * deviation_energies(tokens)).sum(dim=1)


def replacement_costs(
    column_means: Tensor, values: Tensor, groups: Tensor, replacements: Tensor | None = None
) -> Tensor:
    """Column mean times the distance of a token's value to the value that replaces it (section 3); 0 for kept tokens.

    Args:
        column_means: (batch, heads, tokens), of each head's attention map.
        values: (batch, heads, tokens, head_dim).
        groups: (batch, tokens) int64.
        replacements: (batch, heads, tokens, head_dim), the value that stands for each token; by default the mean value
            of its group.

    Returns:
        (batch, heads, tokens).
    """
    values = widened(values)
    if replacements is None:
        replacements = group_means_by_head(values, groups)
    return column_means * (values - replacements).norm(dim=3)


def replacement_bound(
    column_means: Tensor, values: Tensor, groups: Tensor, replacements: Tensor | None = None
) -> Tensor:
    """Bounds the change of each head's output, averaged over queries, if DC tokens draw what their group drew.

    The sum of ``replacement_costs`` over tokens (section 3), whose arguments it takes.

    Returns:
        (batch, heads).
    """
    return replacement_costs(column_means, values, groups, replacements).sum(dim=2)


def lost_attention(logits: Tensor, groups: Tensor, size_exponent: float = 0.0) -> Tensor:
    """The attention that groups drew and that DC tokens, at the mean of the groups' keys, do not draw (section 3).

    Args:
        logits: (batch, heads, queries, tokens), scaled, of the sequence before the reduction.
        groups: (batch, tokens) int64.
        size_exponent: α; logits towards a token that stands for ``c`` are raised by ``α log c``.

    Returns:
        (batch, heads, queries) in [0, 1]; 0 without DC tokens.
    """
    logits = widened(logits)
    # Logits are linear in the key, so the logit of a mean key is the mean of the logits.
    dc_logits = group_means_by_head(logits.transpose(2, 3), groups).transpose(2, 3)
    sizes = group_sizes(groups).to(logits.dtype)[:, None, None]
    drawn = (dc_logits - logits.logsumexp(dim=3, keepdim=True)).exp() * sizes ** (size_exponent - 1)
    return (1 - drawn.sum(dim=3)).clamp(min=0)


def softmax_bound(logits: Tensor, values: Tensor, groups: Tensor, size_exponent: float = 0.0) -> Tensor:
    """Bounds what the softmax over the shortened sequence adds to ``replacement_bound`` (section 3).

    Args:
        logits, groups, size_exponent: those of ``lost_attention``.
        values: (batch, heads, tokens, head_dim); the value of a DC token is the mean of its group's.

    Returns:
        (batch, heads).
    """
    represented = group_means_by_head(widened(values), groups)
    # By products instead of differences, distances lose half their digits.
    distances = torch.cdist(represented, represented, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.amax(dim=(2, 3)) * lost_attention(logits, groups, size_exponent).mean(dim=2)


def kept_energy_bound(tokens: Tensor, groups: Tensor) -> Tensor:
    """A lower bound on the energy of the shortened sequence, exact where one group has several tokens (section 4).

    Args:
        tokens: (batch, tokens, hidden).
        groups: (batch, tokens) int64.

    Returns:
        (batch,); it says nothing where it is below 0.
    """
    loss = pooling_loss(tokens, groups)
    energy = high_frequency_energy(tokens)
    shortened_length = (1 / group_sizes(groups).to(energy.dtype)).sum(dim=1)
    return energy - loss.within - tokens.shape[1] / shortened_length * loss.multiplicity


def random_energy_ceiling(tokens: Tensor, window_index: Tensor, keep: int, num_prefix: int = 0) -> Tensor:
    """An upper bound on the energy of prefix, kept patches and DC tokens, averaged over all choices (section 4).

    A selection whose ``kept_energy_bound`` is above it provably keeps more than chance.

    Args:
        tokens: (batch, prefix + patches, hidden).
        window_index: (batch, patches) int64, the DC window of every patch; empty windows have no DC token.

    Returns:
        (batch,).

    Raises:
        ValueError: ``keep`` is not in 1 to the number of patches.
    """
    count = checked_patch_count(tokens, keep, num_prefix)
    energies = deviation_energies(tokens)
    patches = energies[:, num_prefix:]
    dc_tokens = patches / group_sizes(window_index)
    return energies[:, :num_prefix].sum(dim=1) + (patches * keep / count + dc_tokens).sum(dim=1)


def deviation_energies(tokens: Tensor) -> Tensor:
    """Squared distance (batch, tokens) of each token to the mean of all; they sum to the high-frequency energy."""
    tokens = widened(tokens)
    return squared_norms(tokens - tokens.mean(dim=1, keepdim=True))


def group_sizes(groups: Tensor) -> Tensor:
    """How many tokens the group of each token has: (batch, tokens) int64."""
    return (groups[:, :, None] == groups[:, None]).sum(dim=2)


def group_means(tokens: Tensor, groups: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean of each token's group, weighted by counts if there are any: (batch, tokens, hidden)."""
    if tokens.dim() != 3 or groups.shape != tokens.shape[:2] or groups.dtype != torch.int64:
        raise ValueError(
            f"groups of the shape {tuple(groups.shape)} and {groups.dtype} must be (batch, tokens) int64, and tokens "
            f"of the shape {tuple(tokens.shape)} (batch, tokens, hidden)."
        )
    if groups.min() < 0:
        raise ValueError(f"groups holds {groups.min()}: labels must be 0 or more (-1 is a patch without a DC token).")
    windows = int(groups.max()) + 1
    means, _ = pool_windows(tokens, torch.ones_like(groups) if counts is None else counts, groups, windows)
    return take_tokens(means, groups)


def group_means_by_head(tokens: Tensor, groups: Tensor) -> Tensor:
    """The mean of each token's group in every head: (batch, heads, tokens, channels)."""
    means = group_means(tokens.transpose(1, 2).flatten(2), groups)
    return means.unflatten(2, (tokens.shape[1], tokens.shape[3])).transpose(1, 2)
