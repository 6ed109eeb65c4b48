"""What holds for every layout: tables of positions, sizes, and the way back to the grid."""

import math

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.modeling.positions import rotary_rows, rotate, token_rows
from fatr_hf.modeling.token_reduction import (
    after_reduction,
    dense_layout,
    dense_sequence,
    reduce_tokens,
    restore_tokens,
    token_sizes,
    token_sources,
    with_residual,
)

BATCH, HIDDEN = 2, 6
SHAPES = {
    "square-8x8-nested": ((8, 8), 1, [(40, 4), (20, 2), (9, 1)]),
    "wide-5x12-registers": ((5, 12), 3, [(30, 5), (11, 5), (4, 1)]),
    "no-prefix-7x7": ((7, 7), 0, [(25, 3), (12, 3)]),
    "one-left-6x6": ((6, 6), 1, [(1, 2), (1, 1)]),
    "empty-windows-4x4": ((4, 4), 2, [(11, 3)]),
    "dropped-6x6": ((6, 6), 1, [(20, 0), (8, 0)]),
    "video-4x6x5-nested": ((4, 6, 5), 0, [(50, (2, 3, 1)), (7, (1, 3, 1))]),
}
shapes = pytest.mark.parametrize(("grid", "prefix", "steps"), SHAPES.values(), ids=SHAPES.keys())


def reduced(grid, prefix, steps, table=None, positions=None):
    """A random sequence through a few reductions: the sequence, its layout, and a table carried along like tokens."""
    generator = torch.Generator().manual_seed(0)
    patches = math.prod(grid)
    hidden = torch.randn(BATCH, prefix + patches, HIDDEN, generator=generator, dtype=torch.float64)
    carried = (
        None if table is None else torch.cat([table.new_zeros(prefix, table.shape[1]), table]).expand(BATCH, -1, -1)
    )
    layout = with_residual(dense_layout(BATCH, grid, prefix, torch.device("cpu")), hidden)
    for keep, windows in steps:
        scores = torch.rand(BATCH, layout.num_patches, generator=generator, dtype=torch.float64)
        added = None if positions is None or not windows else positions[: windows ** len(grid)]
        after, new_layout = reduce_tokens(hidden, scores, layout, keep, windows, added)
        if carried is not None:
            carried, _ = reduce_tokens(carried, scores, layout, keep, windows)
        layout = after_reduction(layout, hidden, after, new_layout, added)
        hidden = after
    return hidden, layout, carried


@shapes
def test_rows_of_a_table_are_those_that_are_carried_along(grid, prefix, steps):
    table = torch.randn(math.prod(grid), 4, dtype=torch.float64)
    _, layout, carried = reduced(grid, prefix, steps, table)
    assert_rounded_alike(token_rows(table, layout), carried[:, prefix:])


@shapes
def test_sizes_count_every_patch_that_is_not_dropped_once(grid, prefix, steps):
    hidden, layout, _ = reduced(grid, prefix, steps)
    sizes = token_sizes(layout)
    assert sizes.shape == hidden.shape[:2]
    assert not sizes[:, :prefix].any()
    sources = token_sources(layout)
    for image in range(BATCH):
        counted = torch.bincount(sources[image][sources[image] >= 0], minlength=hidden.shape[1])
        assert counted.tolist() == sizes[image].tolist()


@shapes
def test_kept_patches_come_back_as_they_are_and_the_others_around_their_mean(grid, prefix, steps):
    hidden, layout, _ = reduced(grid, prefix, steps)
    dense, sources = dense_sequence(hidden, layout), token_sources(layout)
    assert dense.shape == (BATCH, prefix + math.prod(grid), HIDDEN)
    assert torch.equal(dense[:, :prefix], hidden[:, :prefix])
    sizes = token_sizes(layout)
    for image in range(BATCH):
        for token in range(prefix, hidden.shape[1]):
            members = dense[image, prefix:][sources[image] == token]
            assert len(members) == sizes[image, token]
            if len(members):
                assert_rounded_alike(members.mean(dim=0), hidden[image, token])


def test_residuals_give_back_what_entered_where_layers_change_nothing():
    """Nothing but reductions happens here, so that the grid is the one that entered the first of them."""
    grid, prefix, steps = SHAPES["square-8x8-nested"]
    generator = torch.Generator().manual_seed(0)
    entered = torch.randn(BATCH, prefix + 64, HIDDEN, generator=generator, dtype=torch.float64)
    hidden, layout, _ = reduced(grid, prefix, steps)
    assert_rounded_alike(dense_sequence(hidden, layout), entered)
    repeated = restore_tokens(hidden, token_sources(layout))
    assert (repeated - entered[:, prefix:]).abs().max() > 0.5  # repetition alone is another thing


def test_learned_positions_of_dc_tokens_stay_out_of_the_residual():
    grid, prefix, steps = SHAPES["square-8x8-nested"]
    positions = torch.randn(16, HIDDEN, dtype=torch.float64)
    plain, layout, _ = reduced(grid, prefix, steps[:1])
    moved, moved_layout, _ = reduced(grid, prefix, steps[:1], positions=positions)
    assert_rounded_alike(moved_layout.residual, layout.residual)
    assert_rounded_alike(moved[:, -16:], plain[:, -16:] + positions)


@shapes
def test_turning_by_mean_rows_means_the_logits(grid, prefix, steps):
    """Of tokens that share their features, the logit towards their DC token is the mean of the logits towards them."""
    patches, channels = math.prod(grid), 8
    angles = torch.randn(patches, channels // 2, dtype=torch.float64).repeat(1, 2)
    _, layout, _ = reduced(grid, prefix, steps)
    dense = dense_layout(BATCH, grid, prefix, torch.device("cpu"))
    feature, query = torch.randn(2, channels, dtype=torch.float64)
    tokens, rotary = prefix + layout.num_patches + layout.num_dc, (angles.cos(), angles.sin())
    turned = rotate(feature.expand(BATCH, 1, prefix + patches, channels), rotary_rows(dense, rotary))[:, 0, prefix:]
    folded = rotate(feature.expand(BATCH, 1, tokens, channels), rotary_rows(layout, rotary))[:, 0]
    sources, sizes = token_sources(layout), token_sizes(layout)
    for image in range(BATCH):
        for token in range(prefix, tokens):
            if sizes[image, token]:
                logits = turned[image][sources[image] == token] @ query
                assert_rounded_alike(folded[image, token] @ query, logits.mean())


def test_prefix_tokens_are_not_turned():
    layout = dense_layout(BATCH, (2, 2), 3, torch.device("cpu"))
    tokens = torch.randn(BATCH, 2, 7, 8)
    angles = torch.randn(4, 8)
    turned = rotate(tokens, rotary_rows(layout, (angles.cos(), angles.sin())))
    assert torch.equal(turned[:, :, :3], tokens[:, :, :3])
    assert not torch.equal(turned[:, :, 3:], tokens[:, :, 3:])
    assert rotary_rows(layout, None) is None
