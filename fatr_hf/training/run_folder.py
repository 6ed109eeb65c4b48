"""The folder of a training run: never two runs in one, nothing half-written, checkpoints that are complete."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS_FILE = "run.json"

CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
"""What a plain Trainer checkpoint needs for resuming; the state is written last."""


def claim_run_folder(folder: Path, arguments: dict[str, Any], resume: bool, overwrite: bool = False) -> None:
    """Makes the folder this run's own, or refuses.

    Args:
        folder: created where needed.
        arguments: what the result depends on; JSON values.
        resume: continue the run that the folder holds; it must have had the same arguments.
        overwrite: remove what the folder holds first.

    Raises:
        FileExistsError: the folder holds something and neither ``resume`` nor ``overwrite`` is set.
        ValueError: the run to be resumed had other arguments, or the folder holds no run.
    """
    arguments = json.loads(json.dumps(arguments))
    record = folder / ARGUMENTS_FILE
    if overwrite and folder.exists():
        if not record.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds no run of this program (no {ARGUMENTS_FILE}): it is not overwritten.")
        shutil.rmtree(folder)
    # A record alone is of a run that was refused before it did anything: bad data, say.
    if folder.exists() and any(path != record for path in folder.iterdir()):
        if not resume:
            raise FileExistsError(
                f"The output folder {folder} holds another run. Continue it with --resume_from_checkpoint true, "
                "replace it with --overwrite_output_dir true, or choose another --output_dir."
            )
        refuse_other_arguments(record, arguments)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, arguments)


def refuse_other_arguments(record: Path, arguments: dict[str, Any]) -> None:
    """Raises a ValueError unless the recorded run had these arguments."""
    if not record.exists():
        raise ValueError(f"{record.parent} holds no run to resume (no {ARGUMENTS_FILE}): choose another --output_dir.")
    recorded = json.loads(record.read_text())
    changed = [
        f"{name} was {recorded.get(name)!r} and is {arguments.get(name)!r}"
        for name in sorted({*recorded, *arguments})
        if recorded.get(name) != arguments.get(name)
    ]
    if changed:
        raise ValueError(
            f"The output folder {record.parent} holds a run with other arguments: {'; '.join(changed)}. Resume with "
            "the same arguments, replace it with --overwrite_output_dir true, or choose another --output_dir."
        )


def last_checkpoint(folder: Path) -> str | None:
    """The latest complete Trainer checkpoint in a folder, or None; one that a killed run left unfinished is skipped."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if all((path / name).is_file() for name in CHECKPOINT_FILES) and is_json(path / "trainer_state.json"):
            return str(path)
    return None


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder as a whole: under another name first, which it gets only when it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def is_json(path: Path) -> bool:
    """Whether a file holds JSON and not the beginning of it."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True
