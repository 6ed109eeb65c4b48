import itertools
import math

import pytest
import torch

from fatr_hf.analysis import measures

SHAPES = pytest.mark.parametrize(("tokens", "hidden"), [(12, 5), (5, 12), (7, 7), (1, 6), (9, 1)], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
NAN = float("nan")

OF_TOKENS = {
    name: getattr(measures, name)
    for name in (
        "high_frequency_energy",
        "high_frequency_share",
        "effective_rank",
        "stable_rank",
        "mean_pairwise_cosine",
        "dc_similarity",
    )
}
of_tokens = pytest.mark.parametrize("measure", OF_TOKENS.values(), ids=OF_TOKENS)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(tokens, hidden):
    """All singular values are 1."""
    return torch.linalg.qr(doubles(max(tokens, hidden), min(tokens, hidden)))[0].reshape(max(tokens, hidden), -1)


def cosine(first, second):
    return float(first @ second / (first.norm() * second.norm()))


@of_tokens
@DTYPES
def test_results_are_in_float32_or_better_and_near_those_of_float64(measure, dtype):
    tokens = (doubles(3, 20, 8) + 1).to(dtype)
    result = measure(tokens)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else result.dtype)
    assert result.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(result.double(), measure(tokens.double()), rtol=1e-5, atol=1e-6)


@of_tokens
def test_an_image_does_not_see_the_others_of_its_batch(measure):
    tokens = doubles(4, 20, 8) * torch.tensor([1, 1e3, 1e-3, 0])[:, None, None]
    alone = torch.cat([measure(image[None]) for image in tokens])
    torch.testing.assert_close(measure(tokens), alone, equal_nan=True, rtol=1e-9, atol=1e-9)


@of_tokens
def test_what_is_not_finite_leaves_the_other_images_alone(measure):
    tokens = doubles(3, 20, 8)
    expected = measure(tokens)
    tokens[1, 4, 2], tokens[1, 5, 2] = math.inf, -math.inf
    result = measure(tokens)
    assert not result[1].isfinite().any()
    torch.testing.assert_close(result[[0, 2]], expected[[0, 2]])


@of_tokens
def test_order_of_tokens_and_rotation_of_channels_do_not_matter(measure):
    tokens, order = doubles(2, 10, 6), torch.randperm(10)
    expected = measure(tokens)[:, order] if measure is measures.dc_similarity else measure(tokens)
    torch.testing.assert_close(measure((tokens @ orthogonal(6, 6))[:, order]), expected)


def test_energy_is_what_the_centring_matrix_leaves():
    tokens = doubles(2, 9, 4) + 3
    centring = torch.eye(9).double() - 1 / 9
    expected = (centring @ tokens).square().sum(dim=(1, 2))
    torch.testing.assert_close(measures.high_frequency_energy(tokens), expected)
    share = measures.high_frequency_share(tokens)
    torch.testing.assert_close(share, expected / tokens.square().sum(dim=(1, 2)))


def test_equal_tokens_have_collapsed():
    tokens = doubles(2, 1, 6).expand(-1, 10, -1)
    for measure, expected in (
        (measures.high_frequency_energy, 0.0),
        (measures.high_frequency_share, 0.0),
        (measures.effective_rank, 1.0),
        (measures.stable_rank, 1.0),
        (measures.mean_pairwise_cosine, 1.0),
    ):
        # Of equal singular values' rounding errors the root is taken.
        assert measure(tokens).tolist() == pytest.approx([expected] * 2, abs=1e-5), measure.__name__
    torch.testing.assert_close(measures.dc_similarity(tokens), torch.ones(2, 10).double())


@pytest.mark.parametrize("high", [1, 3, 6], ids="{}-of-8".format)
def test_two_valued_tokens(high):
    first, second = doubles(2, 5)
    tokens = torch.stack([first] * high + [second] * (8 - high))[None]
    # Two clusters of a and b tokens: ab/(a+b) times their squared distance.
    energy = high * (8 - high) / 8 * float((first - second).square().sum())
    assert float(measures.high_frequency_energy(tokens)) == pytest.approx(energy)
    between = high * (8 - high)
    within = (8 * 7) / 2 - between
    expected = (within + between * cosine(first, second)) / (8 * 7 / 2)
    assert float(measures.mean_pairwise_cosine(tokens)) == pytest.approx(expected)


def test_tokens_without_a_mean_are_all_high_frequency():
    tokens = doubles(1, 5, 6)
    tokens = torch.cat([tokens, -tokens], dim=1)
    assert float(measures.high_frequency_share(tokens)) == pytest.approx(1)
    assert float(measures.mean_pairwise_cosine(tokens)) == pytest.approx(-1 / 9)


def test_collapse_ratio_is_that_of_norms():
    entering = doubles(3, 10, 4)
    mean = entering.mean(dim=1, keepdim=True)
    leaving = torch.tensor([0.5, 1, 3]).double()[:, None, None] * (entering - mean) + 7
    assert measures.collapse_ratio(entering, leaving).tolist() == pytest.approx([0.5, 1, 3])
    assert measures.collapse_ratio(entering, leaving[:, :1]).tolist() == [0, 0, 0]
    assert not measures.collapse_ratio(entering[:, :1], leaving).isfinite().any()


@SHAPES
def test_singular_values_are_linalgs(tokens, hidden):
    matrices = doubles(3, tokens, hidden)
    expected = torch.linalg.svdvals(matrices).flip(1)
    torch.testing.assert_close(measures.singular_values(matrices), expected, rtol=1e-7, atol=1e-7)


@SHAPES
def test_ranks_of_equal_singular_values_are_full(tokens, hidden):
    matrix = orthogonal(tokens, hidden)
    matrix = (matrix if tokens >= hidden else matrix.T)[None] * 7
    for rank in (measures.effective_rank, measures.stable_rank):
        assert float(rank(matrix)) == pytest.approx(min(tokens, hidden))


@SHAPES
def test_ranks_of_an_outer_product_are_one(tokens, hidden):
    matrix = doubles(1, tokens, 1) * doubles(1, 1, hidden)
    assert float(measures.stable_rank(matrix)) == pytest.approx(1)
    # Null singular values come out as the root of a rounding error.
    assert float(measures.effective_rank(matrix)) == pytest.approx(1, abs=1e-5)


def test_ranks_by_hand():
    matrix = torch.diag_embed(torch.tensor([[4.0, 2, 2, 0]]))
    assert float(measures.effective_rank(matrix)) == pytest.approx(2 ** (0.5 * 1 + 2 * 0.25 * 2), abs=1e-6)
    assert float(measures.stable_rank(matrix)) == pytest.approx(1 + 2 / 4)


def test_ranks_of_nothing_are_undefined():
    zeros = torch.zeros(1, 5, 4)
    for measure in (measures.effective_rank, measures.stable_rank, measures.high_frequency_share):
        assert measure(zeros).isnan().all()


def test_pairwise_cosine_is_the_mean_over_pairs():
    tokens = doubles(2, 7, 4)
    for image, result in zip(tokens, measures.mean_pairwise_cosine(tokens).tolist(), strict=True):
        pairs = [cosine(first, second) for first, second in itertools.combinations(image, 2)]
        assert result == pytest.approx(sum(pairs) / 21)


def test_pairs_with_a_token_of_zeros_count_as_zero_and_a_single_token_has_none():
    tokens = torch.tensor([[[1.0, 0], [2, 0], [0, 0]]])
    assert float(measures.mean_pairwise_cosine(tokens)) == pytest.approx(1 / 3)
    assert measures.mean_pairwise_cosine(tokens[:, :1]).isnan().all()


def test_similarities_are_cosines():
    tokens, others = doubles(2, 2, 7, 4)
    to_dc = [[cosine(token, image.mean(dim=0)) for token in image] for image in tokens]
    torch.testing.assert_close(measures.dc_similarity(tokens), torch.tensor(to_dc).double())
    for image in range(2):
        expected = sum(cosine(*pair) for pair in zip(tokens[image], others[image], strict=True)) / 7
        assert float(measures.token_similarity(tokens, others)[image]) == pytest.approx(expected)
    assert measures.token_similarity(tokens, -3 * tokens).tolist() == pytest.approx([-1, -1])
    assert measures.token_similarity(tokens.bfloat16(), others.bfloat16()).dtype == torch.float32


@DTYPES
def test_attention_entropy(dtype):
    uniform = torch.full((1, 2, 4, 4), 0.25)
    one_hot = torch.eye(4).expand(1, 2, -1, -1)
    halves = torch.tensor([0.5, 0.5, 0, 0]).expand(1, 2, 4, -1)
    attention = torch.cat([uniform, one_hot, halves, torch.cat([uniform[:, :1], halves[:, 1:]], dim=1)]).to(dtype)
    result = measures.attention_entropy(attention)
    assert result.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert result.tolist() == pytest.approx([math.log(4), 0, math.log(2), 1.5 * math.log(2)])


def test_column_mass_of_the_highest_tokens():
    scores = torch.tensor([[1.0, 4, 2, 3], [NAN, 1, NAN, 3], [2, 2, 2, 2], [NAN] * 4])
    result = measures.column_mass(scores, [0.1, 0.25, 0.5, 0.75, 1.0])
    assert result[0].tolist() == pytest.approx([0.4, 0.4, 0.7, 0.9, 1])
    assert result[1].tolist() == pytest.approx([0.75, 0.75, 0.75, 0.75, 1])
    assert result[2].tolist() == pytest.approx([0.25, 0.25, 0.5, 0.75, 1])
    assert result[3].isnan().all()
    assert result.dtype == torch.float32


def test_shares_mean_the_decimals_they_are_written_as():
    scores = torch.ones(1, 100)
    shares = [hundredth / 100 for hundredth in range(1, 101)]
    assert measures.column_mass(scores, shares)[0].tolist() == pytest.approx(shares)
    for hundredth in range(1, 100):
        assert measures.highest(scores, hundredth / 100).sum() == hundredth


@pytest.mark.parametrize(
    ("scores", "share", "expected"),
    [
        ([3.0, 1, 2, 4], 0.5, [0, 3]),
        ([3.0, 1, 2, 4], 0.1, [3]),
        ([1.0, 1, 1, 1], 0.75, [0, 1, 2]),
        ([1.0, 2, 2, 2], 0.5, [1, 2]),
        ([NAN, 1, NAN, 2], 0.5, [3]),
        ([NAN, 1, NAN, -math.inf], 0.9, [1]),
        ([NAN, NAN, NAN, -1], 0.25, [3]),
        ([NAN, NAN, NAN, NAN], 0.9, []),
    ],
    ids=["half", "at-least-one", "all-equal", "ties", "of-those-there", "infinite", "only-one", "none"],
)
def test_highest(scores, share, expected):
    batch = torch.tensor([scores, [0.0, 0, 0, 9]])
    result = measures.highest(batch, share)
    assert result.dtype == torch.bool
    assert result[0].nonzero().flatten().tolist() == expected
    assert bool(result[1, 3])


def test_overlap_is_intersection_over_union():
    chosen = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    others = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    result = measures.overlap(chosen, others)
    torch.testing.assert_close(result, torch.tensor([1, 0, 0.5, 0, NAN]), equal_nan=True)
