"""The page of a diagnosis, as text and as one file of HTML that needs nothing else: no scripts, no requests."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from ...baselines.arguments import check_kind
from ...images import printable
from ..compare import Figure
from ..model_inputs import without_class
from .findings import MARGIN, Finding, find
from .result import LEAST_IMAGES, Diagnosis
from .sections import Section, Table, chart_table, list_sections
from .svg_chart import Chart, draw_chart, draw_key

CAVEAT = (
    "Thresholds are rules of thumb, based on a few small models. Standard errors assume images drawn independently "
    "from those that the model is meant for; crops of one photograph are not. A rule that compares requires a "
    f"difference of {MARGIN:g} standard errors and stays silent below {LEAST_IMAGES} images."
)


class Severity(NamedTuple):
    """How a finding is marked."""

    sign: str
    word: str


SEVERITY = {
    "good": Severity("✓", "Good"),
    "warning": Severity("!", "Warning"),
    "unsure": Severity("?", "Unsure"),
    "note": Severity("i", "Note"),
}

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1b2027; --soft: #56616e; --line: #dce1e7;
  --good: #0b7a4b; --warning: #b5430b; --unsure: #5b4bb5; --note: #2b6a9c;
  --series-0: #0068a8; --series-1: #c2500a; --series-2: #00805c; --series-3: #1b2027; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --card: #1d232a; --ink: #e8ecf1; --soft: #a3aebb; --line: #343d48;
    --good: #5cd0a0; --warning: #ff9f68; --unsure: #b3a6ff; --note: #7cc0f0;
    --series-0: #6bb8f0; --series-1: #ff9f5a; --series-2: #56cfa4; --series-3: #e8ecf1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem); }
h1 { font-size: clamp(1.4rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; }
h3 { font-size: 1.02rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; max-width: 46rem; }
.soft, figcaption, dt, th { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.4rem 0 0; }
.facts div, .finding, .panel { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
.facts div { padding: .7rem .9rem; }
.facts dt { font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); }
.findings { display: grid; gap: .75rem; padding: 0; margin: 1rem 0; list-style: none; }
.finding { padding: .9rem 1.1rem; border-left: .35rem solid var(--tone); }
.finding .mark { display: inline-block; min-width: 1.45rem; padding: 0 .45rem; margin-right: .5rem; border-radius: 1rem;
  border: 1px solid var(--tone); color: var(--tone); font-size: .8rem; text-align: center; vertical-align: .1em; }
.finding dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: .4rem 0 0; }
.finding dd { margin: 0; max-width: 46rem; }
.verdict { margin-top: 1.4rem; }
.verdict h2 { font-size: 1.3rem; margin: 0 0 .3rem; }
.good { --tone: var(--good); } .warning { --tone: var(--warning); }
.unsure { --tone: var(--unsure); } .note { --tone: var(--note); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18.5rem), 1fr)); gap: .9rem;
  margin: 1rem 0; }
.panel { margin: 0; padding: .9rem; max-width: 30rem; }
.panel h3 { font-size: .92rem; }
.panel svg { display: block; width: 100%; height: auto; }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .3rem 0 0; list-style: none;
  font-size: .88rem; }
.key svg { display: inline-block; width: 1.6rem; height: .8rem; margin-right: .35rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: var(--card); }
th, td { padding: .4rem .8rem; border: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; font-weight: 600; }
th:first-child { text-align: left; font-weight: 500; white-space: normal; }
thead th:first-child { font-weight: 600; }
summary { cursor: pointer; color: var(--soft); font-size: .88rem; margin-top: .5rem; }
details table { font-size: .82rem; } details .scroll { margin: .5rem 0 0; }
details th, details td { padding: .25rem .5rem; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .axis { text-anchor: middle; } svg .value { text-anchor: end; }
svg .grid { stroke: var(--line); } svg .mark { stroke: var(--soft); stroke-dasharray: 2 4; }
svg .line { fill: none; stroke: currentColor; stroke-width: 1.8; }
svg .band { fill: currentColor; opacity: .15; }
svg g { fill: currentColor; }
.series-0 { color: var(--series-0); } .series-1 { color: var(--series-1); }
.series-2 { color: var(--series-2); } .series-3 { color: var(--series-3); }
@media (max-width: 40rem) {
  .finding dl { display: block; } .finding dt { margin-top: .4rem; font-size: .85rem; }
  table { font-size: .85rem; } th, td { padding: .35rem .5rem; } }
@media print { .finding, .panel, tr { break-inside: avoid; } }
"""


def text_page(diagnosis: Diagnosis, model: str, images: str) -> str:
    """The page in Markdown; charts as tables.

    Args:
        diagnosis: of ``diagnose``.
        model, images: what was diagnosed, and on what, in words.

    Raises:
        ValueError: arguments of other kinds.
    """
    check_page(diagnosis, model, images)
    parts = [f"# Diagnosis of {printable(model)}", describe(diagnosis, images), CAVEAT]
    for finding in find(diagnosis):
        parts += [f"## {SEVERITY[finding.severity].word}: {finding.title}", "\n".join(finding_lines(finding))]
    for section in list_sections(diagnosis):
        tables = [*section.tables, *(chart_table(chart) for chart in section.charts)]
        parts += [f"## {section.title}", section.words, *(markdown_table(table) for table in tables)]
    return "\n\n".join(parts) + "\n"


def check_page(diagnosis: Diagnosis, model: str, images: str) -> None:
    """Raises a ValueError where a page's arguments are mixed up."""
    check_kind("diagnosis", diagnosis, Diagnosis, "what diagnose gave")
    check_kind("model", model, str, "the model's name")
    check_kind("images", images, str, "words for the images")


def finding_lines(finding: Finding) -> list[str]:
    """A finding's parts as a list."""
    return [f"- Evidence: {finding.evidence}", f"- Threshold: {finding.threshold}", f"- Advice: {finding.advice}"]


def markdown_table(table: Table) -> str:
    """A table in Markdown, its columns aligned."""
    rows = [table.head, *table.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def describe(diagnosis: Diagnosis, images: str) -> str:
    """What was diagnosed, in a sentence."""
    reduction, (rows, columns) = diagnosis.reduction, diagnosis.grid
    count = f"{diagnosis.images} image{'s' if diagnosis.images > 1 else ''}"
    return (
        f"{count} of {printable(images)}, {rows} x {columns} patches. The model reduces in layers "
        f"{listed(reduction['reduction_layers'])} (of {diagnosis.depth}, counted from 0). Keep ratio "
        f"{listed(reduction['keep_ratio'])}, DC windows {listed(reduction['dc_windows'])}, size exponent "
        f"{reduction['size_exponent']:g}, selection {reduction['selection']}."
    )


def listed(values: float | Iterable[float]) -> str:
    """One value or several in words."""
    return ", ".join(f"{value:g}" for value in values) if isinstance(values, Iterable) else f"{values:g}"


def html_page(diagnosis: Diagnosis, model: str, images: str) -> str:
    """The page in HTML, complete in itself.

    Args:
        diagnosis: of ``diagnose``.
        model, images: what was diagnosed, and on what, in words.

    Raises:
        ValueError: arguments of other kinds.
    """
    check_page(diagnosis, model, images)
    title = f"Diagnosis of {escape(printable(model))}"
    # Paths may break after a slash, which keeps them readable on a phone.
    heading = title.replace("/", "/<wbr>")
    verdict, *others = find(diagnosis)
    body = [
        f"<header><h1>{heading}</h1><p class='soft'>{escape(describe(diagnosis, images))}</p></header>",
        f"<section class='verdict' aria-label='Verdict'>{html_finding(verdict, 'div', 2)}</section>",
        html_facts(key_facts(diagnosis)),
        f"<section><h2>Findings</h2><p class='soft'>{escape(CAVEAT)}</p>",
        f"<ul class='findings'>{''.join(html_finding(finding, 'li', 3) for finding in others)}</ul></section>",
        *(html_section(section) for section in list_sections(diagnosis)),
    ]
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        # Even what a name might smuggle in could load nothing.
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def html_finding(finding: Finding, element: str, level: int) -> str:
    """A finding as an element, with a heading of some level."""
    severity = SEVERITY[finding.severity]
    parts = {"Evidence": finding.evidence, "Threshold": finding.threshold, "Advice": finding.advice}
    terms = "".join(f"<dt>{name}</dt><dd>{escape(words)}</dd>" for name, words in parts.items())
    mark = f"<span class='mark'><span aria-hidden='true'>{severity.sign}</span> {severity.word}</span>"
    heading = f"<h{level}>{mark}{escape(finding.title)}</h{level}>"
    return f"<{element} class='finding {finding.severity}'>{heading}<dl>{terms}</dl></{element}>"


def key_facts(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """The numbers to see first: what each is, its value, and a remark."""
    answers, macs = diagnosis.answers, diagnosis.macs
    remark = f"{macs['reduced'] / 1e6:.0f} of {macs['unreduced'] / 1e6:.0f} M multiply-accumulates"
    facts = [("Cost", f"{macs['reduced'] / macs['unreduced']:.2f}×", remark)]
    if "accuracy" in answers:
        accuracy, before = answers["accuracy"], answers["unreduced_accuracy"]
        remark = f"{100 * before.mean:.1f}% without the reduction. {without_class(accuracy.images, diagnosis.images)}"
        facts.append(("Accuracy", f"{100 * accuracy.mean:.1f}%", remark.strip()))
    if "agreement" in answers:
        facts.append(
            ("Same class", f"{100 * answers['agreement'].mean:.1f}%", f"of {answers['agreement'].images} images")
        )
    facts.append(("Cosine of outputs", f"{answers['cosine'].mean:.4f}", with_error(answers["cosine"])))
    return facts


def with_error(figure: Figure) -> str:
    """A remark on a mean's standard error."""
    return f"± {figure.standard_error:.2g}" if figure.standard_error else ""


def html_facts(facts: Sequence[tuple[str, str, str]]) -> str:
    """Key numbers as a description list."""
    tiles = (f"<div><dt>{name}</dt><dd>{value} <small>{remark}</small></dd></div>" for name, value, remark in facts)
    return f"<dl class='facts'>{''.join(tiles)}</dl>"


def html_section(section: Section) -> str:
    """A section with its tables and charts."""
    tables = "".join(html_table(table, section.title) for table in section.tables)
    charts = "".join(html_chart(chart) for chart in section.charts)
    panels = f"<div class='panels'>{charts}</div>" if charts else ""
    return f"<section><h2>{escape(section.title)}</h2><p>{escape(section.words)}</p>{tables}{panels}</section>"


def html_table(table: Table, label: str) -> str:
    """A table that scrolls where it is too wide, by keyboard too."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in table.rows
    )
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{escape(label)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def html_chart(chart: Chart) -> str:
    """A chart with its title, its key and, folded, its numbers."""
    keys = "".join(
        f"<li>{draw_key(each, place)}{escape(each.label)}</li>"
        for place, each in enumerate(chart.series)
        if each.points
    )
    numbers = f"<details><summary>Numbers</summary>{html_table(chart_table(chart), chart.title)}</details>"
    return (
        f"<figure class='panel'><h3>{escape(chart.title)}</h3>{draw_chart(chart)}"
        f"<figcaption><ul class='key'>{keys}</ul>{numbers}</figcaption></figure>"
    )
