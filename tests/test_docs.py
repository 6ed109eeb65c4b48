"""What the documentation shows works, and what it points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_methods_example_runs():
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "method.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["dense"].shape == (2, 64, 48)
    assert names["unreduced"].logits.shape == (2, 2)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readmes_token_counts_are_the_models():
    from fatr_hf import FATRViTConfig

    counts = [layer.tokens_out for layer in FATRViTConfig().token_schedule()]
    assert ", ".join(map(str, counts[:7])) in (ROOT / "README.md").read_text()
