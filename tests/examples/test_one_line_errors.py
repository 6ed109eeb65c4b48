"""Every example answers a mistake with one line and the code 2."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

MISTAKES = {
    "ablation.py": (["./nowhere"], "No checkpoint can be read from './nowhere'"),
    "compare_kept_tokens.py": (["./nowhere"], "./nowhere"),
    "demo/app.py": (["--model", "./nowhere"], "No checkpoint can be read from './nowhere'"),
    "dinov2_from_package.py": (["{tmp}/file", "{tmp}"], "{tmp}"),
    "export.py": (["--model", "m", "--format", "pt2", "--output", "{tmp}"], "must be a new or an empty folder"),
    "family_speed.py": (["--rounds", "0"], "--rounds 0 must be at least 1"),
    "finetune.py": (["--preset", "imagenet"], "--preset imagenet must be one of"),
    "http_load.py": (["--url", "http://127.0.0.1:1", "--top_k", "3"], "leave out --top_k 3"),
    "http_server.py": (["--model", "m", "--max_queue", "0"], "--max_queue 0 must be at least 1"),
    "moving_items.py": (["./nowhere", "{tmp}/new"], "nowhere has neither train-images-idx3-ubyte"),
    "linear_probe.py": (["m", "digits", "{tmp}"], "is there already, and no empty folder"),
    "solar_cells.py": (["{tmp}"], "is there already, and no empty folder"),
    "segmentation.py": (["m", "./nowhere"], "nowhere has neither train-images-idx3-ubyte"),
    "untrained_ablation.py": (["nobody/nothing", "photographs"], "No checkpoint can be read"),
    "patch_detection.py": (["m", "./nowhere"], "nowhere has neither train-images-idx3-ubyte"),
    "photograph_crops.py": (["{tmp}/new", "--size", "0"], "--size 0 must be a positive integer"),
    "score.py": (["--model", "m", "--images", "i", "--output", "o", "--top_k", "0"], "--top_k 0 must be at least 1"),
    "study.py": (["--dataset", "./nowhere"], "source='./nowhere' does not exist"),
}


def programs():
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("demo/*.py")]
    return {path.relative_to(EXAMPLES).as_posix() for path in files if "run_program(main)" in path.read_text()}


def test_every_program_is_here():
    assert programs() == {*MISTAKES}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("asks", [False, True], ids=["line", "traceback"])
def test_a_mistake_is_one_line_unless_the_traceback_is_asked_for(name, asks, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("something")
    options, words = MISTAKES[name]
    options = [option.format(tmp=tmp_path) for option in options] + ["--traceback"] * asks
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *options])
    monkeypatch.syspath_prepend(EXAMPLES / "demo")
    if asks:
        with pytest.raises((OSError, ValueError), match=r"\w"):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert ended.value.code == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert words.format(tmp=tmp_path) in line
