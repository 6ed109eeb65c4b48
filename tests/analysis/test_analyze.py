import math
import weakref

import numpy as np
import pytest
import torch
from rounding import FLOAT32

import fatr_hf
from fatr_hf.analysis.analyze import Analysis, Moments, Row, analysis_table, analyze, choose_measures, label_of
from fatr_hf.analysis.model_measures import LAYER_MEASURES, MASS_SHARES, MEASURES, STATE_MEASURES
from fatr_hf.analysis.trace import trace
from fatr_hf.baselines import Rival, Truncation

ATTENTION = [name for name, measure in LAYER_MEASURES.items() if measure.needs_attention]
IMAGES = 5


@pytest.fixture
def images():
    return torch.randn(IMAGES, 3, 32, 32)


@pytest.fixture(params=["vit", "siglip", "fatr", "evit-dropping", "tome", "pooling"])
def model(request, make_model, make_sharp_fatr):
    return make_sharp_fatr(dc_windows=[4, 2, 1]) if request.param == "fatr" else make_model(request.param)


def values_by_image(model, images):
    """{(measure, layer, point): (images,)}, one image at a time."""
    found = {}
    for image in images:
        traces = list(trace(model, image[None]))
        states = [*(each.entering for each in traces), traces[-1].leaving]
        for name, measure in MEASURES.items():
            inputs = (
                [(state, states[-1]) for state in states] if name in STATE_MEASURES else [(each,) for each in traces]
            )
            points = [None] if measure.points is None else measure.points((8, 8))
            for layer, arguments in enumerate(inputs):
                value = measure.evaluate(*arguments)
                if value is not None:
                    for point, number in zip(points, value.reshape(-1).tolist(), strict=True):
                        found.setdefault((name, layer, point), []).append(number)
    return found


def test_means_and_standard_errors_are_numpys_whatever_the_batches(model, images):
    expected = {}
    for (name, *place), values in values_by_image(model, images).items():
        finite = np.array(values)[np.isfinite(values)]
        if len(finite):
            error = finite.std(ddof=1) / math.sqrt(len(finite)) if len(finite) > 1 else None
            expected[name, *place] = (finite.mean(), error)
    for batch_size in (1, 3, 32):
        analysis = analyze(model, images, batch_size=batch_size)
        assert analysis.images == IMAGES
        assert {row[:3] for row in analysis.rows} == set(expected)
        assert len(analysis.rows) == len(expected)
        for row in analysis.rows:
            mean, error = expected[row[:3]]
            assert row.mean == pytest.approx(mean, rel=FLOAT32, abs=FLOAT32)  # of eager attention's softmax
            assert row.standard_error == (None if error is None else pytest.approx(error, rel=FLOAT32, abs=FLOAT32))


def test_token_counts(model, images):
    analysis = analyze(model, images[:1], ["dc_similarity"])
    states = model(images[:1], output_hidden_states=True).hidden_states
    assert analysis.tokens == tuple(state.shape[1] for state in states)


# Which measures there are, and where


def test_measures_of_states_go_one_layer_further(make_model, images):
    analysis = analyze(make_model("vit"), images[:2])
    for name in MEASURES:
        layers = {row.layer for row in analysis.select(name)}
        undefined = name in ("dc_similarity_dc", "energy_kept", "mass_kept")
        assert layers == (set() if undefined else set(range(5 if name in STATE_MEASURES else 4)))
    assert {row.point for row in analysis.select("spectrum")} == {0, 0.25, 0.5, 0.75, 1}
    assert {row.point for row in analysis.select("column_mass")} == set(MASS_SHARES)
    assert analysis.select("similarity_to_last", layer=4)[0].mean == pytest.approx(1)
    assert {row.mean for row in analysis.select("column_mass", point=1.0)} == {1.0}


def test_measures_of_a_reduction_are_of_layers_that_reduce(make_sharp_fatr, images):
    analysis = analyze(make_sharp_fatr(), images[:2])
    for name in ("energy_kept", "mass_kept"):
        assert [row.layer for row in analysis.select(name)] == [1, 2, 3]
        assert all(0 < row.mean < 1.5 for row in analysis.select(name))
    # Tokens that a ratio of 0.7 keeps by their column means carry more than 0.7 of the mass.
    assert all(0.7 < row.mean < 1 for row in analysis.select("mass_kept"))
    assert [row.layer for row in analysis.select("dc_similarity_dc")] == [2, 3, 4]


def test_models_without_prefix_have_no_measures_of_cls(make_model, images):
    analysis = analyze(make_model("siglip"), images[:2])
    assert {"dc_similarity_cls", "selection_overlap"}.isdisjoint(analysis.measures)


def test_pooled_patches_have_no_scores(make_model, images):
    analysis = analyze(make_model("pooling", reduction_layers=[1], keep_ratio=0.5), images[:2])
    for name in ("spectrum_high", "spectrum_low", "dc_similarity_high", "dc_similarity_low", "column_mass"):
        assert {row.layer for row in analysis.select(name)} == {0, 1}
    assert [row.layer for row in analysis.select("selection_overlap")] == [0, 1]
    assert [row.layer for row in analysis.select("attention_entropy")] == [0, 1, 2, 3]


def test_a_single_token_has_no_pair_and_no_energy(make_model, images):
    siglip = fatr_hf.convert(make_model("siglip"))
    analysis = analyze(Rival.of(siglip, Truncation([64, 64, 1, 1])), images[:2])
    assert analysis.tokens == (64, 64, 64, 1, 1)
    assert {row.layer for row in analysis.select("pairwise_cosine")} == {0, 1, 2}
    assert [row.mean for row in analysis.select("high_frequency_energy")[-2:]] == [0, 0]
    assert [row.layer for row in analysis.select("collapse_ratio")] == [0, 1, 2]


def test_images_for_which_a_measure_is_undefined_are_left_out(make_model, images):
    model = make_model("vit")
    images = images.double()
    images[3] = 1.7e308  # finite, and its tokens are not
    others = torch.cat([images[:3], images[4:]])
    with_it, without = analyze(model, images, batch_size=4), analyze(model, others, batch_size=5)
    assert (with_it.images, without.images) == (IMAGES, IMAGES - 1)
    for row, expected in zip(with_it.rows, without.rows, strict=True):
        assert row[:3] == expected[:3]
        assert row.mean == pytest.approx(expected.mean, rel=FLOAT32, abs=FLOAT32)


def test_without_eager_attention_measures_of_maps_are_left_out_or_refused(make_model, images):
    model = make_model("dinov2")
    model.set_attn_implementation("sdpa")
    assert choose_measures(model, None) == tuple(name for name in MEASURES if name not in ATTENTION)
    assert set(analyze(model, images[:2]).measures).isdisjoint(ATTENTION)
    for name in ATTENTION:
        with pytest.raises(ValueError, match=f"'{name}' needs attention maps: load the model with .*'eager', not 'sdp"):
            analyze(model, images, ["spectrum", name])


def test_unknown_measures_are_refused(make_model, images):
    with pytest.raises(ValueError, match="Unknown measure 'rank': choose from spectrum, high_frequency_energy, "):
        analyze(make_model("vit"), images, ["rank"])


def test_only_what_was_asked_for_is_measured(make_model, images):
    analysis = analyze(make_model("vit"), images[:2], ["stable_rank", "collapse_ratio"])
    assert analysis.measures == ("stable_rank", "collapse_ratio")


def test_models_in_training_and_no_images_are_refused(make_model, images):
    model = make_model("vit")
    with pytest.raises(ValueError, match="There are no images"):
        analyze(model, [])
    with pytest.raises(ValueError, match="training mode"):
        analyze(model.train(), images)


def test_labels_and_dtype_do_not_matter(make_model, images):
    model = make_model("vit")
    examples = [{"pixel_values": image.double(), "labels": 3} for image in images[:3]]
    assert analyze(model, examples, ["stable_rank"]) == analyze(model, images[:3], ["stable_rank"])


# What is kept


def test_nothing_of_a_batch_is_kept(make_model):
    model, activations, batches = make_model("vit"), [], []
    model.vit.layers[1].mlp.register_forward_hook(lambda *arguments: activations.append(weakref.ref(arguments[2])))

    def stream():
        for _ in range(4):
            assert not any(reference() is not None for reference in activations)
            assert not any(reference() is not None for reference in batches[:-1])
            pixel_values = torch.randn(2, 3, 32, 32)
            batches.append(weakref.ref(pixel_values))
            yield {"pixel_values": pixel_values}

    analyze(model, stream())
    assert (len(activations), len(batches)) == (4, 4)


def test_moments_of_parts_are_those_of_the_whole():
    values = torch.randn(20, 3, dtype=torch.float64) * torch.tensor([1, 1e-3, 1e3]) + torch.tensor([0, 1e3, -1e3])
    values[4, 1], values[7:9, 2] = math.nan, math.inf
    whole = Moments.of(values)
    merged = Moments.of(values[:1])
    for part in (values[1:5], values[5:19], values[19:]):
        merged = merged.merge(Moments.of(part))
    for result in (whole, merged):
        assert result.number.tolist() == [20, 19, 18]
        for place in range(3):
            column = values[:, place].numpy()
            column = column[np.isfinite(column)]
            assert float(result.mean[place]) == pytest.approx(column.mean(), rel=1e-12)
            error = column.std(ddof=1) / math.sqrt(len(column))
            assert float(result.standard_error[place]) == pytest.approx(error, rel=1e-9)


def test_moments_do_not_lose_a_small_spread_about_a_large_mean():
    values = 1e8 + torch.arange(1000, dtype=torch.float64) % 2
    moments = Moments.of(values[:1])
    for first in range(1, 1000, 37):
        moments = moments.merge(Moments.of(values[first : first + 37]))
    assert float(moments.standard_error) == pytest.approx(0.5 / math.sqrt(999), rel=1e-6)


def test_one_number_has_no_standard_error(make_model, images):
    assert Moments.of(torch.tensor([2.0])).standard_error.isnan().all()
    assert Moments.of(torch.tensor([2.0, 2.0])).standard_error.tolist() == [0]
    analysis = analyze(make_model("vit"), images[:1])
    assert {row.standard_error for row in analysis.rows} == {None}


# What is given


def test_json_gives_the_analysis_back(model, images):
    for count in (1, 3):
        analysis = analyze(model, images[:count])
        assert Analysis.from_json(analysis.to_json()) == analysis
        assert Analysis.from_dict(analysis.to_dict()) == analysis


def test_select():
    rows = (
        Row("spectrum", 0, 0.0, 1.0, None, 1),
        Row("spectrum", 0, 0.5, 2.0, None, 1),
        Row("spectrum", 1, 0.0, 3.0, None, 1),
        Row("stable_rank", 0, None, 4.0, None, 1),
    )
    analysis = Analysis(1, (5, 5), rows)
    assert analysis.measures == ("spectrum", "stable_rank")
    assert analysis.select("spectrum") == rows[:3]
    assert analysis.select("spectrum", layer=0) == rows[:2]
    assert analysis.select("spectrum", point=0.0) == (rows[0], rows[2])
    assert analysis.select("spectrum", layer=1, point=0.0) == (rows[2],)
    assert analysis.select("stable_rank", layer=1) == ()
    assert analysis.select("effective_rank") == ()


def test_table_has_a_row_for_each_layer():
    rows = (
        Row("spectrum", 0, 0.5, 2.0, None, 1),
        Row("stable_rank", 0, None, 4.0, 0.1, 1),
        Row("collapse_ratio", 0, None, 0.123456, None, 1),
    )
    lines = analysis_table(Analysis(1, (5, 3), rows)).splitlines()
    assert lines == [
        "| layer | tokens | stable rank | collapse ratio |",
        "|---|---|---|---|",
        "| 0 | 5 | 4 | 0.1235 |",
        "| output | 3 |  |  |",
    ]


def test_every_measure_has_a_label_of_its_own():
    assert len({label_of(name) for name in MEASURES}) == len(MEASURES)
