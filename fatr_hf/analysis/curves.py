"""Figures of measures by layer: one model's spectra and states, or several models beside each other.

All functions give a ``matplotlib.figure.Figure``, for ``figure_files.save_figure``. Lines differ by colour and by
marker; bands are one standard error of the mean over images.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from ..baselines.arguments import check_kind, several
from .analyze import Analysis, Row
from .compare import Comparison
from .figure_files import check_matplotlib
from .model_inputs import without_class
from .model_measures import MASS_SHARES, MEASURES
from .names import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
"""Okabe and Ito's, which people with any colour vision tell apart; grey for their yellow, too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

PANEL = (4.2, 3.2)
"""Width and height of a panel in inches."""

COLLAPSE_MEASURES = (
    "high_frequency_share",
    "effective_rank",
    "stable_rank",
    "pairwise_cosine",
    "similarity_to_last",
    "collapse_ratio",
)
"""What tells whether tokens grow alike with depth."""

DC_MEASURES = ("dc_similarity_high", "dc_similarity_low", "dc_similarity_dc", "dc_similarity_cls")
"""Cosines to the DC signal that are drawn in one panel (figures 2b, 4b and 6c)."""


def collapse_figure(analyses: Mapping[str, Analysis], measures: Sequence[str] = COLLAPSE_MEASURES) -> "Figure":
    """Measures by layer, a panel for each and a line for each model.

    Args:
        analyses: by the models' names.
        measures: of one number for each layer; one that no model has is left out.

    Raises:
        ValueError: a measure that there is not, or is a curve; none that was taken; or no mapping of analyses.
        ImportError: matplotlib is not installed.
    """
    check_analyses(analyses)
    for name in several("measures", measures):
        if name not in MEASURES or MEASURES[name].points is not None:
            single = [name for name, each in MEASURES.items() if each.points is None]
            raise ValueError(f"{name!r} is no measure of one number: choose from {', '.join(single)}.")
    panels = [name for name in measures if any(each.select(name) for each in analyses.values())]
    if not panels:
        raise ValueError(f"None of the measures {', '.join(measures)} was taken: analyze with one of them.")
    figure, axes = new_figure(len(panels))
    for name, panel in zip(panels, axes, strict=True):
        for style, (model, analysis) in zip(line_styles(len(analyses)), analyses.items(), strict=True):
            draw_rows(panel, analysis.select(name), figure_text(model), style)
        panel.set(xlabel="layer", ylabel=MEASURES[name].label)
    if len(analyses) > 1:
        axes[0].legend(fontsize="small")
    return figure


def comparison_figure(comparison: Comparison) -> "Figure":
    """``collapse_figure`` of the models that were compared."""
    check_kind("comparison", comparison, Comparison, "what fatr_hf.analysis.compare gave")
    return collapse_figure(comparison.analyses)


def spectrum_figure(analyses: Mapping[str, Analysis]) -> "Figure":
    """The spectrum of every layer, a panel for each model, and the highest frequency by layer (figures 1, 3, 7, 8).

    Raises:
        ValueError: a model whose spectrum was not measured, or no mapping of analyses.
        ImportError: matplotlib is not installed.
    """
    check_measures(analyses, ["spectrum"])
    figure, axes = new_figure(len(analyses) + 1)
    for panel, (model, analysis) in zip(axes[:-1], analyses.items(), strict=True):
        draw_spectra(panel, analysis, "spectrum")
        panel.set(title=figure_text(model), xlabel="frequency in units of π", ylabel="relative log amplitude")
    for style, (model, analysis) in zip(line_styles(len(analyses)), analyses.items(), strict=True):
        highest = max(row.point or 0 for row in analysis.select("spectrum"))
        draw_rows(axes[-1], analysis.select("spectrum", point=highest), figure_text(f"{model}, {highest:.2g}π"), style)
    axes[-1].set(title="highest frequency", xlabel="layer", ylabel="relative log amplitude")
    axes[-1].legend(fontsize="small")
    return figure


def token_kinds_figure(analysis: Analysis) -> "Figure":
    """High- beside low-frequency tokens: their spectra at the layers' mean, and likeness to the DC signal (figure 2).

    Raises:
        ValueError: the measures of attention were not taken.
        ImportError: matplotlib is not installed.
    """
    check_measures({"the model": analysis}, ["spectrum_high", "spectrum_low", *DC_MEASURES[:2]])
    figure, (spectra, gaps, likeness) = new_figure(3)
    for style, kind in zip(line_styles(2), ("high", "low"), strict=True):
        rows = analysis.select(f"spectrum_{kind}")
        points = sorted({row.point or 0 for row in rows if row.point})
        means = [average(row.mean for row in rows if row.point == point) for point in points]
        spectra.plot(points, means, label=f"{kind}-frequency tokens", **style)
        top = [row for row in rows if row.point == points[-1]]
        draw_rows(gaps, top, f"{kind}-frequency tokens", style)
    free_ticks(spectra)
    spectra.set(xlabel="frequency in units of π", ylabel="relative log amplitude", title="mean over layers")
    gaps.set(xlabel="layer", ylabel="relative log amplitude", title="highest frequency")
    for style, name in zip(line_styles(len(DC_MEASURES)), DC_MEASURES, strict=True):
        draw_rows(likeness, analysis.select(name), MEASURES[name].label.rpartition(", ")[2], style)
    likeness.set(xlabel="layer", ylabel="cosine to the DC signal", title="likeness to the DC signal")
    for panel in (spectra, likeness):
        panel.legend(fontsize="small")
    return figure


def attention_figure(analysis: Analysis) -> "Figure":
    """Entropy of attention, the curve of column mass by layer, and the overlap with CLS's selection (figure 6c).

    Raises:
        ValueError: the measures of attention were not taken.
        ImportError: matplotlib is not installed.
    """
    check_measures({"the model": analysis}, ["attention_entropy", "column_mass"])
    overlaps = analysis.select("selection_overlap")
    figure, axes = new_figure(3 if overlaps else 2)
    [style] = line_styles(1)
    draw_rows(axes[0], analysis.select("attention_entropy"), "", style)
    axes[0].set(xlabel="layer", ylabel="nats", title="entropy of attention")
    draw_spectra(axes[1], analysis, "column_mass")
    axes[1].plot([0, 1], [0, 1], color="grey", linestyle=":", label="uniform")
    axes[1].set(xlabel="share of patches, highest first", ylabel="share of column mass", title="column mass")
    axes[1].set_xlim(0, MASS_SHARES[-1])
    if overlaps:
        draw_rows(axes[2], overlaps, "", style)
        axes[2].set(xlabel="layer", ylabel="intersection over union", title="kept by column mean and by CLS")
        axes[2].set_ylim(0, 1)
    return figure


def noise_figure(rows: Sequence[Row], measure: str = "agreement") -> "Figure":
    """What noise on high- and on low-frequency tokens does, by layer, a panel for each scale (figure 2c).

    Args:
        rows: of ``noise_sensitivity``.
        measure: ``cosine``, ``divergence``, ``agreement`` or ``accuracy``.

    Raises:
        ValueError: the measure is not among the rows, or what are no rows.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(rows, Sequence) or not all(isinstance(row, Row) for row in rows):
        raise ValueError("rows must be what noise_sensitivity gave.")
    chosen = [row for row in rows if row.measure in (f"{measure}_high", f"{measure}_low")]
    if not chosen:
        measured = sorted({row.measure.removesuffix("_high").removesuffix("_low") for row in rows})
        found = ", ".join(measured) or "none"
        raise ValueError(f"measure={measure!r} must be one of those that were measured: {found}.")
    scales = sorted({row.point or 0 for row in chosen})
    figure, axes = new_figure(len(scales))
    for panel, scale in zip(axes, scales, strict=True):
        for style, kind in zip(line_styles(2), ("high", "low"), strict=True):
            part = [row for row in chosen if row.point == scale and row.measure == f"{measure}_{kind}"]
            draw_rows(panel, part, f"noise on {kind}-frequency tokens", style)
        panel.set(xlabel="layer", ylabel=measure, title=f"noise of {scale:g} times the tokens' deviation")
        panel.sharey(axes[0])
    axes[0].legend(fontsize="small")
    if measure == "accuracy":
        labelled, images = (max(row.images for row in part) for part in (chosen, rows))
        figure.supxlabel(without_class(labelled, images), fontsize="small")
    return figure


def analysis_figures(analysis: Analysis, name: str = "model") -> "dict[str, Figure]":
    """All figures that an analysis holds the measures for, by name; ``name`` is the model's."""
    check_kind("analysis", analysis, Analysis, "what analyze gave")
    figures = {}
    if analysis.select("spectrum"):
        figures["spectrum"] = spectrum_figure({name: analysis})
    if any(analysis.select(measure) for measure in COLLAPSE_MEASURES):
        figures["collapse"] = collapse_figure({name: analysis})
    if analysis.select("spectrum_high") and analysis.select("dc_similarity_high"):
        figures["tokens"] = token_kinds_figure(analysis)
    if analysis.select("attention_entropy") and analysis.select("column_mass"):
        figures["attention"] = attention_figure(analysis)
    return figures


def new_figure(panels: int) -> "tuple[Figure, list[Axes]]":
    """A figure with panels side by side, at most three in a row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    return figure, axes


def line_styles(lines: int) -> list[dict[str, Any]]:
    """Colours and markers of so many lines; they repeat after the eighth, dashed."""
    pairs = islice(cycle(zip(COLOURS, MARKERS, strict=True)), lines)
    styles: list[dict[str, Any]] = [{"color": colour, "marker": marker, "markersize": 4} for colour, marker in pairs]
    return styles[: len(COLOURS)] + [{**style, "linestyle": "--"} for style in styles[len(COLOURS) :]]


def draw_rows(panel: "Axes", rows: Sequence[Row], label: str, style: "dict[str, Any]") -> None:
    """A line of means over layers, and a band of one standard error."""
    if not rows:
        return
    layers, means = [row.layer for row in rows], [row.mean for row in rows]
    errors = [row.standard_error or 0.0 for row in rows]
    panel.plot(layers, means, label=label, **style)
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    panel.fill_between(layers, low, high, color=style["color"], alpha=0.2, linewidth=0)


def draw_spectra(panel: "Axes", analysis: Analysis, measure: str) -> None:
    """A measure over its points, a line for each layer, coloured from the first layer to the last."""
    from matplotlib import colormaps

    rows = analysis.select(measure)
    layers = sorted({row.layer for row in rows})
    for layer in layers:
        points = [(row.point or 0, row.mean) for row in rows if row.layer == layer]
        colour = colormaps["viridis"](0.9 * layers.index(layer) / max(len(layers) - 1, 1))
        label = f"layer {layer}" if layer in (layers[0], layers[-1]) else None
        panel.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.2)
    free_ticks(panel)
    panel.legend(fontsize="small")


def free_ticks(panel: "Axes") -> None:
    """Lets a panel's lower axis have fractions."""
    from matplotlib.ticker import AutoLocator

    panel.xaxis.set_major_locator(AutoLocator())


def check_analyses(analyses: Mapping[str, Analysis]) -> None:
    """Raises a ValueError for what is no mapping from names to analyses, or an empty one."""
    check_kind("analyses", analyses, Mapping, "a mapping from names to analyses, such as {'FATR': analysis}")
    if not analyses:
        raise ValueError("There are no analyses to draw: give at least one.")
    for analysis in analyses.values():
        check_kind("an analysis", analysis, Analysis, "what analyze gave")


def check_measures(analyses: Mapping[str, Analysis], measures: Iterable[str]) -> None:
    """Raises a ValueError where a measure is missing, or for what are no analyses."""
    check_analyses(analyses)
    for model, analysis in analyses.items():
        for name in measures:
            if not analysis.select(name):
                raise ValueError(f"{name!r} was not measured for {model}: name it among the measures, or leave all.")


def average(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    numbers = list(values)
    return sum(numbers) / len(numbers)
