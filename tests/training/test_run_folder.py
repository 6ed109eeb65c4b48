import json

import pytest

from fatr_hf.training.run_folder import claim_run_folder, last_checkpoint, write_folder, write_json

ARGUMENTS = {"learning_rate": 0.1, "layers": [3, 6]}


def write_checkpoint(folder, step, without=None):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        if name != without:
            (path / name).write_text("{}")
    return path


def test_a_new_or_empty_folder_is_claimed(tmp_path):
    claim_run_folder(tmp_path / "deep" / "run", ARGUMENTS, resume=False)
    assert json.loads((tmp_path / "deep" / "run" / "run.json").read_text()) == ARGUMENTS
    (tmp_path / "empty").mkdir()
    claim_run_folder(tmp_path / "empty", ARGUMENTS, resume=True)


def test_a_run_that_did_nothing_leaves_the_folder_free(tmp_path):
    claim_run_folder(tmp_path, ARGUMENTS, resume=False)
    claim_run_folder(tmp_path, {"learning_rate": 1}, resume=False)
    assert json.loads((tmp_path / "run.json").read_text()) == {"learning_rate": 1}


def test_another_run_is_refused_and_left_as_it_is(tmp_path):
    claim_run_folder(tmp_path, ARGUMENTS, resume=False)
    (tmp_path / "result").write_text("precious")
    with pytest.raises(FileExistsError, match=r"--resume_from_checkpoint true.*--overwrite_output_dir true"):
        claim_run_folder(tmp_path, ARGUMENTS, resume=False)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.1 and is 0\.2"):
        claim_run_folder(tmp_path, {**ARGUMENTS, "learning_rate": 0.2}, resume=True)
    claim_run_folder(tmp_path, ARGUMENTS, resume=True)
    assert (tmp_path / "result").read_text() == "precious"


def test_overwriting_removes_a_run_and_nothing_else(tmp_path):
    claim_run_folder(tmp_path / "run", ARGUMENTS, resume=False)
    (tmp_path / "run" / "old").write_text("")
    claim_run_folder(tmp_path / "run", {"learning_rate": 1}, resume=False, overwrite=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "cat.jpg").write_text("")
    with pytest.raises(ValueError, match="holds no run"):
        claim_run_folder(photographs, ARGUMENTS, resume=False, overwrite=True)
    with pytest.raises(ValueError, match="holds no run to resume"):
        claim_run_folder(photographs, ARGUMENTS, resume=True)
    assert (photographs / "cat.jpg").exists()


def test_last_checkpoint_skips_unfinished_ones(tmp_path):
    assert last_checkpoint(tmp_path / "missing") is None
    complete = write_checkpoint(tmp_path, 9)
    write_checkpoint(tmp_path, 10, without="optimizer.pt")
    write_checkpoint(tmp_path, 11, without="trainer_state.json")
    (write_checkpoint(tmp_path, 100) / "trainer_state.json").write_text('{"epoch": ')
    (tmp_path / "checkpoint-notes").mkdir()
    assert last_checkpoint(tmp_path) == str(complete)


def test_folders_and_files_appear_whole_or_not_at_all(tmp_path):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("disk full")

    write_folder(tmp_path / "model", lambda folder: (folder / "first").write_text(""))
    with pytest.raises(RuntimeError, match="disk full"):
        write_folder(tmp_path / "model", fail)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["first"]
    write_folder(tmp_path / "model", lambda folder: (folder / "second").write_text(""))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    assert not (tmp_path / "model.partial").exists()
    write_json(tmp_path / "results.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "results.json", {"a": object()})
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}
