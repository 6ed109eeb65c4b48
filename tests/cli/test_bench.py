"""`fatr-hf bench`: what it measures, prints and writes, and what it refuses."""

import json

import pytest
import torch
from typer.testing import CliRunner

from fatr_hf.benchmark import KINDS, ModelSize, Report, Setting
from fatr_hf.benchmark.compare import OutOfMemory, compare
from fatr_hf.benchmark.suites import Case, Target
from fatr_hf_cli import app

TINY = ["--size", "32/2/4", "--patch-size", "4", "--image-size", "32", "--device", "cpu"]
QUICK = ["--rounds", "1", "--warmup", "0"]


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_table_json_markdown_and_plot(tmp_path):
    paths = {name: tmp_path / f"results.{name}" for name in ("json", "markdown", "png")}
    outputs = ["--json", str(paths["json"]), "--markdown", str(paths["markdown"]), "--plot", str(paths["png"])]
    reduction = ["--keep-ratio", "0.7,0.5", "--reduction-layers", "1,2", "--dc-windows", "2,1", "--token-multiple", "2"]
    result = bench(*TINY, *QUICK, "--batch-size", "1,2", "--threads", "1", *reduction, *outputs)
    assert result.exit_code == 0, result.output
    report = Report.from_json(paths["json"].read_text())
    assert [comparison.setting.batch_size for comparison in report.comparisons] == [1, 2]
    assert report.comparisons[0].setting.keep_ratio == (0.7, 0.5)
    assert report.comparisons[0].tokens_per_layer == (65, 48, 22, 22)
    assert [each.name for each in report.comparisons[0].measurements] == list(KINDS)
    assert report.machine["threads"] == 1
    for text in (result.stdout, paths["markdown"].read_text()):
        assert "## ViT-32x4/4-32, batch 2, float32, eager, inference, fused" in text
        assert "stock ViT (SDPA)" in text
        assert "## Machine" in text
    assert paths["png"].stat().st_size > 1000

    paths["png"].unlink()
    again = bench("--load", str(paths["json"]), "--plot", str(paths["png"]))
    assert again.exit_code == 0, again.output
    assert again.stdout.strip() == paths["markdown"].read_text().strip()
    assert paths["png"].exists()


def test_every_combination_of_conditions():
    conditions = ["--batch-size", "2", "--dtype", "float32,bfloat16", "--task", "inference,training"]
    result = bench(*TINY, *QUICK, *conditions, "--contestants", "fatr", "--no-fuse")
    assert result.exit_code == 0, result.output
    labels = [line.partition("batch 2, ")[2] for line in result.stdout.splitlines() if line.startswith("## ViT")]
    assert labels == [
        "float32, eager, inference, not fused",
        "float32, eager, training",
        "bfloat16, eager, inference, not fused",
        "bfloat16, eager, training",
    ]


def test_suite(monkeypatch, tmp_path):
    size = ModelSize("nano", 32, 2, 4, patch_size=4, image_size=32)
    cases = tuple(
        Case(f"case-{batch_size}", Setting(size, batch_size), (Target("speedup", 0.0), Target("memory_ratio", 1.0)))
        for batch_size in (1, 2)
    )
    monkeypatch.setattr("fatr_hf.cli.bench.cases_for", lambda device_type: cases)
    path = str(tmp_path / "results.json")
    suite = ["--suite", "targets", "--case", "case-2"]
    result = bench("--device", "cpu", *suite, *QUICK, "--json", path, "--score-implementation", "blocked")
    assert result.exit_code == 0, result.output
    assert "case-1" not in result.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:6]] for line in result.stdout.splitlines() if "case-2" in line]
    assert [row[1:3] for row in rows] == [["speed over stock", ">= 0.00"], ["peak memory over stock", ">= 1.00"]]
    assert [row[4] for row in rows] == ["yes", "-"]
    [comparison] = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert comparison["setting"]["score_implementation"] == "blocked"
    assert "## Targets" in bench("--load", path, "--suite", "targets").stdout


def test_suggest_multiple():
    result = bench(*TINY, *QUICK, "--batch-size", "1", "--suggest-multiple")
    assert result.exit_code == 0, result.output
    assert "| token_multiple | tokens after reductions |" in result.stdout


def test_what_fails_leaves_the_rest(monkeypatch):
    def failing(setting, names, device, protocol):
        if setting.batch_size == 4:
            raise OutOfMemory("FATR ran out of memory.")
        return compare(setting, names, device, protocol)

    monkeypatch.setattr("fatr_hf.cli.bench.compare", failing)
    result = bench(*TINY, *QUICK, "--batch-size", "1,4,2", "--contestants", "fatr")
    assert result.exit_code == 1
    assert "Error: FATR ran out of memory." in result.stderr
    assert "batch 1," in result.stdout
    assert "batch 2," in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "Q"], "Unknown size 'Q'"),
        ([*TINY, "--contestants", "abacus"], "Unknown contestant 'abacus'"),
        ([*TINY, "--dtype", "int8"], "Unknown dtype 'int8'"),
        ([*TINY, "--batch-size", "many"], "'many' is no list of batch sizes"),
        ([*TINY, "--keep-ratio", "3"], "Error: keep_ratio=3.0 must lie in (0, 1]"),
        ([*TINY, "--execution", "cudagraphs"], "CUDA graphs need a CUDA device"),
        (["--device", "abacus"], "There is no device 'abacus' here"),
        (["--plot", "throughput.gif"], "must end in one of .png, .svg, .pdf"),
        (["--json", "no/such/folder/results.json"], "there is no folder"),
        (["--suite", "abacus"], "Unknown suite 'abacus'"),
        (["--suite", "targets", "--size", "B"], "leave their options out"),
        (["--case", "abacus", "--device", "cpu"], "Unknown case 'abacus'"),
        (["--load", "no-such-file.json"], "No such file"),
        ([*TINY, "--threads", "0"], "--threads"),
    ],
)
def test_refusals(arguments, words):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_help_names_what_can_be_chosen():
    result = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    for name in (*KINDS, "cudagraphs", "--suggest-multiple", "fatr-hf bench --suite targets"):
        assert name in result.stdout


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    bench(*TINY, *QUICK, "--batch-size", "1", "--contestants", "stock", "--threads", str(before + 1))
    assert torch.get_num_threads() == before
