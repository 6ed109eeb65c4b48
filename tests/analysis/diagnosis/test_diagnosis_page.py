"""The page of a diagnosis: complete as text, and as HTML sound, readable by all and sufficient in itself."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from diagnosis_cases import CLASSIFIER, ENCODER, make_diagnosis, make_rows

from fatr_hf.analysis.diagnosis.findings import SEVERITIES, find
from fatr_hf.analysis.diagnosis.page import SEVERITY, html_page, text_page
from fatr_hf.analysis.diagnosis.result import FixedSink
from fatr_hf.analysis.diagnosis.sections import list_sections

VOID = {"meta", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, and all text; ``open`` is what was not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


WITH_ATTRACTORS = make_diagnosis(
    answers=CLASSIFIER,
    rows=make_rows(mass_of_sinks={1: 0.2}, sinks={1: 2.0}, sinks_kept={0: 1.0, 2: 0.5}),
    fixed_sinks=(FixedSink(1, 0, 7, 0.75),),
)


@pytest.fixture(params=[make_diagnosis(), make_diagnosis(answers=ENCODER), WITH_ATTRACTORS], ids=["a", "b", "c"])
def diagnosis(request):
    return request.param


@pytest.fixture
def page(diagnosis):
    return Page(html_page(diagnosis, "some/model", "photographs"))


def words_of(page):
    return re.sub(r"\s+", " ", "".join(page.words))


def test_every_element_is_closed(page):
    assert page.open == []


def test_the_page_asks_for_nothing_and_runs_nothing(diagnosis):
    text = html_page(diagnosis, "some/model", "photographs")
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "a",
        "image",
        "use",
    } == set()
    assert not any(name.startswith("on") or name in ("src", "href") for _, each in page.elements for name in each)
    assert "url(" not in text
    assert "://" not in text
    [policy] = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert "default-src 'none'" in policy


def test_the_page_fits_a_phone_and_both_colour_schemes(diagnosis):
    text = html_page(diagnosis, "some/model", "photographs")
    assert "width=device-width" in text
    assert "prefers-color-scheme: dark" in text
    assert re.search(r"@media \(max-width: \d+rem\)", text)


def test_those_who_do_not_see_it_are_told_what_a_chart_shows(page):
    charts = [each for each in page.all("svg") if each.get("role") == "img"]
    assert len(charts) >= 4
    assert all("by layer" in each["aria-label"] for each in charts)
    assert all("aria-hidden" in each for each in page.all("svg") if each.get("role") != "img")


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_cells_that_name_a_row_or_column_say_so(page):
    assert {each.get("scope") for each in page.all("th")} == {"row", "col"}
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize("form", ["text", "html"])
def test_all_findings_and_sections_are_on_the_page(diagnosis, form):
    if form == "text":
        words = re.sub(r"\s+", " ", text_page(diagnosis, "some/model", "photographs"))
    else:
        words = words_of(Page(html_page(diagnosis, "some/model", "photographs")))
    for finding in find(diagnosis):
        assert all(part in words for part in finding[1:])
    for section in list_sections(diagnosis):
        assert section.title in words
        assert section.words in words
        assert all(cell in words for table in section.tables for row in table.rows for cell in row)
        assert all(series.label in words for chart in section.charts for series in chart.series)


def test_the_verdict_comes_first():
    text = html_page(make_diagnosis(), "some/model", "photographs")
    assert text.index("The reduction suits this model") < text.index(">Findings<")


def test_what_was_diagnosed_is_said():
    text = text_page(make_diagnosis(), "some/model", "photographs")
    assert text.startswith("# Diagnosis of some/model\n")
    assert "1000 images of photographs, 8 x 8 patches." in text
    assert "The model reduces in layers 0, 2 (of 4, counted from 0)." in text
    assert "Thresholds are rules of thumb" in text


def test_names_are_escaped():
    text = html_page(make_diagnosis(), "<script>alert('x')</script>", '"><b>')
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


def test_charts_are_tables_in_the_text():
    text = text_page(make_diagnosis(), "some/model", "photographs")
    assert re.search(r"\| effective rank +\| 0 +\| 1 +\| 2 +\| 3 +\| 4 +\|", text)
    assert re.search(r"\| with the reduction +\| 2 +\| 2 +\| 2 +\| 2 +\| 2 +\|", text)


def test_tables_have_as_many_cells_in_all_rows(diagnosis):
    for block in text_page(diagnosis, "some/model", "photographs").split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1


def test_where_nothing_draws_attention_that_is_all_that_is_said():
    section = list_sections(make_diagnosis())[-1]
    assert section.words.endswith("There are none.")
    assert section.charts == section.tables == ()


def test_fixed_sinks_have_their_place():
    section = list_sections(WITH_ATTRACTORS)[-1]
    assert section.tables[-1].rows == (("1", "0", "7", "75%"),)


def test_every_severity_has_its_mark_and_colour():
    assert set(SEVERITY) == set(SEVERITIES)
    text = html_page(make_diagnosis(), "some/model", "photographs")
    assert all(f".{name} {{ --tone: var(--{name}); }}" in text for name in SEVERITIES)
