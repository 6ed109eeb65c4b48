"""The folder of a training run: never two runs in one, nothing half-written, checkpoints that are complete."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

ARGUMENTS_FILE = "run.json"

TRAINER_STATE = "trainer_state.json"
"""What process 0 writes last."""

CHECKPOINT_LAYOUTS = (
    ("model.safetensors", "optimizer.pt", "scheduler.pt"),
    ("model.safetensors.index.json", "optimizer.pt", "scheduler.pt"),
    # peft's adapters, without the model under them.
    ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt"),
    # FSDP with a full state dict, and with a sharded one, whose .metadata is written when every process has its part.
    ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt"),
    ("pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "scheduler.pt"),
    # DeepSpeed names the folder of its states here, and does so last.
    ("latest",),
)
"""What a Trainer checkpoint needs for resuming beside its state: the files of one of these."""


def check_run_folder(folder: Path, arguments: dict[str, Any], resume: bool, overwrite: bool = False) -> None:
    """Checks that a folder may become this run's own; writes nothing.

    Args:
        folder: may be absent.
        arguments: what the result depends on; JSON values.
        resume: continue the run that the folder holds; it must have had the same arguments.
        overwrite: what the folder holds is to be removed by ``claim_run_folder``.

    Raises:
        FileExistsError: the folder holds something and neither ``resume`` nor ``overwrite`` is set.
        ValueError: the run to be resumed had other arguments, or the folder holds no run.
    """
    record = folder / ARGUMENTS_FILE
    # A record alone is of a run that ended before it had a result.
    if not folder.exists() or all(path == record for path in folder.iterdir()):
        return
    if overwrite:
        if not record.exists():
            raise ValueError(f"{folder} holds no run of this program (no {ARGUMENTS_FILE}): it is not overwritten.")
    elif not resume:
        raise FileExistsError(
            f"The output folder {folder} holds another run. Continue it with --resume_from_checkpoint true, "
            "replace it with --overwrite_output_dir true, or choose another --output_dir."
        )
    else:
        check_same_arguments(record, json.loads(json.dumps(arguments)))


def claim_run_folder(folder: Path, arguments: dict[str, Any], resume: bool, overwrite: bool = False) -> None:
    """Makes a folder this run's own, with a record of its arguments, or refuses; as for ``check_run_folder``."""
    check_run_folder(folder, arguments, resume, overwrite)
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not any(path.name != ARGUMENTS_FILE for path in folder.iterdir()):
        write_json(folder / ARGUMENTS_FILE, arguments)


def check_same_arguments(record: Path, arguments: dict[str, Any]) -> None:
    """Raises a ValueError unless the recorded run had these arguments; it may have recorded further ones."""
    if not record.exists():
        raise ValueError(f"{record.parent} holds no run to resume (no {ARGUMENTS_FILE}): choose another --output_dir.")
    recorded = json.loads(record.read_text())
    changed = [
        f"{name} was {recorded.get(name)!r} and is {value!r}"
        for name, value in sorted(arguments.items())
        if recorded.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"The output folder {record.parent} holds a run with other arguments: {'; '.join(changed)}. Resume with "
            "the same arguments, choose another folder, or remove this one."
        )


def last_checkpoint(folder: Path, processes: int | None = None) -> str | None:
    """The latest complete Trainer checkpoint in a folder, or None; one that a killed run left unfinished is skipped.

    Args:
        folder: holds ``checkpoint-*`` folders as the Trainer writes them: plain, FSDP's or DeepSpeed's.
        processes: how many wrote them, where known: the random state of each must be there then.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if is_complete(path, processes):
            return str(path)
    return None


def is_complete(checkpoint: Path, processes: int | None = None) -> bool:
    """Whether a checkpoint holds all that resuming needs, and none of its files breaks off."""
    has_layout = any(all((checkpoint / name).is_file() for name in layout) for layout in CHECKPOINT_LAYOUTS)
    if not has_layout or not is_json(checkpoint / TRAINER_STATE):
        return False
    index, latest = checkpoint / "model.safetensors.index.json", checkpoint / "latest"
    if index.is_file() and not (is_json(index) and has_all_shards(index)):
        return False
    if latest.is_file() and not any((checkpoint / latest.read_text().strip()).glob("*_states.pt")):
        return False
    # The other processes write their random states while process 0 goes on.
    states = {path.name for path in checkpoint.glob("rng_state_*.pth")}
    expected = {f"rng_state_{index}.pth" for index in range(processes or len(states))}
    return (processes == 1 or states == expected) and all(is_whole(path) for path in checkpoint.rglob("*"))


def has_all_shards(index: Path) -> bool:
    """Whether every weights file that an index names is there."""
    names = set(json.loads(index.read_text())["weight_map"].values())
    return all((index.parent / name).is_file() for name in names)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder as a whole: under another name first, which it gets only when it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON as a whole or not at all, also where several processes write the same file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def is_json(path: Path) -> bool:
    """Whether a file is there and holds JSON and not the beginning of it."""
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def is_whole(path: Path) -> bool:
    """Whether a file of tensors reaches to its end, as its own table of contents says; true of any other file."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return True
        except SafetensorError:
            return False
    # torch.save writes a zip file, whose table of contents stands at its end.
    return path.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(path)
