import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fatr_hf.benchmark
from fatr_hf.benchmark import Comparison, Measurement, Report, comparison_table, plot_throughput
from fatr_hf.benchmark.report import closing_text, format_macs, format_memory, report_text


def test_figures_are_medians_of_ratios(comparison):
    assert comparison.figure("speedup", "fatr") == pytest.approx(29 / 21)
    assert comparison.figure("share_of_bound", "fatr") == pytest.approx(20 / 21)
    assert comparison.figure("reweighting", "fatr") == pytest.approx(21 / 20)
    assert comparison.figure("macs_ratio", "fatr") == pytest.approx(0.65)
    assert comparison.figure("memory_ratio", "fatr") == pytest.approx(0.8)
    assert comparison.images_per_second("fatr") == pytest.approx(2 / 0.021)


def test_figures_that_lack_something_are_none(comparison):
    alone = replace(comparison, measurements=comparison.measurements[2:3])
    assert alone.figure("speedup", "fatr") is None
    assert alone.figure("share_of_bound", "fatr") is None
    assert comparison.figure("speedup", "evit") is None
    assert comparison.figure("memory_ratio", "fatr-no-omega") is None


def test_table(comparison):
    lines = comparison_table(comparison).splitlines()
    assert lines[0] == "## ViT-nano/4-32, batch 2, float32, eager, inference, fused"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [len(row) for row in cells] == [8] * 6
    assert cells[4] == ["FATR", "21.000", "1.000", "95.2", "1.381x", "0.952", "2.60 G (0.65)", "320 MiB (0.80)"]
    assert cells[5][-1] == "-"
    assert "Re-weighting: FATR takes 1.050 times as long as without it." in lines
    assert "FATR, no re-weighting: slept." in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_table_without_rivals_has_dashes(comparison):
    table = comparison_table(replace(comparison, measurements=comparison.measurements[2:3]))
    assert "| FATR       | 21.000 | 1.000  | 95.2     | -     | -        | 2.60 G | 320 MiB     |" in table
    assert "Re-weighting" not in table


def test_whole_report(report):
    text = report_text(report, "| a table of targets |")
    assert text.index("## ViT-nano") < text.index("## Targets") < text.index("## Machine")
    assert "Median of 3 interleaved rounds after 1 of warm-up." in text
    assert "an abacus" in text
    assert "triton" not in text
    assert "## Targets" not in closing_text(report)


def test_json_is_complete(report):
    text = report.to_json()
    assert Report.from_json(text) == report
    [entry] = json.loads(text)["comparisons"]
    assert entry["summary"]["fatr"]["speedup"] == pytest.approx(29 / 21)
    assert entry["summary"]["fatr-no-omega"]["memory_ratio"] is None


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"format": 0}'])
def test_other_files_are_refused(text):
    with pytest.raises(ValueError, match="no result of fatr-hf bench"):
        Report.from_json(text)


def test_the_package_imports_without_what_only_some_of_it_needs():
    for path in Path(fatr_hf.benchmark.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in modules:
                first = module.split(".")[0]
                known = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
                assert first in known, f"{path.name}: {module}"


def test_units():
    assert format_macs(2_000_000) == "2.0 M"
    assert format_memory(3 * 2**20) == "3 MiB"
    assert format_memory(None) == "-"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_is_written(comparison, tmp_path, suffix):
    larger = replace(comparison, setting=replace(comparison.setting, batch_size=8))
    compiled = replace(comparison, setting=replace(comparison.setting, execution="compile"))
    path = tmp_path / f"throughput{suffix}"
    plot_throughput([larger, comparison, compiled], path)
    assert path.stat().st_size > 1000


def test_plots_are_refused_in_words(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.png, \.svg"):
        plot_throughput([], tmp_path / "throughput.gif")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="need matplotlib"):
        plot_throughput([], tmp_path / "throughput.png")


def test_measurement_of_one_round(setting):
    comparison = Comparison(setting, (Measurement("fatr", "FATR", (10.0,), 1000),), (65,))
    assert "| FATR       | 10.000 | 0.000  | 200 " in comparison_table(comparison)
