"""Inputs that break statements about token reduction most easily, and plain ways to compute what theory is about."""

from itertools import combinations

import pytest
import torch

COUNT = HIDDEN = 10


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def eye(size):
    return torch.eye(size, dtype=torch.float64)


# One image each of: random, constant, one outlier, rank one, doubled, orthogonal, two clusters, huge beside tiny, tiny,
# and far from zero.
TOKENS = torch.stack(
    [
        random_tensor(COUNT, HIDDEN),
        torch.full((COUNT, HIDDEN), 0.7, dtype=torch.float64),
        eye(COUNT)[:, 3:4] * random_tensor(1, HIDDEN),
        random_tensor(COUNT, 1) * random_tensor(1, HIDDEN, seed=1),
        random_tensor(COUNT // 2, HIDDEN).repeat(2, 1),
        eye(COUNT),
        eye(HIDDEN)[:2].repeat_interleave(COUNT // 2, dim=0),
        random_tensor(COUNT, HIDDEN) * torch.tensor([1e8] * 3 + [1e-8] * 7, dtype=torch.float64)[:, None],
        random_tensor(COUNT, HIDDEN) * 1e-8,
        random_tensor(COUNT, HIDDEN) + 1e3,
    ]
)
IMAGES = len(TOKENS)
SIZES = TOKENS.square().sum(dim=(1, 2))
GROUPS = {
    "all-kept": list(range(COUNT)),
    "all-in-one": [0] * COUNT,
    "one-window": [0, 1, 2, 3, 9, 9, 9, 9, 9, 9],
    "two-windows": [0, 6, 2, 6, 7, 5, 7, 7, 8, 6],
    "windows-of-one-token": [4, 3, 2, 9, 0, 8, 7, 6, 6, 1],
    "labels-with-gaps": [30, 2, 30, 11, 2, 11, 0, 30, 5, 2],
}
SINK = 12 * eye(COUNT)[2].expand(COUNT, -1)
LOGITS = {
    "random": random_tensor(COUNT, COUNT),
    "sharp": 50 * random_tensor(COUNT, COUNT),
    "uniform": torch.zeros(COUNT, COUNT, dtype=torch.float64),
    "sink": SINK,
    "one-hot": 1e4 * eye(COUNT).roll(3, dims=1),
    "one-hot-sink": 1e3 * SINK,
    "two-kinds-of-keys": random_tensor(COUNT, 1) * torch.tensor([-2.0, 3.0]).double().repeat(COUNT // 2),
}
all_groups = pytest.mark.parametrize(
    "groups", [torch.tensor(groups).expand(IMAGES, -1) for groups in GROUPS.values()], ids=GROUPS.keys()
)
all_logits = pytest.mark.parametrize(
    "logits", [logits.expand(IMAGES, 1, -1, -1) for logits in LOGITS.values()], ids=LOGITS.keys()
)


def energy(tokens):
    """Squared distances of all pairs over twice the number of tokens: takes no mean."""
    differences = tokens[:, :, None] - tokens[:, None]
    return differences.square().sum(dim=(1, 2, 3)) / (2 * tokens.shape[1])


def subsets(size, count=COUNT):
    """(choices, count) bool, one row for every choice of ``size`` out of ``count``."""
    chosen = torch.tensor(list(combinations(range(count), size)))
    return torch.zeros(len(chosen), count, dtype=torch.bool).scatter(1, chosen, True)


def subset_energies(tokens, masks):
    """The energies (batch, choices) of the tokens in each mask."""
    distances = (tokens[:, :, None] - tokens[:, None]).square().sum(dim=3)
    masks = masks.double()
    return ((masks @ distances) * masks).sum(dim=2) / (2 * masks.sum(dim=1))


def pooled(tokens, groups):
    """The shortened sequence, group by group; all images have the same groups."""
    return torch.stack([tokens[:, groups[0] == label].mean(dim=1) for label in groups[0].unique()], dim=1)


def repeated(tokens, groups):
    """The means of the groups, once for every token."""
    return pooled(tokens, groups)[:, groups[0].unique(return_inverse=True)[1]]


def by_image(numbers, like):
    """One number for each image, shaped to multiply ``like``."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def assert_equal(actual, expected, scale=None):
    """Equal, up to what float64 makes of numbers of the size ``scale``: one for each image, 1 by default."""
    scale = by_image(torch.ones(len(actual)) if scale is None else scale, actual)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-9, atol=1e-12, check_dtype=False)


def assert_at_most(smaller, larger, scale=None):
    """Never larger, up to the same."""
    smaller, larger = torch.broadcast_tensors(smaller, larger)
    scale = by_image(torch.ones(len(larger)) if scale is None else scale, larger)
    assert (smaller / scale <= larger / scale + 1e-12 + 1e-9 * (larger / scale).abs()).all()
