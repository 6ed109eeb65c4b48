"""Virtual environments that hold chosen distributions and nothing else, made in seconds and without a network.

What `pip install` would download is linked from the environment of the tests instead: the requirements of a wheel, and
theirs, found as pip finds them. A package that is imported and not required is then as absent as after a real install.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, wheel: Path, extras: Iterable[str] = ()) -> Path:
    """Makes an environment with a wheel and all that it requires; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    for required in requirements_of([Requirement(line) for line in wheel_requirements(wheel)], tuple(extras)):
        link(required, packages)
    pip(python, "install", "--no-index", "--no-deps", wheel)
    return python


def pip(python: Path, command: str, *arguments: object) -> None:
    """Runs the tests' own pip on an environment."""
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, command, *arguments]
    finished = subprocess.run(words, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def wheel_requirements(wheel: Path) -> list[str]:
    """The lines ``Requires-Dist`` of a wheel."""
    [metadata] = Distribution.discover(path=[str(wheel)])
    return metadata.requires or []


def requirements_of(requirements: Iterable[Requirement], extras: tuple[str, ...]) -> list[Distribution]:
    """The distributions that requirements lead to, each once."""
    found: dict[str, Distribution] = {}
    visited: set[tuple[str, tuple[str, ...]]] = set()

    def visit(requirement: Requirement, extras: tuple[str, ...]) -> None:
        if requirement.marker and not any(requirement.marker.evaluate({"extra": each}) for each in extras or ("",)):
            return
        name, wanted = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if (name, wanted) in visited:
            return
        visited.add((name, wanted))
        found[name] = distribution(name)
        for line in found[name].requires or ():
            visit(Requirement(line), wanted)

    for requirement in requirements:
        visit(requirement, extras)
    return list(found.values())


def link(installed: Distribution, packages: Path) -> None:
    """Links the top-level files and folders of a distribution."""
    source = Path(str(installed.locate_file("")))
    for name in top_level(installed):
        target = packages / name
        if not target.exists():
            target.symlink_to(source / name)


def top_level(installed: Distribution) -> Iterator[str]:
    names = {path.parts[0] for path in installed.files or ()}
    return (name for name in sorted(names) if name not in ("..", "__pycache__"))
