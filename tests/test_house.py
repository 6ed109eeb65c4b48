"""The layout of the package: one direction of imports, modeling flat and self-contained."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fatr_hf"

MAY_IMPORT = {
    "modeling": {"modeling"},
    "images": {"images"},
    "baselines": {"modeling", "baselines", "families"},
    "analysis": {"images", "modeling", "baselines", "analysis"},
    "benchmark": {"modeling", "baselines", "analysis", "benchmark"},
    "training": {"images", "modeling", "baselines", "analysis", "hub", "training"},
    "hub": {"images", "modeling", "baselines", "hub", "families"},
    "cli": {
        "images",
        "modeling",
        "baselines",
        "analysis",
        "benchmark",
        "training",
        "hub",
        "cli",
        "families",
        "programs",
        "version",
    },
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path):
    """Absolute names of everything a file imports."""
    package = ("fatr_hf", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from (".".join((*module, name.name)) for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    if folder not in MAY_IMPORT:
        return
    for module in imported_modules(path):
        if module.startswith("fatr_hf."):
            assert module.split(".")[1] in MAY_IMPORT[folder], f"{path.name} imports {module}"


def test_every_folder_has_its_rule():
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", sorted((PACKAGE / "modeling").iterdir()), ids=lambda path: path.name)
def test_modeling_is_flat_and_needs_only_torch_and_transformers(path):
    if path.name == "__pycache__":
        return
    assert path.suffix == ".py"
    for module in imported_modules(path):
        first = module.split(".")[0]
        allowed = first in {"torch", "transformers", "huggingface_hub"} or first in sys.stdlib_module_names
        allowed = allowed or (path.name == "kernels_common.py" and first == "triton")  # guarded, and tested absent
        assert allowed or module.startswith("fatr_hf.modeling."), module
    # Other forms are missed when transformers copies a model's files.
    assert not re.search(r"^\s*(from \.\.|from \. import|import fatr_hf|from fatr_hf)", path.read_text(), re.MULTILINE)


def test_files_stay_readable():
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 500] == []
