"""Selection by energy and folding by similarity: small cases by hand, ties, NaN, gradients, refusals."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from reference import cosine_steps, reduce_similar
from rounding import assert_rounded_alike

from fatr_hf import FATRDinov2Config, FATRIJepaConfig, FATRViTConfig
from fatr_hf.modeling.token_reduction import (
    COSINE_STEPS,
    dense_layout,
    distinctness,
    feature_similarity,
    fold_similar,
    restore_tokens,
    token_features,
    token_sizes,
    token_sources,
)

CPU = torch.device("cpu")
SHAPES = {  # batch, grid, prefix tokens, counts kept by one reduction after the other
    "2x16-keep9then4": (2, (4, 4), 1, (9, 4)),
    "1x15-keep14then1": (1, (3, 5), 5, (14, 1)),
    "3x6-keep1": (3, (1, 6), 0, (1,)),
    "2x48-keep30then17then16": (2, (4, 3, 4), 2, (30, 17, 16)),
}
shapes = pytest.mark.parametrize(("batch", "grid", "prefix", "counts"), SHAPES.values(), ids=SHAPES.keys())
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def similarity_of(keys):
    return feature_similarity(torch.tensor(keys, dtype=torch.float64)[None])


@shapes
@dtypes
def test_every_reduction_equals_loops_over_tokens(batch, grid, prefix, counts, dtype):
    generator = torch.Generator().manual_seed(0)
    patches = torch.Size(grid).numel()
    hidden = torch.randn(batch, prefix + patches, 6, generator=generator, dtype=torch.float64).to(dtype)
    layout = dense_layout(batch, grid, prefix, CPU)
    expected = [
        (hidden[image].double(), list(range(patches)), [1] * patches, list(range(patches))) for image in range(batch)
    ]
    for keep in counts:
        present = layout.num_patches
        scores = torch.randn(batch, present, generator=generator)
        keys = torch.randn(batch, prefix + present, 4, generator=generator, dtype=torch.float64)
        hidden, layout = fold_similar(hidden, scores, feature_similarity(keys[:, prefix:]), layout, keep)
        expected = [
            reduce_similar(
                states.to(dtype).double(), scores[image].tolist(), positions, sizes, prefix, keep, keys[image], standing
            )
            for image, (states, positions, sizes, standing) in enumerate(expected)
        ]
        assert_rounded_alike(hidden, torch.stack([states for states, *_ in expected]).to(dtype), dtype)
        assert layout.positions.tolist() == [positions for _, positions, _, _ in expected]
        assert token_sizes(layout)[:, prefix:].tolist() == [sizes for _, _, sizes, _ in expected]
        assert (token_sources(layout) - prefix).tolist() == [standing for *_, standing in expected]
        assert token_sizes(layout).sum(dim=1).tolist() == [patches] * batch


@shapes
def test_the_mean_of_the_restored_grid_stays(batch, grid, prefix, counts):
    generator = torch.Generator().manual_seed(0)
    patches = torch.Size(grid).numel()
    hidden = torch.randn(batch, prefix + patches, 6, generator=generator, dtype=torch.float64)
    layout, mean = dense_layout(batch, grid, prefix, CPU), hidden[:, prefix:].mean(dim=1)
    for keep in counts:
        keys = torch.randn(batch, layout.num_patches, 4, generator=generator, dtype=torch.float64)
        hidden, layout = fold_similar(hidden, keys[:, :, 0], feature_similarity(keys), layout, keep)
        assert_rounded_alike(restore_tokens(hidden, token_sources(layout)).mean(dim=1), mean)


def test_cosines_by_hand():
    similarity = similarity_of([[1.0, 0], [2, 0], [0, 3], [-1, 0], [1, 1]])
    step = round(COSINE_STEPS / 2**0.5)
    full = COSINE_STEPS
    assert similarity[0].tolist() == [
        [full, full, 0, -full, step],
        [full, full, 0, -full, step],
        [0, 0, full, 0, step],
        [-full, -full, 0, full, -step],
        [step, step, step, -step, full],
    ]
    # The first in energy is compared with the one least like it, any other with those before it.
    energies = torch.tensor([[5.0, 4, 3, 2, 1]])
    nearest = [-full, full, 0, 0, step]
    assert distinctness(similarity, energies)[0].tolist() == [1 - each / full for each in nearest]
    nearest = [full, step, step, -step, -step]
    assert distinctness(similarity, energies.flip(1))[0].tolist() == [1 - each / full for each in nearest]


@dtypes
def test_tokens_are_as_alike_as_their_keys_and_they_themselves_in_the_mean(dtype):
    tokens = torch.tensor([[5.0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 0]])[None].to(dtype).requires_grad_()
    keys = torch.tensor([[1.0, 0], [0, 4], [-1, 0], [1, 0]], dtype=torch.promote_types(dtype, torch.float32))[None]
    features = token_features(keys, tokens)
    assert (features.dtype, features.requires_grad) == (keys.dtype, False)
    half = COSINE_STEPS // 2
    assert feature_similarity(features)[0, :3, :3].tolist() == [
        [2 * half, half, -half],
        [half, 2 * half, 0],
        [-half, 0, 2 * half],
    ]
    # Of a token of zeros the key alone counts, at the length that both would have.
    assert feature_similarity(features)[0, 3, [1, 3]].tolist() == [0, 2 * half]


@pytest.mark.parametrize("place", ["key", "token"])
def test_a_token_with_nan_in_key_or_channels_is_like_nothing(place):
    keys, tokens = torch.ones(1, 3, 2), torch.ones(1, 3, 4)
    {"key": keys, "token": tokens}[place][0, 1, 0] = float("nan")
    similarity = feature_similarity(token_features(keys, tokens))[0]
    assert similarity[1].count_nonzero() == similarity[:, 1].count_nonzero() == 0
    assert similarity[0, 2] == COSINE_STEPS


def test_a_feature_that_is_not_finite_is_like_nothing():
    keys = torch.tensor([[1.0, 0], [float("nan"), 1], [0, 0], [float("inf"), 1], [1, 0]])[None]
    similarity = feature_similarity(keys)[0]
    assert similarity[[1, 2, 3]].count_nonzero() == similarity[:, [1, 2, 3]].count_nonzero() == 0
    assert similarity[0, 4] == COSINE_STEPS
    assert similarity.isfinite().all()


@dtypes
def test_equal_tokens_go_by_place(dtype):
    """A blank image: every token is like every other, so the first are kept and all others join the first."""
    hidden, layout = torch.ones(1, 1 + 400, 8, dtype=dtype), dense_layout(1, (20, 20), 1, CPU)
    keys = torch.full((1, 400, 24), 0.3, dtype=torch.promote_types(dtype, torch.float32))
    similarity = feature_similarity(keys)
    assert (similarity == COSINE_STEPS).all()
    energies = torch.rand(1, 400)
    scores = energies * distinctness(similarity, energies)
    reduced, layout = fold_similar(hidden, scores, similarity, layout, 150)
    assert layout.positions.tolist() == [list(range(150))]
    assert token_sizes(layout)[0].tolist() == [0, 251, *[1] * 149]
    assert_rounded_alike(reduced, hidden[:, :151], dtype)


def test_nan_scores_are_kept_last():
    scores = torch.tensor([[float("nan"), 1.0, float("-inf"), 2.0]])
    keys = torch.eye(4)[None]
    _, layout = fold_similar(torch.randn(1, 4, 3), scores, feature_similarity(keys), dense_layout(1, (2, 2), 0, CPU), 2)
    assert layout.positions.tolist() == [[1, 3]]


@dtypes
def test_a_token_that_none_joins_stays_bit_for_bit(dtype):
    hidden = torch.randn(1, 6, 16).to(dtype)
    keys = torch.tensor([[1.0, 0], [0, 1], [0, 1], [-1, 0], [0, -1], [0, 1]])[None]
    scores = torch.tensor([[5.0, 4, 1, 3, 2, 0]])
    reduced, layout = fold_similar(hidden, scores, feature_similarity(keys), dense_layout(1, (2, 3), 0, CPU), 4)
    assert layout.sizes.tolist() == [[1, 3, 1, 1]]
    assert torch.equal(reduced[:, [0, 2, 3]], hidden[:, [0, 3, 4]])


def test_a_half_precision_mean_is_as_accurate_as_plain_pytorch():
    torch.manual_seed(0)
    hidden = (3 + torch.randn(2, 101, 32)).bfloat16()
    keys = torch.ones(2, 101, 2)
    reduced, _ = fold_similar(
        hidden, torch.rand(2, 101), feature_similarity(keys), dense_layout(2, (1, 101), 0, CPU), 1
    )
    exact = hidden.double().mean(dim=1)
    plain = (hidden.mean(dim=1).double() - exact).abs().max()
    assert (reduced[:, 0].double() - exact).abs().max() <= 2 * plain


def test_gradients():
    torch.manual_seed(0)
    hidden = torch.randn(2, 10, 3, dtype=torch.float64, requires_grad=True)
    similarity, scores = feature_similarity(torch.randn(2, 9, 4, dtype=torch.float64)), torch.rand(2, 9)
    layout = dense_layout(2, (3, 3), 1, CPU)
    assert torch.autograd.gradcheck(lambda states: fold_similar(states, scores, similarity, layout, 4)[0], hidden)


def test_the_reference_counts_cosines_in_the_same_steps():
    keys = torch.randn(7, 5, dtype=torch.float64)
    assert cosine_steps(keys) == feature_similarity(keys[None])[0].tolist()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fold": "nearest"}, "fold='nearest' must be one of windows, similar"),
        ({"fold": "similar", "dc_windows": 2}, "dc_windows=2 belongs to fold='windows'"),
        ({"fold": "similar", "dc_windows": [2, 1, 1]}, r"dc_windows=\[2, 1, 1\] belongs to fold='windows'"),
        ({"dc_windows": 0, "size_exponent": 0.5}, "size_exponent=0.5 needs tokens that stand for several patches"),
        ({"selection": "energy"}, "selection='energy' must be one of high_frequency, high_frequency_energy"),
        ({"folds": "similar"}, "has no field 'folds': did you mean 'fold'"),
    ],
    ids=str,
)
def test_fields_that_contradict_each_other_are_refused(fields, words):
    with pytest.raises((StrictDataclassError, ValueError), match=words):
        FATRViTConfig(**fields)


def test_a_selection_by_cls_needs_one():
    with pytest.raises(StrictDataclassError, match="needs a CLS token"):
        FATRIJepaConfig(fold="similar", selection="cls_attention")
    assert FATRIJepaConfig(fold="similar", selection="high_frequency_energy").plan()[-1].tokens_out > 0


def test_each_fold_has_its_defaults():
    similar = FATRDinov2Config(fold="similar")
    assert (similar.dc_windows, similar.size_exponent) == (0, 1.0)
    assert (FATRDinov2Config().dc_windows, FATRDinov2Config().size_exponent) == ([2, 1, 1], 0.0)
    assert FATRDinov2Config(fold="similar", size_exponent=0.5).size_exponent == 0.5
    assert [step.dc_out for step in similar.plan()] == [0] * 12


def test_the_other_fold_brings_its_defaults_along(make_fatr):
    model = make_fatr()
    model.set_reduction(fold="similar")
    assert (model.config.fold, model.config.dc_windows, model.config.size_exponent) == ("similar", 0, 1.0)
    model.set_reduction(fold="windows")
    assert (model.config.fold, model.config.dc_windows, model.config.size_exponent) == ("windows", [2, 1, 1], 0.0)
    model.set_reduction(keep_ratio=0.6, size_exponent=0.5)
    model.set_reduction(selection="high_frequency_energy")
    assert (model.config.dc_windows, model.config.size_exponent) == ([2, 1, 1], 0.5)
