"""Names of files as text: on a terminal, in UTF-8, in figures and tables."""

import os

import pytest

from fatr_hf.analysis.curves import collapse_figure, spectrum_figure
from fatr_hf.analysis.figure_files import save_figure
from fatr_hf.analysis.names import figure_text, printable, table_text

NAMES = {
    "latin-1": (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
    "newline": ("two\nlines", r"two\nlines"),
    "escape": ("\x1b[31mred", r"\x1b[31mred"),
    "separator": ("a\N{LINE SEPARATOR}b", r"a\u2028b"),
    "lone-surrogate": ("a\ud800b", r"a\ud800b"),
    "plain": ("Käse 犬 [1] 100%", "Käse 犬 [1] 100%"),
    "emoji": ("\N{MAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}", "\N{MAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"),
    "formula": ("a$_^$b", "a$_^$b"),
}
names = pytest.mark.parametrize(("name", "shown"), NAMES.values(), ids=NAMES)


@names
def test_names_are_printable(name, shown):
    assert printable(name) == shown
    assert printable(name).encode("utf-8").decode("utf-8") == shown


def test_cells_of_tables_hold_no_bars():
    assert table_text("a|b\nc") == r"a\|b\nc"


@pytest.mark.parametrize(
    "name", ["a$_^$b", r"a\$x", "$", r"\alpha$\frac$", "_hidden", "%", os.fsdecode(b"caf\xe9"), "a\nb", "a^{b}_c"]
)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_show_names_letter_by_letter(name, suffix, tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    axes.plot([1, 2], label=figure_text(name))
    axes.set_title(figure_text(name))
    [entry] = axes.legend().get_texts()
    save_figure(figure, tmp_path / f"names{suffix}")
    text, is_formula = entry._preprocess_math(entry.get_text())
    assert (text.removeprefix("\N{WORD JOINER}"), is_formula) == (printable(name), False)


def test_figures_of_models_take_any_name(analysis, tmp_path):
    strange = {"a$_^$b": analysis, os.fsdecode(b"caf\xe9"): analysis, "_x": analysis}
    for figure in (spectrum_figure(strange), collapse_figure(strange)):
        save_figure(figure, tmp_path / "figure.png")
    assert len(collapse_figure(strange).axes[0].get_legend().get_texts()) == 3
