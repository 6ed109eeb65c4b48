"""What holds for every configuration: drawn at random, valid and invalid."""

import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import number, plan, randomise, sources

from fatr_hf import FATRViTConfig, FATRViTForImageClassification, restore_tokens
from fatr_hf.modeling.reduction_config import SELECTIONS
from fatr_hf.modeling.token_plan import FOLDS
from fatr_hf.modeling.token_reduction import dense_layout, reduce_tokens, token_sources

PATCH = 2
NAMES = ("keep_ratio", "dc_windows", "token_multiple", "reduction_layers")
small = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])


def make_config(grid=(4, 6), depth=4, **changes):
    fields = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": depth, "intermediate_size": 8}
    return FATRViTConfig(**(fields | {"image_size": (grid[0] * PATCH, grid[1] * PATCH), "patch_size": PATCH} | changes))


@st.composite
def schedules(draw):
    """Grid, depth and the fields that decide the counts; some schedules can be carried out, some not."""
    grid = draw(st.tuples(st.integers(2, 6), st.integers(2, 7)))
    depth = draw(st.integers(1, 4))
    layers = sorted(draw(st.sets(st.integers(0, depth - 1), min_size=1)))
    each = {"min_size": len(layers), "max_size": len(layers)}
    ratios = draw(st.lists(st.sampled_from([0.03, 0.15, 0.29, 0.4, 0.5, 0.58, 0.6, 0.7, 0.9, 1.0]), **each))
    windows = sorted(draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), **each)), reverse=True)
    multiple = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return grid, depth, layers, ratios, windows, multiple


def steps_of(schedule):
    grid, _, layers, ratios, windows, multiple = schedule
    return plan(grid, layers, ratios, windows, multiple=multiple)


def config_of(schedule, **changes):
    grid, depth, layers, ratios, windows, multiple = schedule
    fields = {"reduction_layers": layers, "keep_ratio": ratios, "dc_windows": windows, "token_multiple": multiple}
    return make_config(grid, depth, **fields, **changes)


def valid_schedules():
    return schedules().filter(lambda schedule: steps_of(schedule) is not None)


@settings(small, max_examples=300)
@given(schedule=schedules())
def test_a_schedule_is_carried_out_or_refused_in_words(schedule):
    steps = steps_of(schedule)
    if steps is None:
        with pytest.raises((StrictDataclassError, ValueError)) as refusal:
            config_of(schedule)
        assert any(name in str(refusal.value) for name in NAMES)
        assert any(str(number) in str(refusal.value) for number in (*schedule[2], *schedule[4], schedule[5]))
        return
    patches, windows = schedule[0][0] * schedule[0][1], ()
    for tokens in config_of(schedule).plan():
        assert tokens.tokens_in == 1 + patches + number(windows)
        assert tokens.reduces == (tokens.layer in steps)
        patches, windows = steps.get(tokens.layer, (patches, windows))
        assert tokens.tokens_out == 1 + patches + number(windows)
        assert not tokens.reduces or tokens.tokens_out < tokens.tokens_in
        assert not tokens.reduces or tokens.tokens_out % schedule[5] == 0


@small
@given(
    schedule=valid_schedules(),
    selection=st.sampled_from(SELECTIONS),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_forward_keeps_every_patch_represented_once(schedule, selection, exponent, batch, seed):
    (rows, columns), depth = schedule[:2]
    steps = steps_of(schedule)
    config = config_of(schedule, selection=selection, size_exponent=exponent)
    model = randomise(FATRViTForImageClassification(config), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(batch, 3, rows * PATCH, columns * PATCH, generator=generator)
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True, output_token_sources=True)
    lengths = [states.shape[1] for states in outputs.hidden_states]
    assert lengths[:-1] == [tokens.tokens_in for tokens in config.plan()]
    assert lengths[1:] == [tokens.tokens_out for tokens in config.plan()]
    assert len(outputs.hidden_states) == depth + 1
    assert len(outputs.token_sources) == len(steps)
    assert outputs.logits.isfinite().all()

    before = [set(range(rows * columns))] * batch
    for (layer, (kept, windows)), source in zip(steps.items(), outputs.token_sources, strict=True):
        states = outputs.hidden_states[layer + 1]
        restored = restore_tokens(states, source)
        assert states.shape[1] == 1 + kept + number(windows)
        assert restored.shape == (batch, rows * columns, config.hidden_size)
        for image in range(batch):
            places = source[image].tolist()
            positions = [patch for patch, place in enumerate(places) if place <= kept]
            assert len(positions) == kept
            assert set(positions) <= before[image]  # what was folded stays folded
            assert places == sources((rows, columns), 1, positions, windows)
            assert torch.equal(restored[image], torch.stack([states[image, place] for place in places]))
            before[image] = set(positions)


@small
@given(schedule=valid_schedules(), prefix=st.integers(1, 3), batch=st.integers(1, 3), seed=st.integers(0, 100))
def test_reductions_conserve_patches_and_their_sum(schedule, prefix, batch, seed):
    grid, total = schedule[0], schedule[0][0] * schedule[0][1]
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, prefix + total, 3, generator=generator, dtype=torch.float64)
    layout, patches = dense_layout(batch, grid, prefix, hidden.device), hidden[:, prefix:]
    for kept, windows in steps_of(schedule).values():
        scores = torch.randint(0, 5, (batch, layout.num_patches), generator=generator)
        hidden, layout = reduce_tokens(hidden, scores, layout, kept, windows)
        assert hidden.shape[1] == prefix + kept + number(windows)
        assert layout.dc_counts.sum(dim=1).tolist() == [total - kept] * batch
        restored = restore_tokens(hidden, token_sources(layout))
        torch.testing.assert_close(restored.sum(dim=1), patches.sum(dim=1), rtol=0, atol=1e-10)
        for image in range(batch):
            positions = layout.positions[image]
            assert torch.equal(restored[image, positions], patches[image, positions])
            places = token_sources(layout)[image] - prefix
            assert places.bincount(minlength=kept + number(windows))[kept:].tolist() == layout.dc_counts[image].tolist()


def among(strategy):
    """One bad value in a list of three, and how it reads."""
    return st.tuples(st.integers(0, 2), strategy).map(
        lambda drawn: ([drawn[1] if place == drawn[0] else 1 for place in range(3)], repr(drawn[1]))
    )


def alone(strategy):
    return strategy.map(lambda value: (value, repr(value)))


bad_ratio = st.one_of(
    st.floats(max_value=0), st.floats(min_value=1, exclude_min=True), st.just(float("nan")), st.integers(2, 100)
)
bad_count = st.one_of(st.integers(-1000, 0), st.floats(), st.booleans())
other_types = st.one_of(st.text(max_size=5), st.binary(max_size=3), st.dictionaries(st.text(max_size=1), st.none()))
numbers = st.one_of(st.integers(), st.floats())

INVALID = {
    "keep_ratio": st.one_of(
        alone(bad_ratio),
        among(bad_ratio),
        alone(other_types),
        alone(st.none()),
        alone(st.booleans()),
        alone(st.lists(st.sampled_from([0.5, 1.0]), max_size=6).filter(lambda ratios: len(ratios) != 3)),
    ),
    "dc_windows": st.one_of(
        alone(bad_count.filter(lambda windows: windows != 0)),
        among(bad_count),
        alone(other_types),
        alone(st.integers(5, 10**9)),
        alone(st.lists(st.just(1), max_size=6).filter(lambda windows: len(windows) != 3)),
    ),
    "reduction_layers": st.one_of(
        alone(st.lists(st.integers(-3, 6), min_size=1).filter(lambda n: n != sorted({*n} & {0, 1, 2, 3}))),
        alone(st.lists(st.one_of(st.floats(), st.text(max_size=2), st.booleans(), st.none()), min_size=1)),
        alone(other_types),
        alone(numbers),
    ),
    "token_multiple": st.one_of(
        alone(bad_count), alone(other_types), alone(st.none()), alone(st.integers(25, 10**12)), alone(st.just([1]))
    ),
    "size_exponent": st.one_of(
        alone(st.floats(max_value=0, exclude_max=True)),
        alone(st.floats(min_value=1, exclude_min=True)),
        alone(st.just(float("nan"))),
        alone(st.integers().filter(lambda number: number not in (0, 1))),
        alone(other_types),
        alone(st.booleans()),
    ),
    "fold": st.one_of(
        alone(st.text(max_size=20).filter(lambda text: text not in FOLDS)), alone(numbers), alone(st.none())
    ),
    "selection": st.one_of(
        alone(st.text(max_size=20).filter(lambda text: text not in SELECTIONS)), alone(numbers), alone(st.none())
    ),
    "reweight_attention": st.one_of(alone(other_types), alone(numbers), alone(st.none())),
    "dc_position_embeddings": st.one_of(alone(other_types), alone(numbers), alone(st.none())),
}


@pytest.mark.parametrize("field", INVALID)
def test_invalid_fields_are_refused_in_words(field):
    @small
    @given(drawn=INVALID[field])
    def check(drawn):
        value, offending = drawn
        with pytest.raises((StrictDataclassError, ValueError)) as refusal:
            make_config(**{field: value})
        assert field in str(refusal.value)
        assert offending in str(refusal.value)

    check()


@small
@given(height=st.integers(-3, 40), width=st.integers(-3, 40))
def test_image_sizes_give_a_schedule_or_words(height, width):
    config = make_config(keep_ratio=0.5, dc_windows=1)
    if min(height, width) >= PATCH:
        grid = (height // PATCH, width // PATCH)
        steps = plan(grid, [1, 2, 3], [0.5] * 3, [1] * 3)
        if steps is not None:
            kept, windows = steps[3]
            assert config.plan((height, width))[-1].tokens_out == 1 + kept + number(windows)
            return
        words = "would not shorten"
    else:
        words = f"image_size={(height, width)}"
    with pytest.raises(ValueError, match=re.escape(words)):
        config.plan((height, width))
