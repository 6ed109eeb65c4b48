import itertools
import math

import pytest
import torch
from baseline_reference import reference_logits
from rounding import assert_rounded_alike

from fatr_hf import FATRViTConfig
from fatr_hf.baselines import Pooling
from fatr_hf.baselines.pooling import pool_grid, pooled_grid
from fatr_hf.modeling.token_plan import LayerPlan
from fatr_hf.modeling.token_reduction import dense_layout, token_sizes, token_sources


def pool_slowly(tokens, grid, new_grid):
    """One image's tokens (1 + rows * columns, hidden), window by window."""
    (rows, columns), (new_rows, new_columns) = grid, new_grid
    new = [tokens[0]]
    for row in range(new_rows):
        for column in range(new_columns):
            window = [
                tokens[1 + y * columns + x]
                for y in range(row * rows // new_rows, -(-(row + 1) * rows // new_rows))
                for x in range(column * columns // new_columns, -(-(column + 1) * columns // new_columns))
            ]
            new.append(sum(window) / len(window))
    return torch.stack(new)


def pool_tokens(tokens, grid, new_grid):
    """A first pooling behind one prefix token: the sequence and its layout."""
    step = LayerPlan(0, 1, math.prod(grid), math.prod(new_grid), (), (), False)
    layout = dense_layout(len(tokens), grid, 1, tokens.device)
    return pool_grid(tokens, None, layout, step, grid=grid, new_grid=new_grid)


def pool(grid, grids):
    """Pooling for ``reference_logits``; ``grids`` maps layers to the grids after them."""

    def reduce(layer, tokens, maps, keys, sizes):
        at_hand = [grid, *(grids[earlier] for earlier in sorted(grids) if earlier < layer)][-1]
        return (pool_slowly(tokens, at_hand, grids[layer]) if layer in grids else tokens), sizes

    return reduce


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_the_references(make_rival, pixel_values, attention):
    model = make_rival("pooling", reduction_layers=[0, 2, 3], grids=[(7, 5), 4, (1, 4)])
    model.set_attn_implementation(attention)
    expected = reference_logits(model, pixel_values, pool((8, 8), {0: (7, 5), 2: (4, 4), 3: (1, 4)}))
    # Stock eager attention takes its softmax in float32.
    dtype = {"sdpa": torch.float64, "eager": torch.float32}[attention]
    assert_rounded_alike(model.double()(pixel_values).logits, expected, dtype)


def test_logits_of_an_oblong_model_are_the_references(make_rival):
    model = make_rival("pooling", {"image_size": (24, 40)}, reduction_layers=[1], keep_ratio=0.5)
    images = torch.randn(2, 3, 24, 40)
    expected = reference_logits(model, images, pool((6, 10), {1: (4, 7)}))
    assert_rounded_alike(model.double()(images).logits, expected)


@pytest.mark.parametrize(
    ("grid", "new_grid"),
    [((8, 8), (4, 2)), ((6, 10), (5, 7)), ((3, 4), (3, 4)), ((5, 1), (2, 1)), ((4, 3), (1, 1))],
    ids=["divided", "overlapping", "unchanged", "column", "one-token"],
)
def test_pooling_is_the_loops(grid, new_grid):
    tokens = torch.randn(2, 1 + math.prod(grid), 5, dtype=torch.float64, requires_grad=True)
    pooled, layout = pool_tokens(tokens, grid, new_grid)
    expected = torch.stack([pool_slowly(image, grid, new_grid) for image in tokens])
    assert_rounded_alike(pooled, expected)
    assert torch.equal(pooled[:, 0], tokens[:, 0])
    covered = pool_slowly(torch.eye(1 + math.prod(grid)), grid, new_grid) > 0
    assert token_sizes(layout)[0].tolist() == [0, *covered[1:].sum(dim=1).tolist()]
    for patch, source in enumerate(token_sources(layout)[0].tolist(), start=1):
        assert covered[source, patch]
    gradients = [torch.autograd.grad(result.square().sum(), tokens)[0] for result in (pooled, expected)]
    assert_rounded_alike(*gradients)


def test_pooling_by_hand():
    tokens = torch.tensor([9.0, 1, 2, 3, 4, 5, 6])[None, :, None]
    assert pool_tokens(tokens, (2, 3), (1, 2))[0].flatten().tolist() == [9, 3, 4]


@pytest.mark.parametrize(
    "fields", [{"keep_ratio": 1}, {"reduction_layers": [1, 2], "grids": [8, (8, 8)]}], ids=["ratio", "grids"]
)
def test_keeping_everything_is_stock(make_rival, sharp_stock, pixel_values, fields):
    model = make_rival("pooling", **fields)
    model.model.load_state_dict(sharp_stock.state_dict())
    assert_rounded_alike(model.double()(pixel_values).logits, sharp_stock.double()(pixel_values).logits)


@pytest.mark.parametrize(
    ("fields", "grids"),
    [
        ({}, [(11, 12), (10, 10), (8, 8)]),
        ({"image_size": 384}, [(20, 20), (17, 17), (14, 14)]),
        ({"image_size": (224, 112)}, [(11, 6), (10, 5), (8, 4)]),
        ({"image_size": (112, 224)}, [(6, 11), (5, 10), (4, 8)]),
        ({"keep_ratio": [0.25, 1, 0.25]}, [(7, 7), (7, 7), (3, 4)]),
        ({"keep_ratio": 1}, [(14, 14)] * 3),
        ({"keep_ratio": 0.001}, [(1, 1)] * 3),
        ({"grids": (12, (9, 11), [1, 2])}, [(12, 12), (9, 11), (1, 2)]),
    ],
    ids=["default", "384", "tall", "wide", "list", "all", "least", "given"],
)
def test_grids(vit, fields, grids):
    fields = dict(fields)
    config = vit(image_size=fields.pop("image_size", 224))
    method = Pooling(**fields)
    per_layer = [grid for grid in [config.patch_grid(), *grids] for _ in range(3)]
    assert method.grid_per_layer(config) == per_layer
    assert [step.tokens_out for step in method.plan(config)] == [1 + rows * columns for rows, columns in per_layer]


@pytest.mark.parametrize("image_size", [224, 384, (224, 336)], ids=str)
def test_patch_tokens_are_about_as_many_as_fatrs(image_size):
    config = FATRViTConfig(image_size=image_size)
    for layer, (rows, columns) in zip(config.plan(), Pooling().grid_per_layer(config), strict=True):
        assert rows * columns == pytest.approx(layer.patches_out, rel=0.07)


def test_other_image_sizes_have_grids_of_their_own(vit):
    assert Pooling().grid_per_layer(vit(), (224, 112))[::3] == [(14, 7), (11, 6), (10, 5), (8, 4)]
    method = Pooling(grids=[(12, 11), 10, (4, 8)])
    assert method.grid_per_layer(vit(), (112, 320))[::3] == [(7, 20), (7, 11), (7, 10), (4, 8)]


def test_sides_never_grow(vit):
    config, method = vit(), Pooling(keep_ratio=[0.8, 0.9, 0.9])
    for rows in range(1, 16):
        for columns in range(1, 16):
            grids = method.grid_per_layer(config, (16 * rows, 16 * columns))
            for (before, wider), (after, narrower) in itertools.pairwise(grids):
                assert 1 <= after <= before
                assert 1 <= narrower <= wider


def test_pooled_grid_is_the_closest_of_four():
    assert pooled_grid((14, 14), 0.7) == (11, 12)  # 132 tokens; 137.2 are wanted, 12 x 12 are 144
    assert pooled_grid((10, 10), 0.7 * 0.7) == (7, 7)  # in floats a little less than 0.49
    assert pooled_grid((13, 12), 0.27) == (7, 6)  # 6 x 7 are as many, in the other aspect
    assert pooled_grid((12, 13), 0.27) == (6, 7)
    assert pooled_grid((1, 9), 0.1) == (1, 2)  # 0.9 tokens are wanted; 0.3 x 2.8 sides
    assert pooled_grid((5, 9), 1) == (5, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_ratio": 0.0}, r"keep_ratio=0\.0 must lie in \(0, 1\]"),
        ({"keep_ratio": [0.5, 1.5, 0.5]}, r"keep_ratio=\(0\.5, 1\.5, 0\.5\) must lie in \(0, 1\]; 1\.5 does not"),
        ({"keep_ratio": [0.5]}, r"keep_ratio=\[0\.5\] has 1 entries, but there are 3"),
        ({"reduction_layers": [3, 3]}, r"reduction_layers=\(3, 3\) must be strictly increasing integers of at least 0"),
        ({"reduction_layers": [12]}, r"reduction_layers=\[12\] must lie below 12"),
        ({"grids": [12, 10]}, r"grids=\[12, 10\] has 2 entries: give one for each of the 3 reduction layers"),
        ({"grids": []}, r"grids=\[\] has 0 entries"),
        ({"grids": [12, 13, 8]}, r"no side may grow, as from \(12, 12\) to \(13, 13\)"),
        ({"grids": [12, (8, 9), (9, 8)]}, r"no side may grow, as from \(8, 9\) to \(9, 8\)"),
        ({"grids": [12, 8, 0]}, "grids=0 must be one number, or height and width, each at least 1"),
        ({"grids": [12, (8, 9, 1), 4]}, r"grids=\(8, 9, 1\) must be one number, or height and width"),
        ({"grids": [12.5, 8, 4]}, "grids"),
        ({"grids": 12}, "grids"),
    ],
    ids=[
        "ratio-0", "ratio-above-1", "ratios", "layers-equal", "layers-beyond", "grids-few", "grids-none",
        "grids-growing", "grids-growing-rows", "grids-0", "grids-triple", "grids-fraction",
        "grids-single",
    ],
)  # fmt: skip
def test_bad_fields_are_refused(vit, fields, message):
    with pytest.raises(ValueError, match=message):
        Pooling(**fields).plan(vit())


def test_videos_are_pooled_along_three_axes():
    grid, new_grid = (4, 5, 3), (2, 2, 2)
    tokens = torch.randn(2, 1 + 60, 4, dtype=torch.float64)
    reduced, layout = pool_tokens(tokens, grid, new_grid)
    sources = token_sources(layout)
    for image in range(2):
        cube = tokens[image, 1:].unflatten(0, grid)
        for number, place in enumerate(itertools.product(*map(range, new_grid))):
            inside = [
                slice(at * side // new, -(-(at + 1) * side // new))
                for at, side, new in zip(place, grid, new_grid, strict=True)
            ]
            assert_rounded_alike(reduced[image, 1 + number], cube[tuple(inside)].flatten(0, 2).mean(dim=0))
        places = torch.arange(60).unflatten(0, grid)
        for place in itertools.product(*map(range, grid)):
            at = [each * new // side for each, new, side in zip(place, new_grid, grid, strict=True)]
            assert sources[image, places[place]] == 1 + at[0] * 4 + at[1] * 2 + at[2]


def test_videos_shrink_alike_along_all_axes():
    assert pooled_grid((8, 14, 14), 1) == (8, 14, 14)
    assert pooled_grid((8, 14, 14), 0.125) == (4, 7, 7)
    new = pooled_grid((8, 14, 14), 0.7)
    assert abs(math.prod(new) - 0.7 * 8 * 14 * 14) < 60
