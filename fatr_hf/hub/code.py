"""Whether the code of a repository is that of this release of fatr_hf; it is compared, never run."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from transformers.dynamic_module_utils import get_relative_import_files

from ..modeling import hub_repository
from ..modeling.hub_repository import HTTPClientError

VIT = "configuration_fatr_vit.py"
"""Whose files a repository is expected to hold that has no configuration of ours."""

MODELING = Path(hub_repository.__file__).parent
"""The folder of the code that travels."""

CONFIGURATIONS = {path.name for path in MODELING.glob("configuration_fatr_*.py")}
"""The configurations of all families and composites."""

Verdict = Literal["same", "differs", "missing", "not ours"]

ELSEWHERE = re.compile(r'"([^"]+--[^".]+\.[^".]+)"')
"""How a configuration names a class in another repository: ``user/model--module.Class``."""


def compare_code(name: str | os.PathLike[str], revision: str | None = None) -> dict[str, Verdict]:
    """Compares every Python file of a repository with the file of that name that this release of fatr_hf ships.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.

    Returns:
        A verdict for each file, by its path. Code of another repository that a configuration names, which transformers
        would fetch and run, is "not ours" too. The code is unmodified if every verdict is "same".

    Raises:
        FileNotFoundError: no such folder, and nothing that the Hub or its cache gives.
    """
    folder = find_code(name, revision)
    configurations = [path.name for path in folder.glob("configuration_fatr_*.py") if path.name in CONFIGURATIONS]
    ours = {file: digest for each in configurations or [VIT] for file, digest in shipped_code_hashes(each).items()}
    verdicts: dict[str, Verdict] = dict.fromkeys(ours, "missing")
    for path in sorted(folder.rglob("*.py")):
        is_same = file_hash(path) == ours.get(path.name)
        verdict: Verdict = "same" if is_same else "differs" if path.name in ours else "not ours"
        verdicts[path.relative_to(folder).as_posix()] = verdict
    return verdicts | dict.fromkeys(code_elsewhere(folder), "not ours")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shipped_code_hashes(configuration: str = VIT) -> dict[str, str]:
    """The hash of every file that travels with a model, by name.

    Args:
        configuration: the file of its configuration, which names the model's as well.
    """
    start = MODELING / configuration
    paths = [start, *map(Path, get_relative_import_files(start))]
    return {path.name: file_hash(path) for path in sorted(paths)}


def find_code(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """A folder with the Python files and configurations of a repository, fetched where needed.

    Args:
        name, revision: as for ``compare_code``.

    Raises:
        FileNotFoundError: no such folder, and nothing that the Hub or its cache gives.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=["*.py", "*.json"]))
    except (HTTPClientError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"No code can be read from {str(name)!r}: give a folder that exists, or a Hub name, which needs a "
            f"connection. {error}"
        ) from error


def code_elsewhere(folder: Path) -> list[str]:
    """The classes of other repositories that a repository's JSON files name."""
    names = []
    for path in sorted(folder.glob("*.json")):
        # Written anew, so that escapes hide nothing.
        content = json.dumps(json.loads(path.read_text()))
        names += [f"{path.name}: {name}" for name in ELSEWHERE.findall(content)]
    return names
