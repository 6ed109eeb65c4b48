"""Proof that a saved folder gives the trained model wherever transformers is, without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset

from . import clean_process


def classify_without_package(folder: Path, images: Dataset, device: str = "cpu") -> list[int]:
    """Predicted classes from the folder's own code, in a fresh process that cannot import fatr_hf and is offline.

    Args:
        folder: a folder written by ``save_pretrained``, with its image processor.
        images: a data set with a column ``image``.
        device: where the model runs.

    Raises:
        RuntimeError: the folder does not load or run there; holds what the process printed.
    """
    with TemporaryDirectory() as workspace:
        images_path, output = Path(workspace, "images"), Path(workspace, "classes.json")
        images.save_to_disk(images_path)
        # A module cache of its own: code copied from an earlier save must not stand in for the folder's.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(workspace, "modules"))}
        command = [sys.executable, clean_process.__file__, str(folder.resolve()), str(images_path), str(output), device]
        finished = subprocess.run(
            command, env=environment, cwd=workspace, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if finished.returncode:
            raise RuntimeError(f"{folder} does not load without fatr_hf:\n{finished.stdout}{finished.stderr}")
        return json.loads(output.read_text())
