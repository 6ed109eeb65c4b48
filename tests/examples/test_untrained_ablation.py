"""The table of selections, folds and layers at one cost."""

import importlib
import sys
from pathlib import Path

import pytest

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf.baselines.rival import unreduced_copy
from fatr_hf.modeling import schedule_macs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("untrained_ablation")


@pytest.fixture
def twin():
    size = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 64}
    return unreduced_copy(FATRViTForImageClassification(FATRViTConfig(**size, image_size=48, patch_size=4)).eval())


def test_every_arm_costs_the_budget_and_no_more(program, twin):
    plans = program.plans_of(twin, 0.7)
    assert len(plans) == len(program.ARMS) + 1
    whole = schedule_macs(twin.config)
    for (selection, fold, layers), plan in zip(program.ARMS, plans.values(), strict=False):
        assert [step.layer for step in plan if step.reduces] == list(layers)
        assert {(step.selection, step.fold) for step in plan} == {(selection, fold)}
        fields = {"reduction_layers": list(layers), "fold": fold, "selection": selection}
        ratio = next(step.patches_out / step.patches_in for step in plan if step.reduces)
        config = type(twin.config).from_dict(twin.config.to_dict(), preset="paper", keep_ratio=ratio, **fields)
        assert 0.6 < schedule_macs(config) / whole < 0.75


def test_the_program_prints_the_table(program, stock_folder, monkeypatch, capsys):
    monkeypatch.setattr(program, "ARMS", (program.ARMS[0], program.ARMS[6]))
    words = ["untrained_ablation.py", str(stock_folder), "photographs", "--limit", "3", "--budget", "0.8"]
    monkeypatch.setattr(sys, "argv", words)
    program.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "| selection | fold | layers | agreement | cosine | patches |"
    assert len(rows) == 2 + 3
    assert rows[-1].startswith("| ToMe | | all | ")


def test_a_budget_out_of_range_is_refused(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["untrained_ablation.py", "m", "photographs", "--budget", "1.5"])
    with pytest.raises(SystemExit):
        program.main()
    assert "--budget 1.5 must lie between 0 and 1" in capsys.readouterr().err
