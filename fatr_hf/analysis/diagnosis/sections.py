"""What the page of a diagnosis says, whatever it is written in: words, tables and charts, section by section."""

from collections.abc import Mapping
from typing import NamedTuple

from ..analyze import label_of
from ..compare import Figure
from ..model_inputs import without_class
from .diagnose import STATE_MEASURES
from .measures import HIGH_NORM_RATIO, SINK_RATIO
from .result import Diagnosis
from .svg_chart import Chart, Series

NAMES = {"as_it_is": "as it is", "random": "random selection", "low_frequency": "low frequencies kept"}
NAMES |= {"local": "local windows"}
"""Of the whole schedules that are tried."""

ABSENT = "–"
"""What a cell holds where there is no number."""


class Table(NamedTuple):
    """Rows of cells below a head; the first cell names its row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Section(NamedTuple):
    """A part of the page."""

    title: str
    words: str
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


def list_sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """All sections, in the order of the page."""
    return (
        answers_section(diagnosis),
        trials_section(diagnosis),
        energy_section(diagnosis),
        collapse_section(diagnosis),
        attractors_section(diagnosis),
    )


def answers_section(diagnosis: Diagnosis) -> Section:
    """The model beside itself with the reduction off."""
    answers, macs = diagnosis.answers, diagnosis.macs
    share = macs["reduced"] / macs["unreduced"]
    rows = [
        ("multiply-accumulates", f"{macs['unreduced'] / 1e6:.1f} M", f"{macs['reduced'] / 1e6:.1f} M ({share:.2f})"),
        ("tokens at the end", *(str(diagnosis.analyses[name].tokens[-1]) for name in ("unreduced", "reduced"))),
    ]
    if "accuracy" in answers:
        rows.append(("accuracy", in_percent(answers["unreduced_accuracy"]), in_percent(answers["accuracy"])))
    if "agreement" in answers:
        rows.append(("same class", ABSENT, in_percent(answers["agreement"])))
        rows.append(("divergence of class probabilities, nats", ABSENT, in_digits(answers["divergence"])))
    rows.append(("cosine of outputs", ABSENT, in_digits(answers["cosine"])))
    words = "The model beside the same weights without the reduction. ± is the standard error of a mean over images."
    if "accuracy" in answers:
        words = " ".join(filter(None, (words, without_class(answers["accuracy"].images, diagnosis.images))))
    return Section("Answers", words, (Table(("", "unreduced", "reduced"), tuple(rows)),))


def trials_section(diagnosis: Diagnosis) -> Section:
    """Other reductions of the same model."""
    answers = diagnosis.answers
    tried = [name for name in NAMES if f"cosine_{name}" in answers]
    rows = tuple(
        (NAMES[name], in_digits(answers[f"cosine_{name}"]), in_digits(answers.get(f"gain_{name}"), signed=True))
        for name in tried
    )
    words = (
        "What if the model reduced differently? The table shows the cosine to the unreduced outputs, at the same cost "
        "and without the learned parameters of the reduction, which fit one schedule only. The chart shows what a "
        "single reduction costs: lines for the model's first one, moved to every layer; diamonds for each of its "
        "reductions in its own layer (dotted)."
    )
    table = Table(("reduction", "cosine", "difference"), rows)
    moved = {"cosine_moved": "own selection", "cosine_moved_random": "random"}
    moved |= {"cosine_moved_low_frequency": "low frequencies kept"}
    series = [Series(label, lost(diagnosis.by_layer(name))) for name, label in moved.items()]
    series.append(Series("in its own layer", lost(diagnosis.by_layer("cosine_alone")), joined=False))
    chart = Chart("Cosine lost by reducing in one layer", tuple(series), diagnosis.reduction_layers)
    return Section("Where reduction hurts", words, (table,), (chart,))


def energy_section(diagnosis: Diagnosis) -> Section:
    """What each reduction keeps, beside chance and the guarantee."""
    heads = {
        "patches_kept": "patches kept",
        "mass_kept": "column mass kept",
        "energy_kept": "energy kept",
        "energy_of_patches": "by patches alone",
        "energy_by_chance": "expected by chance",
        "energy_guaranteed": "guaranteed",
    }
    columns = [diagnosis.by_layer(name) for name in heads]
    rows = tuple(
        (str(layer), *(in_percent(column.get(layer)) for column in columns)) for layer in diagnosis.reduction_layers
    )
    words = (
        "Column mass is the attention that patches receive. Energy is high-frequency energy, as a share of that before "
        "the reduction: kept by patches and DC tokens together, and by the kept patches alone. The last two columns "
        "are for the kept patches: what a uniform random choice keeps on average, and a lower bound (docs/theory.md, "
        "section 4)."
    )
    return Section("What each reduction keeps", words, (Table(("layer", *heads.values()), rows),))


def collapse_section(diagnosis: Diagnosis) -> Section:
    """Whether tokens grow alike with depth."""
    labels = {"unreduced": "without reduction", "reduced": "with the reduction", "random": "random selection"}
    charts = [
        Chart(
            label_of(name).capitalize(),
            tuple(
                Series(label, {row.layer: Figure(*row[3:]) for row in analysis.select(name)})
                for label, analysis in ((labels[key], each) for key, each in diagnosis.analyses.items())
            ),
            diagnosis.reduction_layers,
        )
        for name in STATE_MEASURES
    ]
    words = (
        "Measured on the tokens that enter each layer and those that leave the last. As tokens grow alike, the rank "
        "and the share of high frequencies fall, and cosines rise. A shorter sequence has a lower rank in any case. "
        "Dotted lines mark reductions."
    )
    return Section("Do tokens grow alike?", words, charts=tuple(charts))


def attractors_section(diagnosis: Diagnosis) -> Section:
    """Sinks and high norms: how many, what they draw, and whether reductions keep them."""
    title, kinds = "Patches that attract attention everywhere", {"sinks": "sinks", "high_norms": "high norms"}
    words = (
        f"Measured without the reduction. A sink is a patch whose column mean in a layer is at least {SINK_RATIO:g} "
        f"times the uniform share. A high norm is at least {HIGH_NORM_RATIO:g} times the median of its image, after "
        "the layer."
    )
    if not any(figure.mean for name in kinds for figure in diagnosis.by_layer(name).values()):
        return Section(title, f"{words} There are none.")
    masses = {f"mass_of_{name}": label for name, label in kinds.items()}
    charts = (
        attractor_chart(diagnosis, "Patches per image", kinds),
        attractor_chart(diagnosis, "Share of all attention", masses),
    )
    kept = [diagnosis.by_layer(f"{name}_kept") for name in kinds]
    rows = tuple((str(layer), *(in_percent(each.get(layer)) for each in kept)) for layer in diagnosis.reduction_layers)
    tables = [Table(("after layer", "sinks still kept", "high norms still kept"), rows)]
    if diagnosis.fixed_sinks:
        places = (
            (str(sink.layer), str(sink.row), str(sink.column), f"{100 * sink.share:.0f}%")
            for sink in diagnosis.fixed_sinks
        )
        tables.append(Table(("layer", "row", "column", "images in which it is a sink"), tuple(places)))
    words += " The table counts patches that are sinks, or have a high norm, in any layer."
    return Section(title, words, tuple(tables), charts)


def attractor_chart(diagnosis: Diagnosis, title: str, measures: Mapping[str, str]) -> Chart:
    """A chart of measures (with their labels) of all layers."""
    series = tuple(Series(label, diagnosis.by_layer(name)) for name, label in measures.items())
    return Chart(title, series, diagnosis.reduction_layers)


def chart_table(chart: Chart) -> Table:
    """A chart's numbers: a row for each series, a column for each layer."""
    series = (
        (each.label, *(f"{each.points[layer].mean:.3g}" if layer in each.points else ABSENT for layer in chart.layers))
        for each in chart.series
        if each.points
    )
    return Table((chart.title.lower(), *map(str, chart.layers)), tuple(series))


def lost(cosines: Mapping[int, Figure]) -> dict[int, Figure]:
    """What cosines lack to 1."""
    return {layer: cosine._replace(mean=1 - cosine.mean) for layer, cosine in cosines.items()}


def in_percent(figure: Figure | None) -> str:
    """A share and its standard error in percent."""
    if figure is None:
        return ABSENT
    error = figure.standard_error
    return f"{100 * figure.mean:.1f}%" + (f" ± {100 * error:.1f}" if error else "")


def in_digits(figure: Figure | None, signed: bool = False) -> str:
    """A number and its standard error with four decimals."""
    if figure is None:
        return ABSENT
    mean = f"{figure.mean:+.4f}" if signed else f"{figure.mean:.4f}"
    return mean + (f" ± {figure.standard_error:.4f}" if figure.standard_error else "")
