"""The VideoMAE that is trained on moving items: resuming, plans in training, judging, the table and the picture."""

import importlib
import json
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from transformers import AutoImageProcessor

from fatr_hf.benchmark.frontier import preset_within
from fatr_hf.modeling import schedule_macs

OPTIONS = ["--frames=4", "--side=16", "--patch_size=4", "--hidden_size=16", "--heads=2", "--layers=4", "--steps=6"]
OPTIONS += ["--batch_size=2", "--test_clips=5", "--finetune_steps=0"]

REFUSED = {
    "--size tiny": "invalid choice: 'tiny'",
    "--steps 0": "--steps 0 must be above 0",
    "--finetune_steps -1": "--finetune_steps -1 must not be negative",
    "--learning_rate 0": "--learning_rate 0.0 must be above 0",
    "--frames 5": "--frames 5 must be even",
    "--side 60": "--side 60 a multiple of --patch_size 8",
    "--hidden_size 33": "--hidden_size 33 must be a multiple of --heads 2",
    "--seed -1": "--seed -1 must not be negative",
    "--budgets 0.5 1.5": "--budgets 1.5 must lie between 0 and 1",
}


@pytest.fixture
def program():
    return importlib.import_module("moving_items")


@pytest.fixture
def sources(program):
    """Other items and photographs in the two splits."""
    generator = np.random.default_rng(0)
    squares = generator.integers(100, 256, (2, 28, 28), dtype=np.uint8)
    photographs = generator.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    return {
        split: program.Sources([{"image": PIL.Image.fromarray(square), "label": 0}], [photograph])
        for split, square, photograph in zip(("train", "test"), squares, photographs, strict=True)
    }


@pytest.fixture
def arguments(program, monkeypatch, tmp_path):
    """Reads a command line with further options."""

    def read(*options):
        words = ["moving_items.py", str(tmp_path / "items"), str(tmp_path / "run"), *OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", words)
        return program.read_arguments()

    return read


@pytest.fixture
def study(program, sources, arguments, tmp_path):
    """Makes the study of a command line."""

    def make(*options, folder="run"):
        given, size = arguments(*options)
        return program.Study(tmp_path / folder, size, sources, given.seed)

    return make


@pytest.fixture
def drawn(program, monkeypatch):
    """The seeds and indices of all clips that are drawn."""
    pairs = []
    draw = program.Clips.__getitem__
    monkeypatch.setattr(
        program.Clips, "__getitem__", lambda clips, index: pairs.append((clips.seed, index)) or draw(clips, index)
    )
    return pairs


@pytest.fixture
def plans_of_two(program, monkeypatch):
    """Two plans instead of fifteen."""

    def plans_of(twin, budgets):
        reduced = preset_within(twin.config, "faithful", budgets[0] * schedule_macs(twin.config)).plan()
        return {(1.0, "no reduction"): twin.config.plan(), (budgets[0], program.PICTURED): reduced}

    monkeypatch.setattr(program, "plans_of", plans_of)
    return plans_of


def test_windows_divide_each_axis_of_a_video():
    local_windows = importlib.import_module("task_arms").local_windows
    [(name, (preset, changes))] = local_windows((4, 8, 8), 8, 0.5).items()
    assert (name, preset) == ("FATR, `local`, windows of 4 patches a side", "local")
    assert changes == {"dc_windows": [[1, 2, 2]] * 3}
    [(_, (_, changes))] = local_windows((14, 14), 12, 0.5).items()
    assert changes == {"dc_windows": 3}


def test_pixel_values_are_those_of_the_processor(program, sources, arguments):
    size = arguments()[1]
    pixel_values = program.Clips(sources["train"], 1, size.frames, size.side, seed=0)[0]["pixel_values"]
    frames = ((pixel_values.movedim(1, 3) + 1) * 127.5).round().byte().numpy()
    found = program.base_processor(size)(list(frames), return_tensors="pt")["pixel_values"]
    assert_rounded_alike(found[0], pixel_values)


def test_no_two_parts_show_the_same_clips(study, sources):
    studies = [study(f"--seed={seed}", folder=str(seed)) for seed in (0, 1)]
    seeds = [part.seed for each in studies for part in (each.train, each.tune, each.test)]
    assert len(set(seeds)) == 6
    for each in studies:
        assert (each.train.sources, each.tune.sources, each.test.sources) == (
            sources["train"],
            sources["train"],
            sources["test"],
        )


def test_a_stopped_training_goes_on_with_the_clips_that_are_left(program, study, drawn, monkeypatch):
    expected = study(folder="whole").base()
    order = list(drawn)
    assert sorted(order) == [(0, index) for index in range(12)]
    draw, stopped_at = program.Clips.__getitem__, 9

    def stop(clips, index):
        if len(drawn) == len(order) + stopped_at:
            raise KeyboardInterrupt
        return draw(clips, index)

    with monkeypatch.context() as patch:
        patch.setattr(program.Clips, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            study().base()
    before = len(drawn)
    resumed = study()
    steps = json.loads(
        (program.Path(program.last_checkpoint(resumed.folder / "trainer")) / "trainer_state.json").read_text()
    )
    found = resumed.base()
    assert 0 < steps["global_step"] < 6
    assert drawn[before:] == order[2 * steps["global_step"] :]
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    before = len(drawn)
    study().base()
    assert len(drawn) == before
    found = AutoImageProcessor.from_pretrained(study().folder / "base")
    assert found.to_dict() == program.base_processor(study().size).to_dict()


def test_training_follows_the_plan(program, study, plans_of_two, monkeypatch):
    """The loss is the plan's, and so are the gradients that the trained weights come from."""
    made = study("--finetune_steps=2")
    model = made.base()
    whole, reduced = plans_of_two(model, [0.6]).values()
    lengths = []
    encoder = type(model.base_model)
    encode = encoder.encode
    monkeypatch.setattr(
        encoder,
        "encode",
        lambda self, pixel_values, plan, *args, **kwargs: (
            lengths.append([step.tokens_out for step in plan]) or encode(self, pixel_values, plan, *args, **kwargs)
        ),
    )
    tuned = [made.tuned(plan) for plan in (whole, reduced)]
    assert lengths == [[step.tokens_out for step in plan] for plan in (whole, whole, reduced, reduced)]
    for name, value in model.named_parameters():
        assert name.endswith("bias") or not torch.equal(value, tuned[1].get_parameter(name)), name
    assert not torch.equal(tuned[0].classifier.weight, tuned[1].classifier.weight)
    assert not tuned[1].training


def test_an_arm_is_judged_once(program, study, plans_of_two, drawn):
    made = study()
    model = made.base()
    name, plan = list(plans_of_two(model, [0.6]).items())[1]
    arm = made.arm(model, name, plan)
    pixel_values = torch.stack([made.test[index]["pixel_values"] for index in range(5)])
    with torch.no_grad():
        assert arm.predictions.tolist() == model(pixel_values, plan=plan).logits.argmax(dim=1).tolist()
    assert arm.tuned is None
    assert made.labels().tolist() == [made.test[index]["labels"] for index in range(5)]
    before = len(drawn)
    again = study().arm(model, name, plan)
    assert again.predictions.tolist() == arm.predictions.tolist()
    assert len(drawn) == before


def test_rows_hold_differences_of_the_same_clips(program):
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7])
    right, wrong = labels.copy(), np.array([0, 1, 2, 3, 5, 6, 7, 0])
    arms = {(1.0, "no reduction"): program.Arm(1, right, right), (0.5, "half"): program.Arm(0.49, wrong, right)}
    _, _, first, second = program.table(arms, labels).splitlines()
    unchanged = "100.0 | +0.0 (+0.0 to +0.0) | 100.0"
    assert first == f"| 1 | no reduction | 1.00 | {unchanged} | {unchanged} |"
    assert second.startswith("| 0.5 | half | 0.49 | 50.0 | -50.0 (")
    assert second.endswith(f") | 50.0 | {unchanged} |")
    low, high = (float(each) for each in second.split("(")[1].split(")")[0].split(" to "))
    assert low < -50 < high < 0
    untuned = {name: arm._replace(tuned=None) for name, arm in arms.items()}
    assert {line.count("|") for line in program.table(untuned, labels).splitlines()} == {7}


def test_the_program_prints_the_table_and_draws(program, sources, plans_of_two, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "read_sources", lambda folder: sources)
    words = ["moving_items.py", "items", str(tmp_path / "run"), *OPTIONS, "--finetune_steps=1", "--budgets=0.6"]
    monkeypatch.setattr(sys, "argv", [*words, f"--picture={tmp_path / 'kept.png'}"])
    program.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2
    assert rows[2].startswith("| 1 | no reduction | 1.00 | ")
    assert rows[2].count("+0.0 (+0.0 to +0.0)") == 2
    assert {row.count("|") for row in rows} == {10}
    assert (tmp_path / "run" / "results.md").read_text() == "\n".join(rows) + "\n"
    with PIL.Image.open(tmp_path / "kept.png") as picture:
        assert picture.width > 1000
    monkeypatch.setattr(sys, "argv", [*words[:-2], "--budgets=0.6", f"--picture={tmp_path / 'kept.gif'}"])
    program.main()  # without the trained arms, in the same folder
    with PIL.Image.open(tmp_path / "kept.gif") as clip:
        assert clip.n_frames > 1
    assert f"{rows[3].split(' | ')[3]} |" in capsys.readouterr().out


def test_a_run_with_other_settings_is_refused(study):
    study()
    study("--finetune_steps=3")
    (study().folder / "base").mkdir()
    with pytest.raises(
        ValueError, match=r"holds a run with other arguments: seed was 0 and is 1; steps was 6 and is 7"
    ):
        study("--steps=7", "--seed=1")


@pytest.mark.parametrize("words", REFUSED)
def test_options_out_of_range_are_refused(program, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["moving_items.py", "items", "output", *words.split()])
    with pytest.raises(SystemExit):
        program.main()
    assert REFUSED[words] in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_refused_at_once(program, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["moving_items.py", "items", "output", "--picture", str(tmp_path / "kept.txt")])
    with pytest.raises(ValueError, match=r"kept.txt cannot be written: its name must end in one of .png"):
        program.main()
