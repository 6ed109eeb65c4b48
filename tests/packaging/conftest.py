import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import make_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """The sdist and, built from it, the wheel."""
    source, output = tmp_path_factory.mktemp("source") / "fatr_hf", tmp_path_factory.mktemp("dist")
    # Not the tree itself: a build leaves files behind.
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "fatr_hf_cli.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "fatr_hf", source / "fatr_hf", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source]
    finished = subprocess.run(build, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return output


@pytest.fixture(scope="session")
def wheel(distributions):
    [path] = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def base_python(wheel, tmp_path_factory):
    """Python of an environment with the wheel and what it requires without extras."""
    return make_environment(tmp_path_factory.mktemp("base"), wheel)
