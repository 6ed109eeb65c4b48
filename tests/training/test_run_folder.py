import json

import pytest
import torch
from safetensors.torch import save_file

from fatr_hf.training.run_folder import claim_run_folder, last_checkpoint, write_folder, write_json

ARGUMENTS = {"learning_rate": 0.1, "layers": [3, 6]}


PLAIN = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
FULL_STATE = ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth")
SHARDED = (
    *("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/.metadata"),
    *("optimizer_0/__0_0.distcp", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"),
)
DEEPSPEED = (
    *("latest", "global_step4/mp_rank_00_model_states.pt", "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    *("rng_state_0.pth", "rng_state_1.pth"),
)
ADAPTER = ("adapter_model.safetensors", "adapter_config.json", *PLAIN[1:])
LAYOUTS = {"plain": PLAIN, "adapter": ADAPTER, "fsdp-full": FULL_STATE, "fsdp-sharded": SHARDED, "deepspeed": DEEPSPEED}


def write_checkpoint(folder, step, without=None, layout=PLAIN):
    """A folder such as the Trainer leaves, with or without one of its files."""
    path = folder / f"checkpoint-{step}"
    for name in (*layout, "trainer_state.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if name == without:
            continue
        if name.endswith(".safetensors"):
            save_file({"weight": torch.zeros(3)}, path / name)
        elif name.endswith((".pt", ".pth", ".bin")):
            torch.save({"weight": torch.zeros(3)}, path / name)
        else:
            (path / name).write_text("global_step4" if name == "latest" else "{}")
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


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_checkpoints_of_every_launcher_are_recognised(tmp_path, layout):
    complete = write_checkpoint(tmp_path, 1, layout=layout)
    assert last_checkpoint(tmp_path) == str(complete)
    # Which of these there are depends on the number of processes.
    parts = (".distcp", "_states.pt", "rng_state.pth", "rng_state_0.pth", "rng_state_1.pth")
    for step, name in enumerate((name for name in layout if not name.endswith(parts)), start=2):
        write_checkpoint(tmp_path, step, without=name, layout=layout)
    assert last_checkpoint(tmp_path) == str(complete)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_checkpoints_with_a_file_that_breaks_off_are_skipped(tmp_path, name):
    complete = write_checkpoint(tmp_path, 1)
    broken = write_checkpoint(tmp_path, 2) / name
    broken.write_bytes(broken.read_bytes()[:-20])
    assert last_checkpoint(tmp_path) == str(complete)


def test_random_state_of_every_process_is_needed(tmp_path):
    complete = write_checkpoint(tmp_path, 1, layout=FULL_STATE)
    write_checkpoint(tmp_path, 2, layout=FULL_STATE, without="rng_state_0.pth")
    assert last_checkpoint(tmp_path) == str(complete)
    assert last_checkpoint(tmp_path, processes=2) == str(complete)
    assert last_checkpoint(tmp_path, processes=3) is None


def test_weights_in_several_files_must_all_be_there(tmp_path):
    layout = ("model.safetensors.index.json", "model-1-of-1.safetensors", *PLAIN[1:])
    path = write_checkpoint(tmp_path, 1, layout=layout)
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"weight": "model-1-of-1.safetensors"}}')
    assert last_checkpoint(tmp_path) == str(path)
    (path / "model-1-of-1.safetensors").unlink()
    assert last_checkpoint(tmp_path) is None


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
