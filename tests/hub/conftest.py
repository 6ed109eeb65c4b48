"""A Hub on this machine, and its users."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import running_hub
from huggingface_hub import constants


@pytest.fixture(scope="session")
def hub_server():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The Hub with no repositories, to which huggingface_hub of this process speaks with a token that may write.

    It reads its environment when it is imported, and the tests' is offline.
    """
    hub_server.repositories, hub_server.faults, hub_server.requests = {}, [], []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setenv("HF_TOKEN", "writer")
    return hub_server


@pytest.fixture(scope="session")
def run_user():
    """Runs a script beside this file as a user with a home folder, for whom the Hub is the one on this machine."""

    def run(script, home, hub, *arguments, **environment):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        variables |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
        finished = subprocess.run(
            command,
            env={**variables, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr

    return run
