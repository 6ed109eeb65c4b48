"""`fatr-hf convert`: what it writes and prints, and what it refuses."""

import json

import pytest
from rounding import assert_rounded_alike
from transformers import AutoModelForImageClassification

from fatr_hf import FATRViTForImageClassification


def test_folder_summary_and_json(invoke, stock_folder, pixel_values, tmp_path):
    output, summary = tmp_path / "out" / "fatr", tmp_path / "summary.json"
    reduction = ["--keep-ratio", "0.5,0.7", "--reduction-layers", "1,2", "--dc-windows", "4,2", "--token-multiple", 2]
    result = invoke("convert", stock_folder, output, *reduction, "--json", summary)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "FATRViTForImageClassification with image processor" in result.stdout
    assert "| 1 | 65 | 48 | 31 | 16 |" in result.stdout
    values = json.loads(summary.read_text())
    assert values["tokens_per_layer"] == [65, 48, 26, 26]
    ratio = values["macs_after"] / values["macs_before"]
    assert f"({ratio:.2f})" in result.stdout
    model = AutoModelForImageClassification.from_pretrained(output, trust_remote_code=True)
    expected = FATRViTForImageClassification.from_pretrained(
        stock_folder, keep_ratio=[0.5, 0.7], reduction_layers=[1, 2], dc_windows=[4, 2], token_multiple=2
    )
    assert_rounded_alike(model(pixel_values).logits, expected(pixel_values).logits)


def test_without_options_the_preset_is_faithful(invoke, stock_folder, tmp_path):
    assert invoke("convert", stock_folder, tmp_path / "fatr").exit_code == 0
    config = FATRViTForImageClassification.from_pretrained(tmp_path / "fatr").config
    assert (config.fold, config.selection, config.keep_ratio) == ("similar", "high_frequency_energy", 0.77)


def test_the_fold_is_an_option(invoke, stock_folder, tmp_path):
    assert invoke("convert", stock_folder, tmp_path / "fatr", "--fold", "similar").exit_code == 0
    config = FATRViTForImageClassification.from_pretrained(tmp_path / "fatr").config
    assert (config.fold, config.selection, config.dc_windows) == ("similar", "high_frequency", 0)


def test_preset_gives_way_to_other_options(invoke, stock_folder, tmp_path):
    options = ["--preset", "local", "--dc-windows", 2, "--size-exponent", 1.0, "--selection", "random"]
    assert invoke("convert", stock_folder, tmp_path / "fatr", *options).exit_code == 0
    config = FATRViTForImageClassification.from_pretrained(tmp_path / "fatr").config
    assert (config.keep_ratio, config.dc_windows, config.size_exponent) == (0.5, 2, 1.0)
    assert config.selection == "random"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-ratio", "3"], "keep_ratio=3.0 must lie in (0, 1]"),
        (["--keep-ratio", "half"], "'half' is no list of keep ratios"),
        (["--reduction-layers", "9"], "reduction_layers=[9] must be strictly increasing integers from 0 to 3"),
        (["--preset", "global"], "preset='global' must be one of paper, local, faithful"),
        (["--selection", "abacus"], "selection='abacus' must be one of"),
        (["--json", "no/such/folder/summary.json"], "there is no folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_options_are_refused_and_write_nothing(refused, stock_folder, tmp_path, options, words):
    assert words in refused("convert", stock_folder, tmp_path / "fatr", *options)
    assert not (tmp_path / "fatr").exists()


def test_a_folder_with_files_is_refused(refused, stock_folder):
    assert "is there already" in refused("convert", stock_folder, stock_folder)


def test_a_name_that_leads_nowhere_is_refused(refused, tmp_path):
    assert "No checkpoint can be read from 'nobody/nothing'" in refused("convert", "nobody/nothing", tmp_path / "fatr")


def test_options_may_be_written_as_in_python(invoke, stock_folder, tmp_path):
    for name, option in (("dashes", "--keep-ratio"), ("underscores", "--keep_ratio")):
        result = invoke("convert", stock_folder, tmp_path / name, option, "0.5", "--json", tmp_path / f"{name}.json")
        assert result.exit_code == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("dashes", "underscores"))
    assert first.pop("folder") != second.pop("folder")
    assert first == second
