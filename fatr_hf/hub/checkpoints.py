"""What a checkpoint says of itself before its weights are read: its configuration, its image processor."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME
from transformers.utils.hub import cached_file


def read_config(name: str | os.PathLike[str], revision: str | None = None) -> dict[str, Any]:
    """The fields of a checkpoint's ``config.json``.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub name; the main branch by default.

    Raises:
        FileNotFoundError: no such folder, nothing that the Hub or its cache gives, or no configuration of a model.
        ValueError: a model in place of its name.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"A checkpoint is a folder or a Hub name, not {type(name).__name__}.")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise FileNotFoundError(
            f"No checkpoint can be read from {str(name)!r}: give a folder that exists, or a Hub name, which needs a "
            f"connection the first time. {error}"
        ) from error
    if "model_type" not in fields:
        raise FileNotFoundError(
            f"No checkpoint can be read from {str(name)!r}: it has no config.json with a model_type."
        )
    return fields


def is_fatr(fields: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of one of our models."""
    return str(fields.get("model_type")).startswith("fatr_")


def is_classifier(fields: Mapping[str, Any]) -> bool:
    """Whether a configuration names a classifier of images or videos as what was saved."""
    kinds = ("ForImageClassification", "ForVideoClassification")
    return any(kind in architecture for architecture in fields.get("architectures") or () for kind in kinds)


def find_image_processor(name: str | os.PathLike[str], revision: str | None = None) -> BaseImageProcessor | None:
    """The image processor of a checkpoint, or None where it has none; arguments as for ``read_config``."""
    try:
        return AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except OSError:
        return None


def image_processor_file(name: str | os.PathLike[str], revision: str | None) -> str | None:
    """The file of a checkpoint's image processor, which needs no pillow to be read, or None where it has none."""
    path: str | None = cached_file(
        name, IMAGE_PROCESSOR_NAME, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return path


def cropped_size(name: str | os.PathLike[str], revision: str | None = None) -> tuple[int, int] | None:
    """Height and width to which a checkpoint's image processor crops, or None where it does not."""
    path = image_processor_file(name, revision)
    fields = {} if path is None else json.loads(Path(path).read_text())
    size = fields.get("crop_size") if fields.get("do_center_crop") else None
    if isinstance(size, int):
        return size, size
    return None if size is None else (size["height"], size["width"])


def copy_image_processor(name: str | os.PathLike[str], revision: str | None, folder: str | os.PathLike[str]) -> bool:
    """Copies the files of a checkpoint's processors of images and videos; returns whether there were any."""
    files = {IMAGE_PROCESSOR_NAME: image_processor_file(name, revision)}
    files[VIDEO_PROCESSOR_NAME] = cached_file(
        name, VIDEO_PROCESSOR_NAME, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    for file, source in files.items():
        if source is not None:
            shutil.copyfile(source, os.path.join(folder, file))
    return any(files.values())
