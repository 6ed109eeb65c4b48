"""Proof that transformers loads the trained model from a saved folder, without this package."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, Features, Image
from transformers import AutoImageProcessor, BaseImageProcessor

from ..images import open_picture, picture_mode
from . import clean_process
from .errors import ProofError


def plain_pictures(images: Dataset, processor: BaseImageProcessor) -> Dataset:
    """Pictures of any kind as files that every program opens alike: without loss, in the mode that a processor takes.

    Args:
        images: a data set with a column ``image``.
    """
    mode = picture_mode(processor)

    def encoded(image: Any) -> dict[str, Any]:
        file = io.BytesIO()
        open_picture(image, mode).save(file, "ppm")
        return {"path": None, "bytes": file.getvalue()}

    rows = [encoded(image) for image in images.select_columns("image")["image"]]
    return Dataset.from_dict({"image": rows}, Features({"image": Image()}))


def classify_without_package(folder: Path, images: Dataset, device: str = "cpu") -> list[int]:
    """Predicted classes from the folder's own code, in a fresh process that cannot import fatr_hf and is offline.

    Args:
        folder: a folder written by ``save_pretrained``, with its image processor.
        images: a data set with a column ``image``.
        device: where the model runs.

    Raises:
        ProofError: the folder does not load there, or does not run; holds what the process printed.
    """
    with TemporaryDirectory() as workspace:
        images_path, output = Path(workspace, "images"), Path(workspace, "classes.json")
        plain_pictures(images, AutoImageProcessor.from_pretrained(folder)).save_to_disk(images_path)
        # A module cache of its own: code copied from an earlier save must not stand in for the folder's.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(workspace, "modules"))}
        command = [sys.executable, clean_process.__file__, str(folder.resolve()), str(images_path), str(output), device]
        finished = subprocess.run(
            command, env=environment, cwd=workspace, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        printed = f"{finished.stdout}{finished.stderr}"
        if finished.returncode == clean_process.NOT_LOADED:
            raise ProofError(f"{folder} does not load without fatr_hf:\n{printed}")
        if finished.returncode:
            raise ProofError(f"{folder} loads without fatr_hf, but fails on the test images:\n{printed}")
        return json.loads(output.read_text())
