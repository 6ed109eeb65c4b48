"""Partition, windows, pooling and restoring, against loops over images and patches."""

import math

import pytest
import reference
import torch

from fatr_hf.modeling.token_reduction import (
    TokenLayout,
    dense_layout,
    descending_order,
    partition_tokens,
    pool_windows,
    reduce_tokens,
    restore_tokens,
    take_tokens,
    token_sources,
    window_indices,
)

CPU = torch.device("cpu")
HIDDEN = 5
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}

DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
BATCHES = pytest.mark.parametrize("batch", [1, 3], ids="batch{}".format)

# Grid, prefix tokens, then (kept patches, windows) of one reduction after the other.
CHAINS = {
    "3x5-keep1-windows1": ((3, 5), 1, [(1, 1)]),
    "3x5-keep6-windows2": ((3, 5), 1, [(6, 2)]),
    "3x5-keep3-windows3": ((3, 5), 2, [(3, 3)]),
    "7x4-keep20-windows2": ((7, 4), 1, [(20, 2)]),
    "7x4-keep1-windows3": ((7, 4), 5, [(1, 3)]),
    "1x6-keep3-windows1": ((1, 6), 1, [(3, 1)]),
    "3x5-windows2then1": ((3, 5), 1, [(9, 2), (4, 1)]),
    "7x4-windows2then2then1": ((7, 4), 1, [(18, 2), (9, 2), (1, 1)]),
    "7x4-windows3then3": ((7, 4), 2, [(17, 3), (5, 3)]),
    "7x5-windows4then2then1": ((7, 5), 1, [(18, 4), (9, 2), (5, 1)]),
    "8x9-windows6then3": ((8, 9), 1, [(30, 6), (11, 3)]),
    "3x5-windows2then1-same-patch": ((3, 5), 1, [(1, 2), (1, 1)]),
    "4x3x5-windows2then1": ((4, 3, 5), 0, [(40, 2), (20, 1)]),
    "4x6x5-windows2x3x1then1x3x1": ((4, 6, 5), 1, [(50, (2, 3, 1)), (7, (1, 3, 1))]),
    "3x7x2-windows3x2x2": ((3, 7, 2), 2, [(30, (3, 2, 2))]),
}
chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def assert_near(actual, expected, dtype):
    """Equal up to the rounding of ``dtype``; ``expected`` is float64."""
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def make_layout(grid, prefix, windows, positions, dc_counts):
    counts = torch.tensor(dc_counts, dtype=torch.int64).view(len(positions), -1)
    return TokenLayout(grid, prefix, reference.per_axis(windows, grid), torch.tensor(positions), counts)


def reductions(chain, batch, generator, dtype=torch.float64):
    """Input and reference output of every reduction of a chain, each with a layout, scores and embeddings of its own.

    The hidden states that enter a reduction are the ones that left the one before.
    """
    grid, prefix, steps = chain
    hidden = torch.randn(batch, prefix + math.prod(grid), HIDDEN, generator=generator).to(dtype)
    positions, dc_counts, windows = [list(range(math.prod(grid)))] * batch, [[]] * batch, 0
    for keep, new_windows in steps:
        layout = make_layout(grid, prefix, windows, positions, dc_counts)
        scores = torch.randn(batch, len(positions[0]), generator=generator).to(dtype)
        embeddings = torch.randn(
            reference.number(reference.per_axis(new_windows, grid)), HIDDEN, generator=generator
        ).to(dtype)
        images = [
            reference.reduce(
                hidden[image].double(),
                scores[image].tolist(),
                positions[image],
                dc_counts[image],
                grid,
                prefix,
                windows,
                keep,
                new_windows,
                embeddings.double(),
            )
            for image in range(batch)
        ]
        expected, positions, dc_counts = (list(part) for part in zip(*images, strict=True))
        expected_layout = make_layout(grid, prefix, new_windows, positions, dc_counts)
        yield hidden, scores, layout, (keep, new_windows), embeddings, torch.stack(expected), expected_layout
        hidden, windows = torch.stack(expected).to(dtype), new_windows


def assert_same_layout(layout, expected):
    assert (layout.grid, layout.num_prefix, layout.windows) == (expected.grid, expected.num_prefix, expected.windows)
    assert layout.positions.tolist() == expected.positions.tolist()
    assert layout.dc_counts.tolist() == expected.dc_counts.tolist()
    assert layout.positions.dtype == layout.dc_counts.dtype == torch.int64
    assert (layout.num_patches, layout.num_dc) == (expected.positions.shape[1], expected.dc_counts.shape[1])


def test_dense_layout():
    layout = dense_layout(2, (3, 5), 4, CPU)
    assert_same_layout(layout, make_layout((3, 5), 4, 0, [list(range(15))] * 2, [[], []]))
    assert token_sources(layout).tolist() == [list(range(4, 19))] * 2


def test_windows_by_hand():
    expected = [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [2, 2, 2, 3, 3]]
    assert window_indices((3, 5), 2, CPU).view(3, 5).tolist() == expected
    assert window_indices((4, 4), 2, CPU).view(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2


@pytest.mark.parametrize("windows", [1, 2, 3, 4, 6], ids="windows{}".format)
def test_windows_of_every_grid(windows):
    for rows in range(windows, 10):
        for columns in range(windows, 10):
            index = window_indices((rows, columns), windows, CPU)
            assert index.dtype == torch.int64
            assert index.tolist() == reference.windows((rows, columns), windows)
            assert set(index.tolist()) == set(range(windows**2))
            for new_windows in (count for count in range(1, windows + 1) if windows % count == 0):
                nested = window_indices((windows, windows), new_windows, CPU)
                assert nested[index].tolist() == reference.windows((rows, columns), new_windows)


@DTYPES
@pytest.mark.parametrize(
    ("batch", "patches", "keep"), [(1, 1, 1), (1, 15, 1), (3, 28, 14), (3, 197, 137), (2, 7, 7)], ids=str
)
def test_partition(generator, dtype, batch, patches, keep):
    scores = torch.randn(batch, patches, generator=generator).to(dtype)
    kept, folded = partition_tokens(scores, keep)
    for image in range(batch):
        expected = reference.partition(scores[image].tolist(), keep)
        assert (kept[image].tolist(), folded[image].tolist()) == expected


def test_partition_gives_ties_to_the_lower_place(generator):
    kept, folded = partition_tokens(torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0]]), 2)
    assert (kept.tolist(), folded.tolist()) == ([[1, 2]], [[0, 3, 4]])
    kept, folded = partition_tokens(torch.zeros(2, 500), 300)
    assert (kept.tolist(), folded.tolist()) == ([list(range(300))] * 2, [list(range(300, 500))] * 2)
    scores = torch.randint(0, 4, (3, 400), generator=generator)
    for kind in (scores, scores.bfloat16(), scores.double()):
        kept, folded = partition_tokens(kind, 170)
        for image in range(3):
            assert (kept[image].tolist(), folded[image].tolist()) == reference.partition(scores[image].tolist(), 170)


@DTYPES
def test_take_tokens(generator, dtype):
    tokens = torch.randn(3, 7, HIDDEN, generator=generator).to(dtype)
    index = torch.randint(0, 7, (3, 9), generator=generator)
    expected = torch.stack([torch.stack([tokens[image, place] for place in index[image]]) for image in range(3)])
    assert torch.equal(take_tokens(tokens, index), expected)
    assert torch.equal(restore_tokens(tokens, index), expected)


@DTYPES
@BATCHES
@pytest.mark.parametrize("windows", [1, 2, 3], ids="windows{}".format)
@pytest.mark.parametrize("length", [1, 4, 31], ids="tokens{}".format)
def test_pool_windows(generator, dtype, batch, windows, length):
    tokens = torch.randn(batch, length, HIDDEN, generator=generator).to(dtype)
    counts = torch.randint(0, 40, (batch, length), generator=generator)
    counts[:, 0] += 1  # at least one patch in all
    index = torch.randint(0, windows**2, (batch, length), generator=generator)
    means, totals = pool_windows(tokens, counts, index, windows**2)
    for image in range(batch):
        expected = reference.pool(tokens[image].double(), counts[image].tolist(), index[image].tolist(), windows**2)
        assert_near(means[image], expected[0], dtype)
        assert totals[image].tolist() == expected[1]
    assert totals.dtype == torch.int64


def test_empty_windows_take_the_weighted_mean_of_everything():
    tokens = torch.tensor([[[1.0], [4.0], [1e6]]], dtype=torch.float64)
    means, counts = pool_windows(tokens, torch.tensor([[1, 2, 0]]), torch.tensor([[0, 0, 3]]), 4)
    assert means.flatten().tolist() == [3.0, 3.0, 3.0, 3.0]
    assert counts.tolist() == [[3, 0, 0, 0]]
    means, counts = pool_windows(tokens, torch.tensor([[1, 3, 0]]), torch.tensor([[0, 2, 2]]), 4)
    assert means.flatten().tolist() == [1.0, 3.25, 4.0, 3.25]
    assert counts.tolist() == [[1, 0, 3, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("windows", [1, 2], ids="windows{}".format)
def test_half_precision_pooling_is_as_accurate_as_a_mean(generator, dtype, windows):
    per_window = 200
    tokens = (3 + torch.randn(2, windows**2 * per_window, 16, generator=generator)).to(dtype)
    index = torch.arange(windows**2).repeat_interleave(per_window).expand(2, -1)
    means, _ = pool_windows(tokens, torch.ones_like(index), index, windows**2)
    blocks = tokens.unflatten(1, (windows**2, per_window))
    exact = blocks.double().mean(dim=2)
    plain_error = (blocks.mean(dim=2).double() - exact).abs().max()
    assert (means.double() - exact).abs().max() <= 2 * plain_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_pooling_is_not_lowered_by_autocast(generator, dtype):
    tokens = torch.randn(2, 31, HIDDEN, generator=generator).to(dtype)
    counts, index = torch.ones(2, 31, dtype=torch.int64), torch.arange(31).expand(2, -1) % 4
    expected, _ = pool_windows(tokens, counts, index, 4)
    with torch.autocast("cpu", torch.bfloat16):
        means, _ = pool_windows(tokens, counts, index, 4)
    assert means.dtype == dtype
    assert torch.equal(means, expected)


@DTYPES
@BATCHES
@chains
def test_reduce_tokens(generator, chain, batch, dtype):
    for hidden, scores, layout, (keep, windows), embeddings, expected, expected_layout in reductions(
        chain, batch, generator, dtype
    ):
        before = hidden.clone()
        reduced, new_layout = reduce_tokens(hidden, scores, layout, keep, windows, embeddings)
        assert_same_layout(new_layout, expected_layout)
        assert_near(reduced, expected, dtype)
        fixed = layout.num_prefix + keep
        assert torch.equal(reduced[:, :fixed].double(), expected[:, :fixed])  # kept tokens come through untouched
        assert torch.equal(hidden, before)
        plain, _ = reduce_tokens(hidden, scores, layout, keep, windows)
        assert torch.equal(plain[:, fixed:] + embeddings, reduced[:, fixed:])


@BATCHES
@chains
def test_dc_tokens_are_always_the_mean_of_the_patches_they_stand_for(generator, chain, batch):
    grid, prefix, steps = chain
    hidden = torch.randn(batch, prefix + math.prod(grid), HIDDEN, generator=generator, dtype=torch.float64)
    patches, layout = hidden[:, prefix:], dense_layout(batch, grid, prefix, CPU)
    for keep, windows in steps:
        scores = torch.randn(batch, layout.num_patches, generator=generator)
        hidden, layout = reduce_tokens(hidden, scores, layout, keep, windows)
        for image in range(batch):
            removed = sorted(set(range(math.prod(grid))) - set(layout.positions[image].tolist()))
            index = [reference.windows(grid, windows)[patch] for patch in removed]
            means, counts = reference.pool(patches[image, removed], [1] * len(removed), index, layout.num_dc)
            torch.testing.assert_close(hidden[image, prefix + keep :], means, rtol=1e-13, atol=1e-13)
            assert layout.dc_counts[image].tolist() == counts


def test_an_empty_window_stays_without_weight_in_the_next_reduction():
    # 4 x 4 patches, 2 x 2 windows; the first reduction drops patches 0, 1 and 4, all in window 0.
    values = torch.arange(16, dtype=torch.float64)
    hidden = torch.cat([torch.tensor([-1.0]), values])[None, :, None]
    scores = torch.ones(1, 16)
    scores[0, [0, 1, 4]] = 0
    hidden, layout = reduce_tokens(hidden, scores, dense_layout(1, (4, 4), 1, CPU), 13, 2)
    assert layout.dc_counts.tolist() == [[3, 0, 0, 0]]
    assert hidden[0, -4:, 0].tolist() == pytest.approx([5 / 3] * 4)
    hidden[0, -3:] = 1e9  # DC tokens that stand for nothing
    scores = torch.ones(1, 13)
    scores[0, -1] = 0  # drops patch 15, in window 3
    hidden, layout = reduce_tokens(hidden, scores, layout, 12, 2)
    assert layout.dc_counts.tolist() == [[3, 0, 0, 1]]
    assert hidden[0, -4:, 0].tolist() == pytest.approx([5 / 3, 5, 5, 15])  # (0 + 1 + 4 + 15) / 4 = 5
    hidden, layout = reduce_tokens(hidden, torch.arange(12.0)[None], layout, 11, 1)  # drops patch 2
    assert layout.dc_counts.tolist() == [[5]]
    assert hidden[0, -1, 0].item() == pytest.approx((0 + 1 + 4 + 15 + 2) / 5)


@BATCHES
@chains
def test_every_patch_is_represented_once(generator, chain, batch):
    grid, prefix, _ = chain
    total = math.prod(grid)
    for hidden, scores, layout, (keep, windows), _, _, expected_layout in reductions(chain, batch, generator):
        reduced, new_layout = reduce_tokens(hidden, scores, layout, keep, windows)
        source = token_sources(new_layout)
        restored = restore_tokens(reduced, source)
        assert source.shape == (batch, total)
        assert source.dtype == torch.int64
        for image in range(batch):
            positions = expected_layout.positions[image].tolist()
            assert source[image].tolist() == reference.sources(grid, prefix, positions, windows)
            represented = source[image].bincount(minlength=prefix + keep + new_layout.num_dc).tolist()
            assert represented[:prefix] == [0] * prefix
            assert represented[prefix : prefix + keep] == [1] * keep
            assert represented[prefix + keep :] == new_layout.dc_counts[image].tolist()
            assert sum(represented[prefix + keep :]) == total - keep
            for patch in range(total):
                assert torch.equal(restored[image, patch], reduced[image, source[image, patch]])


def test_patches_dropped_for_good_have_no_source():
    hidden = torch.tensor([9.0, 0, 1, 2, 3, 4, 5])[None, :, None]
    scores = torch.tensor([[0.0, 1, 0, 0, 1, 0]])
    reduced, layout = reduce_tokens(hidden, scores, dense_layout(1, (2, 3), 1, CPU), 2, 0)
    assert reduced.flatten().tolist() == [9, 1, 4]
    source = token_sources(layout)
    assert source.tolist() == [[-1, 1, -1, -1, 2, -1]]
    assert restore_tokens(reduced, source).flatten().tolist() == [0, 1, 0, 0, 4, 0]


def test_restored_grid_by_hand():
    # 2 x 3 patches with the values 0 to 5; patches 1 and 4 stay, the other four have the mean 2.5.
    hidden = torch.tensor([9.0, 0, 1, 2, 3, 4, 5])[None, :, None]
    scores = torch.tensor([[0.0, 1, 0, 0, 1, 0]])
    reduced, layout = reduce_tokens(hidden, scores, dense_layout(1, (2, 3), 1, CPU), 2, 1)
    assert reduced.flatten().tolist() == [9, 1, 4, 2.5]
    source = token_sources(layout)
    assert source.tolist() == [[3, 1, 3, 3, 2, 3]]
    assert restore_tokens(reduced, source).flatten().tolist() == [2.5, 1, 2.5, 2.5, 4, 2.5]


@pytest.mark.parametrize("name", ["3x5-keep6-windows2", "3x5-windows2then1", "7x4-windows3then3"])
def test_gradients_of_reduce_tokens(generator, name):
    for hidden, scores, layout, (keep, windows), embeddings, _, _ in reductions(CHAINS[name], 2, generator):

        def reduced(hidden, embeddings, scores=scores, layout=layout, keep=keep, windows=windows):
            return reduce_tokens(hidden, scores, layout, keep, windows, embeddings)[0]

        inputs = (hidden[:, :, :1].clone().requires_grad_(), embeddings[:, :1].clone().requires_grad_())
        assert torch.autograd.gradcheck(reduced, inputs)


@pytest.mark.parametrize("windows", [1, 2, 3], ids="windows{}".format)
def test_gradients_of_pool_windows(generator, windows):
    tokens = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([[1, 3, 0, 2, 1], [2, 1, 1, 0, 5]])
    index = torch.randint(0, windows**2, (2, 5), generator=generator)
    assert torch.autograd.gradcheck(lambda tokens: pool_windows(tokens, counts, index, windows**2)[0], tokens)


@pytest.mark.parametrize("patches", [1, 5, 196], ids="patches{}".format)
def test_exported_graphs_rank_as_the_sort_does(monkeypatch, patches):
    scores = torch.randint(0, 7, (4, patches)) / 7
    expected = descending_order(scores)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(descending_order(scores), expected)


def test_scores_that_are_no_numbers_rank_last():
    scores = torch.tensor([[torch.nan, 0.5, -torch.inf, torch.nan, 0.7]])
    kept, folded = partition_tokens(scores, 3)
    assert kept.tolist() == [[0, 1, 4]]  # -inf and not-a-number are equal: the first wins
    assert folded.tolist() == [[2, 3]]
