"""The optuna study behind a search: a SQLite file in which it goes on as if it had never been stopped.

Samplers keep their random state in memory, which ends with the process. So every trial gets a sampler of its own, with
a seed from that of the search and the number of finished trials, and what it draws follows from the study alone.
"""

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STUDY_NAME = "fatr-hf search"


def import_optuna() -> Any:
    """The module optuna.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("A search needs optuna: pip install 'fatr-hf[analysis]'.") from error
    return optuna


@contextmanager
def open_study(path: str | Path | None, directions: Sequence[str], fingerprint: Mapping[str, Any]) -> Iterator[Any]:
    """A study, new or from a file. Trials that an earlier process left unfinished have failed.

    Args:
        path: SQLite file; None keeps the study in memory.
        directions: ``minimize`` or ``maximize``, of cost and quality.
        fingerprint: what all trials of the study must have in common, as JSON values.

    Raises:
        ImportError: optuna is not installed.
        ValueError: a file that is no study, or the study of another search.
    """
    optuna = import_optuna()
    if path is not None:
        check_study_file(path)
    storage = optuna.storages.InMemoryStorage() if path is None else optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=directions, load_if_exists=True)
        check_same_search(study, json.loads(json.dumps(fingerprint)))
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        yield study
    finally:
        storage.remove_session()
        if path is not None:
            storage.engine.dispose()


def check_study_file(path: str | Path) -> None:
    """Raises a ValueError for a file that holds something else than a study, or cannot be written."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            verdicts = connection.execute("PRAGMA quick_check(1)").fetchall()
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be used as the file of a search: {error}.") from error
    if verdicts != [("ok",)] or (tables and ("studies",) not in tables):
        raise ValueError(f"{path} is damaged, or holds something else than a search: choose another file.")


def check_same_search(study: Any, fingerprint: Mapping[str, Any]) -> None:
    """Raises a ValueError where a study was made by another search; a new study becomes this one's."""
    found = study.user_attrs.get("fingerprint")
    if found is None:
        study.set_user_attr("fingerprint", fingerprint)
    elif found != fingerprint:
        names = sorted(found.keys() | fingerprint.keys())
        different = [name for name in names if found.get(name) != fingerprint.get(name)]
        raise ValueError(
            f"The study is that of a search with another {', '.join(different)}: search with what it was made with, or "
            "choose another file."
        )


def digest(parts: Iterable[str | Tensor]) -> str:
    """SHA-256 of texts, and of tensors' dtypes, shapes and bytes, in hexadecimal digits."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            result.update(f"{part.dtype} {tuple(part.shape)}".encode())
            result.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            result.update(part.encode())
    return result.hexdigest()


def finished_trials(study: Any) -> list[Any]:
    """Trials that are complete or given up, in their order."""
    states = import_optuna().trial.TrialState
    return study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))


def ask(study: Any, seed: int, known: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """The next trial: one of the known ones, then those that a sampler draws (TPE with several objectives).

    Every other one takes each parameter on its own, which explores, and the rest all of them together, which refines.

    Args:
        study: of ``open_study``.
        seed: of the search.
        known: names and parameters of the first trials; the name becomes the trial's attribute ``name``.
    """
    optuna = import_optuna()
    finished = len(finished_trials(study))
    sampler_seed = random.Random(f"seed {seed}, trial {finished}").getrandbits(32)
    study.sampler = optuna.samplers.TPESampler(multivariate=finished % 2 == 1, seed=sampler_seed)
    # One may wait already, where a process ended before it could ask for it.
    if finished < len(known) and not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
        name, parameters = known[finished]
        study.enqueue_trial(dict(parameters), user_attrs={"name": name})
    return study.ask()
