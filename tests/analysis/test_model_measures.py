"""What each measure of a layer is, beside a computation image by image."""

import math

import pytest
import torch
from rounding import assert_rounded_alike

from fatr_hf.analysis.model_measures import HIGH_SHARE, KEPT_SHARE, LAYER_MEASURES, MASS_SHARES, STATE_MEASURES
from fatr_hf.analysis.spectrum import relative_log_amplitudes
from fatr_hf.analysis.trace import trace


@pytest.fixture(params=["vit", "fatr", "evit", "tome"])
def traces(request, make_model, make_sharp_fatr, pixel_values):
    model = make_sharp_fatr() if request.param == "fatr" else make_model(request.param)
    return list(trace(model, pixel_values))


def ranked(scores, own, share, high=True):
    """The patches that are tokens of their own, and of these the share with the highest or lowest scores."""
    patches = own.nonzero().flatten().tolist()
    order = sorted(patches, key=lambda patch: float(scores[patch]), reverse=high)
    return order[: max(1, math.floor(len(patches) * share + 1e-9))]


def column_means(layer, image):
    """(patches,), of the token that stands for each."""
    return layer.attention[image].mean(dim=(0, 1))[layer.entering.source[image]]


def of_images(layer, compute):
    return torch.tensor([compute(layer, layer.entering, image) for image in range(3)], dtype=torch.float64)


def assert_layers(name, traces, compute, dtype=None):
    for layer in traces:
        assert_rounded_alike(LAYER_MEASURES[name].evaluate(layer), of_images(layer, compute), dtype)


def cosine(first, second):
    return float(first @ second / (first.norm() * second.norm()))


def energy(tokens):
    return float((tokens - tokens.mean(dim=0)).square().sum())


@pytest.mark.parametrize("high", [True, False], ids=["high", "low"])
def test_spectrum_of_chosen_tokens(traces, high):
    def compute(layer, state, image):
        chosen = ranked(column_means(layer, image), state.own[image], HIGH_SHARE, high)
        patches = state.tokens[image, state.source[image]]
        alone = patches.mean(dim=0).repeat(64, 1)
        alone[chosen] = patches[chosen]
        return relative_log_amplitudes(alone[None], (8, 8), [0, 0.25, 0.5, 0.75, 1])[0].tolist()

    assert_layers("spectrum_high" if high else "spectrum_low", traces, compute)


@pytest.mark.parametrize("high", [True, False], ids=["high", "low"])
def test_dc_similarity_of_chosen_tokens(traces, high):
    def compute(layer, state, image):
        chosen = ranked(column_means(layer, image), state.own[image], HIGH_SHARE, high)
        dc_signal = state.tokens[image].mean(dim=0)
        return sum(cosine(state.tokens[image, state.source[image, patch]], dc_signal) for patch in chosen) / len(chosen)

    assert_layers("dc_similarity_high" if high else "dc_similarity_low", traces, compute)


def test_selection_overlap(traces):
    def compute(layer, state, image):
        by_cls = layer.attention[image, :, 0].mean(dim=0)[state.source[image]]
        first = set(ranked(column_means(layer, image), state.own[image], KEPT_SHARE))
        second = set(ranked(by_cls, state.own[image], KEPT_SHARE))
        return len(first & second) / len(first | second)

    assert_layers("selection_overlap", traces, compute, torch.float32)


def test_column_mass(traces):
    def compute(layer, state, image):
        scores = column_means(layer, image)
        parts = [ranked(scores, state.own[image], share) for share in MASS_SHARES]
        total = float(scores[state.own[image]].sum())
        return [sum(float(scores[patch]) for patch in part) / total for part in parts]

    assert_layers("column_mass", traces, compute)


def test_entropy_and_collapse(traces):
    def entropy(layer, state, image):
        attention = layer.attention[image].double()
        return float(-(attention * attention.clamp(min=1e-300).log()).sum(dim=2).mean())

    def collapse(layer, state, image):
        return math.sqrt(energy(layer.leaving.tokens[image]) / energy(state.tokens[image]))

    assert_layers("attention_entropy", traces, entropy)
    assert_layers("collapse_ratio", traces, collapse)


def test_what_a_reduction_keeps(traces):
    def energy_kept(layer, state, image):
        before, after = layer.reduction
        return energy(after[image]) / energy(before[image])

    def mass_kept(layer, state, image):
        scores = column_means(layer, image)
        return float(scores[layer.leaving.own[image]].sum() / scores[state.own[image]].sum())

    reducing = [layer for layer in traces if layer.reduction is not None]
    assert_layers("energy_kept", reducing, energy_kept)
    assert_layers("mass_kept", reducing, mass_kept)
    for layer in traces:
        if layer.reduction is None:
            assert LAYER_MEASURES["energy_kept"].evaluate(layer) is None
            assert LAYER_MEASURES["mass_kept"].evaluate(layer) is None


def test_measures_of_states(traces):
    last = traces[-1].leaving
    for state in [*(layer.entering for layer in traces), last]:
        dense, of_last = (each.tokens.gather(1, each.source[:, :, None].expand(-1, -1, 32)) for each in (state, last))
        found = {name: measure.evaluate(state, last) for name, measure in STATE_MEASURES.items()}
        for image in range(3):
            tokens, dc_signal = state.tokens[image], state.tokens[image].mean(dim=0)
            to_dc = [cosine(token, dc_signal) for token in tokens]
            pairs = zip(dense[image], of_last[image], strict=True)
            expected = {
                "high_frequency_energy": energy(tokens),
                "high_frequency_share": energy(tokens) / float(tokens.square().sum()),
                "similarity_to_last": sum(cosine(*pair) for pair in pairs) / 64,
                "dc_similarity": sum(to_dc) / len(to_dc),
                "dc_similarity_cls": to_dc[0],
            }
            if state.num_dc:
                expected["dc_similarity_dc"] = sum(to_dc[-state.num_dc :]) / state.num_dc
            assert (found["dc_similarity_dc"] is None) == (state.num_dc == 0)
            for name, value in expected.items():
                assert float(found[name][image]) == pytest.approx(value, rel=1e-10), name
        expected = relative_log_amplitudes(dense, (8, 8), [0, 0.25, 0.5, 0.75, 1])
        assert_rounded_alike(found["spectrum"], expected)
