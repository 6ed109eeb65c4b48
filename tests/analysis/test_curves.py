import pytest

from fatr_hf.analysis import curves
from fatr_hf.analysis.analyze import Analysis, Row, analyze
from fatr_hf.analysis.figure_files import save_figure
from fatr_hf.analysis.noise import noise_sensitivity


@pytest.fixture
def model(make_fatr):
    return make_fatr(attn_implementation="eager")


@pytest.fixture
def analysis(model, pixel_values):
    return analyze(model, pixel_values)


def line_data(panel, label=None):
    """Points of a panel's first line, or of the one with a label."""
    [line, *_] = [line for line in panel.lines if label in (None, line.get_label())]
    return list(line.get_xdata()), list(line.get_ydata())


def test_a_panel_for_each_measure_and_a_line_for_each_model(analysis):
    others = {f"model {number}": analysis for number in range(10)}
    figure = curves.collapse_figure(others, ["effective_rank", "collapse_ratio"])
    assert [panel.get_ylabel() for panel in figure.axes] == ["effective rank", "collapse ratio"]
    assert [line.get_label() for line in figure.axes[0].lines] == list(others)
    layers, means = line_data(figure.axes[0])
    assert layers == [0, 1, 2, 3, 4]
    assert means == [row.mean for row in analysis.select("effective_rank")]
    assert line_data(figure.axes[1])[0] == [0, 1, 2, 3]


def test_lines_differ_without_colour(analysis):
    figure = curves.collapse_figure(dict.fromkeys("abcdefgh", analysis))
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 8


def test_bands_are_one_standard_error():
    rows = (Row("stable_rank", 0, None, 2.0, 0.5, 9), Row("stable_rank", 1, None, 3.0, None, 1))
    figure = curves.collapse_figure({"model": Analysis(1, (5, 5), rows)})
    [band] = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == 1.5
    assert {tuple(corner) for corner in corners} >= {(0.0, 2.5), (1.0, 3.0)}


def test_spectra_of_all_layers_and_the_highest_frequency(analysis):
    figure = curves.spectrum_figure({"FATR": analysis})
    spectra, highest = figure.axes
    assert len(spectra.lines) == 5
    frequencies, amplitudes = line_data(spectra)
    assert frequencies == [0, 0.25, 0.5, 0.75, 1]
    assert amplitudes == [row.mean for row in analysis.select("spectrum", layer=0)]
    assert line_data(highest)[1] == [row.mean for row in analysis.select("spectrum", point=1.0)]
    assert [text.get_text() for text in highest.get_legend().get_texts()] == ["FATR, 1π"]


def test_kinds_of_tokens(analysis):
    figure = curves.token_kinds_figure(analysis)
    mean, highest, likeness = figure.axes
    assert [line.get_label() for line in mean.lines] == ["high-frequency tokens", "low-frequency tokens"]
    rows = analysis.select("spectrum_low", point=0.5)
    frequencies, means = line_data(mean, "low-frequency tokens")
    assert means[frequencies.index(0.5)] == pytest.approx(sum(row.mean for row in rows) / len(rows))
    assert line_data(highest, "high-frequency tokens")[1] == [
        row.mean for row in analysis.select("spectrum_high", point=1.0)
    ]
    labels = [line.get_label() for line in likeness.lines]
    assert labels == ["high-frequency tokens", "low-frequency tokens", "DC tokens", "CLS"]
    assert line_data(likeness, "DC tokens")[0] == [row.layer for row in analysis.select("dc_similarity_dc")]


def test_attention(analysis):
    entropy, mass, overlap = curves.attention_figure(analysis).axes
    assert line_data(entropy)[1] == [row.mean for row in analysis.select("attention_entropy")]
    assert line_data(mass) == (
        [tenths / 10 for tenths in range(1, 11)],
        [row.mean for row in analysis.select("column_mass", layer=0)],
    )
    assert line_data(overlap)[1] == [row.mean for row in analysis.select("selection_overlap")]


def test_noise_has_a_panel_for_each_scale(model, pixel_values):
    rows = noise_sensitivity(model, pixel_values, scales=(1, 4))
    figure = curves.noise_figure(rows, "cosine")
    assert [panel.get_title() for panel in figure.axes] == [
        "noise of 1 times the tokens' deviation",
        "noise of 4 times the tokens' deviation",
    ]
    low = [row.mean for row in rows if row.measure == "cosine_low" and row.point == 4]
    assert line_data(figure.axes[1], "noise on low-frequency tokens") == ([0, 1, 2, 3], low)
    with pytest.raises(ValueError, match="measure='accuracy' must be one of those that were measured: "):
        curves.noise_figure(rows, "accuracy")


def test_only_what_was_measured_is_drawn(model, analysis, pixel_values, tmp_path):
    assert list(curves.analysis_figures(analysis)) == ["spectrum", "collapse", "tokens", "attention"]
    few = analyze(model, pixel_values, ["stable_rank"])
    assert list(curves.analysis_figures(few)) == ["collapse"]
    save_figure(curves.analysis_figures(few)["collapse"], tmp_path / "collapse.svg")
    assert "<svg" in (tmp_path / "collapse.svg").read_text()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda few: curves.spectrum_figure({"FATR": few}), "'spectrum' was not measured for FATR"),
        (curves.attention_figure, "'attention_entropy' was not measured"),
        (curves.token_kinds_figure, "'spectrum_high' was not measured"),
        (lambda few: curves.collapse_figure({"FATR": few}, ["effective_rank"]), "effective_rank was taken"),
    ],
    ids=["spectrum", "attention", "tokens", "collapse"],
)
def test_missing_measures_are_refused(model, pixel_values, draw, message):
    few = analyze(model, pixel_values, ["stable_rank"])
    with pytest.raises(ValueError, match=message):
        draw(few)
