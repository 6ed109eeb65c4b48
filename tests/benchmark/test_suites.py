from dataclasses import replace

import pytest

from fatr_hf.benchmark import KINDS
from fatr_hf.benchmark.results import FIGURES
from fatr_hf.benchmark.suites import CONTESTANTS, Case, Target, cases_for, choose_cases, targets_table


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_cases_are_sound(device_type):
    cases = cases_for(device_type)
    assert len({case.name for case in cases}) == len({case.setting for case in cases}) == len(cases)
    for case in cases:
        assert case.targets
        assert {target.figure for target in case.targets} <= set(FIGURES)
        case.setting.fatr_config()
    assert set(CONTESTANTS) <= set(KINDS)


def test_settings_of_the_gpu():
    labels = {case.name: case.setting.label for case in cases_for("cuda")}
    assert labels["B-384-eager"] == "ViT-B/16-384, batch 96, bfloat16, eager, inference, fused"
    assert labels["B-224-batch1-cudagraphs"] == "ViT-B/16-224, batch 1, bfloat16, cudagraphs, inference, fused"
    assert labels["B-224-training"] == "ViT-B/16-224, batch 128, bfloat16, eager, training"


def test_cases_are_chosen_by_name():
    cases = cases_for("cpu")
    assert choose_cases(cases) == list(cases)
    assert choose_cases(cases, ["B-224-cpu"]) == [cases[1]]
    with pytest.raises(ValueError, match="Unknown case 'abacus'"):
        choose_cases(cases, ["abacus"])


def test_targets_beside_what_was_measured(comparison):
    case = Case("small", comparison.setting, (Target("speedup", 1.35), Target("reweighting", 1.02, at_least=False)))
    other = replace(case, name="not measured", setting=replace(comparison.setting, batch_size=7))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in targets_table([case, other], [comparison]).splitlines()
    ]
    assert rows[2] == ["small", "speed over stock", ">= 1.35", "1.381", "yes"]
    assert rows[3] == ["small", "time over no re-weighting", "<= 1.02", "1.050", "no"]
    assert rows[4][3:] == ["-", "-"]
    assert targets_table([], [comparison]) == ""
