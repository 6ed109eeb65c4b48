"""The study in small: its parts against closed forms, and a whole run that goes on where it was interrupted."""

import importlib
import json
import re
import sys
from itertools import pairwise
from statistics import stdev

import numpy as np
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
)

from fatr_hf import FATRDinov2ForImageClassification, FATRViTConfig, FATRViTForImageClassification

TINY = "--layers 4 --hidden_size 16 --heads 2 --train_images 64 --test_images 40 --base_epochs 1 --bases 1 --seeds 2"
TINY = f"{TINY} --tune_images 32 --epochs 1 --keep_ratios 0.5 --batch_size 16"
CONFIG = {"image_size": 28, "patch_size": 2, "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192}

ENERGY = {"selection": "high_frequency_energy", "fold": "similar"}


def load(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def finished(folder, monkeypatch, capsys):
    """The folder of a whole study, whichever test comes first in its process."""
    if not (folder / "results.md").exists():
        run_study(folder, monkeypatch)
        capsys.readouterr()
    return folder


def run_study(folder, monkeypatch, words=TINY):
    monkeypatch.setattr(sys, "argv", ["study.py", "--output_dir", str(folder), *words.split()])
    load("study").main()


def test_whole_study(folder, monkeypatch, capsys):
    run_study(folder, monkeypatch)
    printed = capsys.readouterr().out
    assert (folder / "results.md").read_text() in printed
    arms = [arm.name for arm in load("study_arms").tuned_arms(ViTConfig(**CONFIG), 0.5)]
    assert len(arms) == len(set(arms)) >= 14
    assert {"energy, similar", "faithful"} <= {*arms}
    for arm in ("no reduction", *arms):
        assert f"| {arm} " in printed
    runs = sorted(path.name for path in (folder / "runs").glob("*seed*.json"))
    assert len(runs) == 2 * (len(arms) + 2)  # one without reduction, one for all budgets
    record = json.loads((folder / "runs" / "FATR at 0.5, seed 1.json").read_text())
    assert 0 <= record["after"] <= 1
    assert record["fields"] == {"keep_ratio": 0.5}


def test_study_goes_on_where_it_stopped(finished, monkeypatch, capsys):
    before = (finished / "results.md").read_text()
    runs = finished / "runs"
    others = {path: path.stat().st_mtime_ns for path in runs.iterdir() if path.name != "EViT at 0.5, seed 0.json"}
    (runs / "EViT at 0.5, seed 0.json").unlink()
    run_study(finished, monkeypatch)
    trained = [line for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert [line.split(":")[0] for line in trained] == ["EViT at 0.5, seed 0"]
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert (finished / "results.md").read_text() == before


def test_arms_are_added_to_a_finished_study(tmp_path, monkeypatch, capsys):
    """Also to one of the time when the record held them; their speed is measured beside that of the others."""
    words = f"{TINY} --extras false"
    run_study(tmp_path / "study", monkeypatch, f"{words} --arms FATR")
    runs, file = tmp_path / "study" / "runs", tmp_path / "study" / "run.json"
    record = {name: value for name, value in json.loads(file.read_text()).items() if value is not None}
    file.write_text(json.dumps({**record, "arms": ["FATR"]}))
    before = {path: path.stat().st_mtime_ns for path in runs.iterdir() if not path.name.startswith("speed")}
    capsys.readouterr()
    run_study(tmp_path / "study", monkeypatch, f"{words} --arms faithful")
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if "->" in line] == [
        "faithful at 0.5, seed 0",
        "faithful at 0.5, seed 1",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    speeds = json.loads((runs / "speed at 0.5.json").read_text())["images_per_second"]
    assert {*speeds} == {"no reduction", "FATR", "faithful"}
    for arm in speeds:
        assert f"| {arm} " in printed


def test_new_arms_are_tested_off_the_shelf_beside_the_recorded_ones(finished, monkeypatch):
    path = finished / "runs" / "off the shelf at 0.5, base 0.json"
    before = json.loads(path.read_text())
    marked = [{**row, "macs": 1} for row in before["arms"] if row["name"] != "faithful"]
    path.write_text(json.dumps({**before, "arms": marked}))
    run_study(finished, monkeypatch)
    after = json.loads(path.read_text())["arms"]
    assert [row["name"] for row in after] == [row["name"] for row in before["arms"]]
    assert {row["name"] for row in after if row["macs"] > 1} == {"faithful"}
    path.write_text(json.dumps(before))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{TINY} --epochs 3", "epochs was 1.0 and is 3.0"),
        ("--size huge", "--size huge must be one of cpu, evening, digits, short, full"),
        ("--preset moon_cells", "--preset moon_cells must be one of solar_cells"),
        ("--preset solar_cells --size digits", "--size digits must be one of short, evening, full"),
        ("--model_name_or_path ./here --layers 3", "--layers is for models from scratch: ./here has its own"),
        ("--preset solar_cells --extras true", "--extras is for models from scratch: leave it out beside outputs"),
        ("--mirror true --augment true", "--mirror and --augment are two ways"),
        ("--seeds 1", "--seeds 1 must be at least 2"),
        ("--batch_size 0", "--batch_size 0 must be above 0"),
        ("--coarse_epochs -1", "--coarse_epochs -1.0 must be 0 or more"),
        (f"{TINY} --arms nothing", "--arms 'nothing' must be among 'FATR', 'FATR without ω'"),
        ("--dataset ./nowhere", "'./nowhere' does not exist"),
    ],
    ids=[
        "other-arguments",
        "size",
        "preset",
        "size-of-preset",
        "shape-of-checkpoint",
        "extras-of-checkpoint",
        "mirror",
        "seeds",
        "batch",
        "coarse",
        "arm",
        "data",
    ],
)
def test_bad_arguments_are_refused_in_words(finished, monkeypatch, words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run_study(finished, monkeypatch, words)


@pytest.mark.parametrize("keep_ratio", [0.7, 0.5])
def test_all_arms_cost_the_same(keep_ratio):
    """Within what whole tokens allow; without DC tokens, or in ToMe's steps of whole merges, it is a little less."""
    arms = load("study_arms")
    config = ViTConfig(**CONFIG)
    chosen = [*arms.tuned_arms(config, keep_ratio), *arms.off_the_shelf_arms(config, keep_ratio)]
    fatr = chosen[0].macs
    assert chosen[0].name == "FATR"
    assert {arm.name for arm in chosen if abs(arm.macs / fatr - 1) > 0.03} == set()
    fields = next(arm for arm in chosen if arm.name == "faithful").fields
    layers = [4, 5, 6, 7] if keep_ratio == 0.7 else [*range(3, 10)]
    assert fields == {"keep_ratio": fields["keep_ratio"], "reduction_layers": layers, **ENERGY}
    assert fatr < 0.65 * arms.unreduced_arm(config).macs


def test_interval_is_students():
    report = load("study_report")
    values = [1.0, 2.0, 4.0]
    result = report.interval(values)
    assert result.mean == pytest.approx(7 / 3)
    assert result.deviation == pytest.approx(stdev(values))
    assert result.half_width == pytest.approx(4.302653 * stdev(values) / 3**0.5, rel=1e-5)  # t of 2 degrees, 97.5%


def test_differences_are_paired_by_seed():
    """Both arms vary by whole points from seed to seed, their difference does not."""
    report = load("study_report")
    runs = [
        {"arm": arm, "keep_ratio": ratio, "seed": seed, "macs": 100, "before": 0.5, "after": base + gain}
        for seed, base in enumerate((0.80, 0.84, 0.82))
        for arm, ratio, gain in (("no reduction", None, 0.0), ("FATR", 0.5, 0.01))
    ]
    table = report.tuned_table(runs, {})
    row = next(line for line in table.splitlines() if line.startswith("| FATR"))
    assert "83.00 ± 2.00" in row
    assert "+1.00 ± 0.00" in row


def test_crops_are_shifts_and_mirrors():
    data = load("study_data")
    torch.manual_seed(0)
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, [1] * 4)[0, 0]
    windows = [padded[row : row + 8, column : column + 8] for row in range(3) for column in range(3)]
    expected = [*windows, *(window.flip(1) for window in windows)]
    seen = set()
    for crop in data.crop_and_flip(image.expand(200, -1, -1, -1))[:, 0]:
        places = [place for place, window in enumerate(expected) if torch.equal(window, crop)]
        assert len(places) == 1
        seen.update(places)
    assert seen == set(range(18))


def test_erasing_takes_a_rectangle_from_some_images():
    data = load("study_data")
    torch.manual_seed(0)
    erased = (data.erase_at_random(torch.ones(400, 3, 16, 16)) == 0).all(dim=1)
    is_erased = erased.flatten(1).any(dim=1)
    assert 0.15 < is_erased.float().mean() < 0.35
    for mask in erased[is_erased]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert all(3 <= int(side.sum()) <= 9 for side in (rows, columns))


def test_accuracy_between_two_schedules_is_interpolated():
    budgets = load("study_budgets")
    fixed = [{"macs": 200.0, "accuracy": 0.9}, {"macs": 100.0, "accuracy": 0.7}]
    assert [budgets.accuracy_at(fixed, macs) for macs in (50, 100, 150, 200, 300)] == pytest.approx(
        [0.7, 0.7, 0.8, 0.9, 0.9]
    )


def test_plain_patches_and_what_becomes_of_them():
    background, data = load("study_background"), load("study_data")
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    pixels[1:, :, 8:24, 8:24] = torch.randint(255, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    plain = background.plain_patches(pixels, (8, 8))
    assert plain.sum(dim=1).tolist() == [64, 48, 48, 48]
    config = FATRViTConfig(
        image_size=32, patch_size=4, hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=4,
        attn_implementation="eager",
    )  # fmt: skip
    model = FATRViTForImageClassification(config).eval()
    rows = background.background_rows(model, data.TensorImages(pixels, torch.zeros(4, dtype=torch.int64)))
    assert [row["layer"] for row in rows] == [1, 2, 3]
    for row, tokens in zip(rows, (44, 30, 21), strict=True):
        assert row["plain"] == pytest.approx(0.75)
        kept = 48 * row["kept"] + 16 * row["kept_of_others"]
        assert kept == pytest.approx(tokens, abs=1e-3)
    assert background.background_rows(model, data.TensorImages(pixels[:1], torch.zeros(1, dtype=torch.int64))) == []


def test_arms_without_enough_seeds_are_left_out():
    report = load("study_report")
    runs = [
        {"arm": arm, "keep_ratio": None, "seed": seed, "macs": 100, "before": 0.5, "after": 0.6}
        for arm, seeds in (("no reduction", 2), ("FATR", 2), ("EViT", 1))
        for seed in range(seeds)
    ]
    table = report.tuned_table(runs, {})
    assert "| FATR " in table
    assert "EViT" not in table


def test_study_of_an_image_folder(tmp_path):
    """Images of any size, in one folder per class; sides of about 14 patches."""
    generator = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "images" / f"class-{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(generator.integers(0, 255, (60, 50, 3), dtype=np.uint8)).save(path)
    arguments = load("study_arguments").StudyArguments(
        dataset=str(tmp_path / "images"), size="cpu", output_dir=str(tmp_path / "study"), train_images=10
    )
    study = load("study").Study(arguments)
    assert (study.config.image_size, study.config.patch_size) == (48, 3)
    assert study.config.num_labels == 3
    assert study.train.pixels.shape == (10, 3, 48, 48)
    assert sorted(study.test.labels.unique().tolist()) == [0, 1, 2]


@pytest.fixture
def cells(tmp_path):
    """A pretrained encoder and pictures of two classes, one of them rare, under the names of the preset's."""
    torch.manual_seed(0)
    config = Dinov2Config(
        image_size=32, patch_size=4, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2
    )
    encoder = Dinov2Model(config)
    encoder.save_pretrained(tmp_path / "outputs" / "dinov2")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    BitImageProcessor(image_mean=mean, image_std=std).save_pretrained(tmp_path / "outputs" / "dinov2")
    generator = np.random.default_rng(0)
    for part, name, number, level in (
        ("train", "defective", 12, 60),
        ("train", "functional", 24, 160),
        ("test", "defective", 5, 60),
        ("test", "functional", 15, 160),
    ):
        for each in range(number):
            path = tmp_path / "outputs" / "solar-cells" / part / name / f"{each}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.normal(level, 30, (30, 30)).clip(0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(path)
    return encoder


def test_study_of_a_checkpoint(cells, tmp_path, monkeypatch, capsys):
    """All arms start from one linear classifier on the encoder, and each seed has a teacher that was trained."""
    monkeypatch.chdir(tmp_path)
    words = "--preset solar_cells --size evening --image_size 32 --seeds 2 --keep_ratios 0.7 --train_images 24"
    run_study(tmp_path / "study", monkeypatch, words)
    printed = capsys.readouterr().out
    for arm in ("no reduction", "FATR", "faithful", "ToMe", "EViT"):
        assert f"| {arm} " in printed
    assert "random selection" not in printed
    assert "balanced, %" in printed
    record = json.loads((tmp_path / "study" / "runs" / "ToMe at 0.7, seed 1.json").read_text())
    hits = {round(20 * record["after"], 6), round(30 * record["balanced"], 6)}
    assert all(number == round(number) for number in hits)  # of 20 images; of 5 of the one and 15 of the other class
    run = json.loads((tmp_path / "study" / "run.json").read_text())
    assert (run["model_name_or_path"], run["image_size"], run["mirror"]) == ("outputs/dinov2", 32, True)
    base, *teachers = (
        FATRDinov2ForImageClassification.from_pretrained(tmp_path / "study" / name)
        for name in ("base-0", "teacher-0", "teacher-1")
    )
    own = base.dinov2.state_dict()
    assert torch.equal(own["embeddings.position_embeddings"], cells.embeddings.position_embeddings)
    assert torch.equal(own["layernorm.weight"], cells.layernorm.weight)
    heads = [model.classifier.weight for model in (base, *teachers)]
    assert not any(torch.equal(one, other) for one, other in pairwise(heads))
    run_study(tmp_path / "study", monkeypatch, words)
    assert "->" not in capsys.readouterr().out


def test_pixels_are_normalised_as_the_checkpoint_wants_them():
    data = load("study_data")
    pixels = torch.randint(255, (2, 3, 4, 4), dtype=torch.uint8)
    images = data.TensorImages(pixels, torch.zeros(2, dtype=torch.int64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    expected = (pixels.double() / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    assert_rounded_alike(images.first(1).batch([0])["pixel_values"], expected[:1].float())
    plain = data.TensorImages(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2), torch.zeros(1))
    assert plain.as_pixel_values(plain.pixels)[0, 0, 0].tolist() == [-1.0, 1.0]


def test_mirrored_images_are_the_four_ways_to_see_them():
    data = load("study_data")
    torch.manual_seed(0)
    pixels = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).expand(200, 3, -1, -1)
    images = data.TensorImages(pixels, torch.zeros(200, dtype=torch.int64), (0.0,) * 3, (1 / 255,) * 3)
    batch = images.mirrored_batch([*range(200)])["pixel_values"][:, 0].round().int()
    first = pixels[0, 0].int()
    expected = {str(each.tolist()) for each in (first, first.flip(0), first.flip(1), first.flip(0, 1))}
    assert {str(each.tolist()) for each in batch} == expected


def test_uneven_classes_are_judged_by_the_mean_of_their_shares_too():
    data = load("study_data")
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2])
    images = data.TensorImages(torch.zeros(8, 3, 1, 1, dtype=torch.uint8), labels)
    predicted = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2])
    assert images.scores(predicted) == {"accuracy": 5 / 8, "balanced": 0.75}
    assert images.first(4).scores(torch.tensor([0, 0, 0, 0])) == {"accuracy": 0.5}


def test_a_halved_patch_has_the_embedding_of_its_magnified_self():
    patches = load("study_patches")
    torch.manual_seed(0)
    config = ViTConfig(**CONFIG, num_hidden_layers=1)
    coarse = ViTForImageClassification(patches.with_coarse_patches(config))
    fine = patches.with_halved_patches(coarse, config)
    assert (coarse.config.patch_size, fine.config.patch_size) == (4, 2)
    pixels = torch.randn(2, 3, 28, 28)
    embed = fine.vit.embeddings.patch_embeddings(pixels).unflatten(1, (14, 14))
    magnified = torch.nn.functional.interpolate(pixels[:, :, 4:8, 20:24], scale_factor=2, mode="nearest")
    expected = coarse.vit.embeddings.patch_embeddings.projection(magnified).flatten(2).transpose(1, 2)
    assert_rounded_alike(embed[:, 2:4, 10:12].flatten(1, 2), expected)


def test_halved_patches_keep_the_rest_and_lie_between_the_old_positions():
    patches = load("study_patches")
    config = ViTConfig(**CONFIG, num_hidden_layers=1)
    coarse = ViTForImageClassification(patches.with_coarse_patches(config))
    rows = torch.arange(7.0).repeat_interleave(7)
    with torch.no_grad():
        coarse.vit.embeddings.position_embeddings[0, 1:] = rows[:, None]
    fine = patches.with_halved_patches(coarse, config)
    old, new = coarse.vit.embeddings.position_embeddings, fine.vit.embeddings.position_embeddings
    assert torch.equal(new[:, :1], old[:, :1])
    inner = new[0, 1:].unflatten(0, (14, 14))[3:-3, 3:-3]
    expected = (torch.arange(3.0, 11.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(inner, expected[:, None, None].expand_as(inner), atol=0.05, rtol=0)
    different = {
        name for name, tensor in fine.state_dict().items() if not torch.equal(tensor, coarse.state_dict()[name])
    }
    assert different == {"vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.position_embeddings"}


def test_coarse_epochs_train_before_the_others(tmp_path, monkeypatch, capsys):
    words = f"{TINY} --arms FATR --coarse_epochs 2"
    run_study(tmp_path / "study", monkeypatch, words)
    stages = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("base 0")]
    assert stages == ["base 0, 2 epochs", "base 0, 1 epochs"]


def test_patches_that_cannot_be_doubled_are_refused():
    config = ViTConfig(**{**CONFIG, "image_size": 26})
    with pytest.raises(ValueError, match="wants patches of 4 pixels, twice the patch size 2, and the image size 26"):
        load("study_patches").with_coarse_patches(config)
