from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def importable_examples(monkeypatch):
    """Examples import the files beside them."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
