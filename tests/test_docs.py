"""What the documentation shows works, and what it points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def run_example(page):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    return names


def test_the_example_of_speed_runs():
    assert run_example("speed.md")["logits"].shape == (2, 2)


def test_the_methods_example_runs():
    names = run_example("method.md")
    assert names["dense"].shape == (2, 64, 48)
    assert names["unreduced"].logits.shape == (2, 2)


def test_the_analysis_example_runs():
    names = run_example("analysis.md")
    assert len(names["ranks"]) == 13
    assert [each.name for each in names["comparison"].contenders] == [
        "unreduced",
        "FATR",
        "random",
        "evit",
        "tome",
        "pooling",
    ]


def test_the_diagnosis_example_runs():
    assert run_example("diagnosis.md")["diagnosis"].images == 4


def test_the_schedules_example_runs():
    names = run_example("schedules.md")
    assert names["best"] in [trial.schedule for trial in names["result"].front]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readmes_token_counts_are_the_models():
    from fatr_hf import FATRViTConfig

    counts = [layer.tokens_out for layer in FATRViTConfig().token_schedule()]
    assert ", ".join(map(str, counts[:7])) in (ROOT / "README.md").read_text()
