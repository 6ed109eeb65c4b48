"""Measures of tokens and of attention: energy of high frequencies, rank, likeness, concentration.

Token matrices ``X`` are (batch, tokens, hidden), or a ValueError says so, and measures (batch,), in float32 or better
whatever their inputs.
``H_f X = X - 1/N 1 1^T X`` is what is left of ``X`` without the DC signal, the mean over its ``N`` tokens (section 3 of
arXiv 2511.21477).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..baselines.arguments import is_integer
from ..modeling.frequency_attention import dc_dissimilarity


def widened(tensor: Tensor) -> Tensor:
    """In float32, or as it is where that is better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def token_matrices(tokens: Tensor) -> Tensor:
    """``widened`` tokens, if they are (batch, tokens, hidden).

    Raises:
        ValueError: tokens of another shape.
    """
    if tokens.dim() != 3:
        raise ValueError(f"tokens of the shape {tuple(tokens.shape)} must be (batch, tokens, hidden).")
    return widened(tokens)


def high_frequency_energy(tokens: Tensor) -> Tensor:
    """``||H_f X||^2``, Frobenius norm: (batch, tokens, hidden) to (batch,)."""
    tokens = token_matrices(tokens)
    return (tokens - tokens.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))


def high_frequency_share(tokens: Tensor) -> Tensor:
    """``||H_f X||^2 / ||X||^2`` in [0, 1]; 0 where all tokens are alike, that is where the rank has collapsed."""
    return high_frequency_energy(tokens) / widened(tokens).square().sum(dim=(1, 2))


def collapse_ratio(entering: Tensor, leaving: Tensor) -> Tensor:
    """``||H_f X'|| / ||H_f X||`` for the tokens ``X`` that enter a layer and ``X'`` that leave it.

    Its largest value over all ``X`` is the rate at which a layer can make tokens alike (arXiv 2203.05962, theorem 1);
    below 1 they have grown more alike in absolute terms.
    """
    return (high_frequency_energy(leaving) / high_frequency_energy(entering)).sqrt()


def singular_values(tokens: Tensor) -> Tensor:
    """(batch, min(tokens, hidden)) in float64, ascending, by the eigenvalues of the smaller Gram matrix.

    Not-a-number for an image whose tokens are not all finite, as where half precision has overflown.
    """
    tokens = token_matrices(tokens).double()
    if tokens.shape[1] > tokens.shape[2]:
        tokens = tokens.transpose(1, 2)
    gram = tokens @ tokens.transpose(1, 2)
    finite = gram.isfinite().all(dim=2).all(dim=1)
    values = torch.linalg.eigvalsh(gram.where(finite[:, None, None], 0)).clamp(min=0).sqrt()
    return values.where(finite[:, None], torch.nan)


def effective_rank(tokens: Tensor) -> Tensor:
    """``exp(-sum p log p)`` for the shares ``p`` of the singular values in their sum (Roy and Vetterli, 2007).

    Between 1, for rank 1, and ``min(tokens, hidden)``, for equal singular values.
    """
    values = singular_values(tokens)
    shares = values / values.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1).exp()


def stable_rank(tokens: Tensor) -> Tensor:
    """``||X||_F^2 / ||X||_2^2``: 1 for rank 1, at most the rank, hardly moved by small singular values."""
    squares = singular_values(tokens).square()
    return squares.sum(dim=1) / squares.amax(dim=1)


def mean_pairwise_cosine(tokens: Tensor) -> Tensor:
    """The mean cosine over all pairs of different tokens; 1 where all point the same way.

    Pairs with a token of zeros count as 0. Not-a-number for a single token, which has no pair.
    """
    directions = functional.normalize(token_matrices(tokens), dim=2)
    count = tokens.shape[1]
    # The square of a sum holds every pair twice, and every token with itself once.
    pairs = directions.sum(dim=1).square().sum(dim=1) - directions.square().sum(dim=(1, 2))
    return pairs / (count * (count - 1))


def dc_similarity(tokens: Tensor) -> Tensor:
    """The cosine of every token with the DC signal, the mean over all tokens: (batch, tokens)."""
    return -dc_dissimilarity(tokens)


def token_similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """The cosine between tokens at the same places, averaged over them: two (batch, places, hidden) to (batch,)."""
    return functional.cosine_similarity(widened(tokens), widened(others), dim=2).mean(dim=1)


def attention_entropy(attention: Tensor) -> Tensor:
    """The entropy of attention rows in nats, averaged over heads and queries: from 0 to log(tokens).

    Args:
        attention: (batch, heads, queries, keys), rows sum to 1.
    """
    return torch.special.entr(widened(attention)).sum(dim=3).mean(dim=(1, 2))


def column_mass(scores: Tensor, shares: Sequence[float]) -> Tensor:
    """Which part of the attention's column mass the highest tokens carry.

    Args:
        scores: (batch, tokens), column means; not-a-number where there is no token.
        shares: of the tokens at hand, in (0, 1]; at least one token is taken.

    Returns:
        (batch, shares), each in [0, 1].

    Raises:
        ValueError: a share out of range.
    """
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares={list(shares)} must lie in (0, 1].")
    scores = widened(scores)
    present = ~scores.isnan()
    ordered = scores.masked_fill(~present, 0).sort(dim=1, descending=True).values
    held = ordered.cumsum(dim=1)
    factors = torch.tensor(list(shares), dtype=torch.float64, device=scores.device)
    places = (present.sum(dim=1, keepdim=True) * factors + 1e-9).long().clamp(min=1) - 1
    return held.gather(1, places) / held[:, -1:]


def highest(scores: Tensor, share: float) -> Tensor:
    """(batch, tokens) bool: the tokens with the highest scores, so large a share of those that have one.

    Args:
        scores: (batch, tokens), not-a-number where there is no token; of equal ones the first are taken.
        share: in (0, 1); at least one token where any has a score.

    Raises:
        ValueError: a share out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie between 0 and 1, both excluded.")
    present = ~scores.isnan()
    counts = (present.sum(dim=1, keepdim=True, dtype=torch.float64) * share + 1e-9).long().clamp(min=1)
    order = scores.masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1)
    return (ranks < counts) & present


def overlap(chosen: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of two sets of tokens, (batch, tokens) bool each; not-a-number where both are empty."""
    return (chosen & others).sum(dim=1) / (chosen | others).sum(dim=1)


def expected_random_energy(tokens: Tensor, keep: int, num_prefix: int = 0) -> Tensor:
    """The energy of prefix and kept patches, the mean over all choices of ``keep`` of them (docs/theory.md, section 4).

    Args:
        tokens: (batch, prefix + patches, hidden).

    Returns:
        (batch,).

    Raises:
        ValueError: ``keep`` is not in 1 to the number of patches.
    """
    count = checked_patch_count(tokens, keep, num_prefix)
    tokens = widened(tokens)
    prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
    variance = high_frequency_energy(patches) / max(count - 1, 1)
    energy = variance * (keep - 1)
    if num_prefix:
        distance = squared_norms(prefix.mean(dim=1) - patches.mean(dim=1)) + variance * (1 / keep - 1 / count)
        energy = energy + high_frequency_energy(prefix) + distance * num_prefix * keep / (num_prefix + keep)
    return energy


def checked_patch_count(tokens: Tensor, keep: int, num_prefix: int) -> int:
    """How many patches there are, if ``keep`` of them can be kept."""
    if not is_integer(num_prefix) or not 0 <= num_prefix < tokens.shape[1]:
        raise ValueError(f"num_prefix={num_prefix!r} must leave patches of the {tokens.shape[1]} tokens.")
    count = tokens.shape[1] - num_prefix
    if not is_integer(keep) or not 1 <= keep <= count:
        raise ValueError(f"keep={keep!r} must be an integer in 1 to {count}, the number of patches.")
    return count


def squared_norms(tokens: Tensor) -> Tensor:
    """Squared lengths of the vectors in the last dimension."""
    return tokens.square().sum(dim=-1)
