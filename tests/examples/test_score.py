"""Every picture has one row, in order, whatever happens to the run and wherever its actors are."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from rounding import assert_rounded_alike
from transformers import ViTImageProcessor

from fatr_hf import FATRViTForImageClassification
from fatr_hf.analysis.images import NamedImage, to_batch

ROOT = Path(__file__).parents[2]
SCORE = ROOT / "examples" / "score.py"

KILLED_IN_THE_SECOND_SHARD = """
import os, runpy, signal, sys
written = []
def count(file, fsync=os.fsync):
    fsync(file)
    written.append(file)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = count
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Scores until all bytes of the second shard are on the disk, under its hidden name."""


@pytest.fixture
def on_ray(importable_examples):
    """The program as it is; its Ray is this module's."""
    return importlib.import_module("score")


@pytest.fixture
def module(on_ray, monkeypatch):
    """The program with one actor in this process, which starts sooner than Ray's."""
    actors = importlib.import_module("score_actors")

    def score_here(work, batches):
        monkeypatch.setattr(actors.ray, "get", lambda reference: reference)
        actor = actors.Actor(work, torch.get_num_threads(), reads=True, scores=True)
        return (actor(pa.table({"index": list(batch)})) for batch in batches)

    monkeypatch.setattr(on_ray, "running_ray", contextlib.nullcontext)
    monkeypatch.setattr(on_ray, "score_batches", score_here)
    return on_ray


@pytest.fixture
def model_folder(make_fatr, tmp_path):
    folder = tmp_path / "model"
    make_fatr(id2label={number: f"class {number}" for number in range(5)}).double().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Eleven pictures of several sizes and modes, in order of their paths below a folder."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for index in range(11):
        height, width = generator.integers(20, 60, 2)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / "ab"[index // 6] / f"{index:02d}.{'png' if index % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).convert("L" if index == 4 else "RGB").save(path)
    return folder


def words(model, images, output, *more):
    """Options of a run in shards of 4 pictures, in batches of 3."""
    sizes = ["--shard_size", "4", "--batch_size", "3"]
    return ["--model", str(model), "--images", str(images), "--output", str(output), *sizes, *more]


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["score.py", *words(*arguments)])
    module.main()
    return rows_of(arguments[2])


def rows_of(output):
    return [row for path in sorted(output.glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def assert_same(found, expected):
    """Rows of runs on different numbers of threads, by which rounding may differ."""
    probabilities = [[row.pop("probabilities") for row in rows] for rows in (found, expected)]
    assert found == expected
    assert_rounded_alike(*map(torch.tensor, probabilities))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected_logits(model, folder, names):
    processor = ViTImageProcessor.from_pretrained(folder)
    images = [NamedImage("", PIL.Image.open(name)) for name in names]
    with torch.no_grad():
        return model(to_batch(images, processor).pixel_values).logits


def test_every_picture_has_its_row_in_order(module, model_folder, pictures, tmp_path, monkeypatch, capsys):
    rows = run(module, monkeypatch, model_folder, pictures, tmp_path / "out", "--top_k", "2", "--logits", "--embedding")
    files = sorted(pictures.rglob("*.*"))
    assert [row["index"] for row in rows] == list(range(11))
    assert [row["name"] for row in rows] == [path.relative_to(pictures).as_posix() for path in files]
    assert {row["error"] for row in rows} == {None}
    model = FATRViTForImageClassification.from_pretrained(model_folder)
    logits = expected_logits(model, model_folder, files)
    assert_rounded_alike(torch.tensor([row["logits"] for row in rows]), logits, torch.float32)
    tokens = torch.tensor([row["embedding"] for row in rows])
    assert_rounded_alike(model.classifier(tokens.double()).detach(), logits, torch.float32)
    best = logits.softmax(dim=1).topk(2)
    assert [row["classes"] for row in rows] == best.indices.tolist()
    assert [row["labels"] for row in rows] == [[f"class {number}" for number in row] for row in best.indices.tolist()]
    assert_rounded_alike(torch.tensor([row["probabilities"] for row in rows]), best.values, torch.float32)
    assert sorted(content(tmp_path / "out")) == [
        ".manifest.json",
        *(f"shard-0000{index}-of-00003.parquet" for index in range(3)),
    ]
    assert re.search(
        r"11 images, 0 of them cannot be read; 11 computed now in \d+ s, [\d.]+ images/s", capsys.readouterr().out
    )


def test_datasets_reads_the_result(module, model_folder, pictures, tmp_path, monkeypatch):
    rows = run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    loaded = load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == rows


@pytest.fixture(scope="module")
def ray_of_two_cores():
    """A Ray that has two cores, and says that it has a GPU."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init("local", num_cpus=2, num_gpus=1, object_store_memory=80 * 2**20, **quiet)
    yield
    ray.shutdown()


def test_readers_and_a_scorer_finish_what_killed_actors_began(
    on_ray, ray_of_two_cores, model_folder, broken, tmp_path, monkeypatch, capsys
):
    arguments = (model_folder, broken, tmp_path / "out", "--logits")
    killed = [sys.executable, "-c", KILLED_IN_THE_SECOND_SHARD, str(SCORE), *words(*arguments), "--actors", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(killed, env=environment, timeout=240).returncode == -signal.SIGKILL
    first, second = (f"shard-0000{index}-of-00003.parquet" for index in range(2))
    assert set(content(tmp_path / "out")) == {".manifest.json", first, f".{second}.partial"}
    before = (tmp_path / "out" / first).stat().st_mtime_ns
    manifest = content(tmp_path / "out")[".manifest.json"]

    rows = run(on_ray, monkeypatch, *arguments)
    assert (tmp_path / "out" / first).stat().st_mtime_ns == before
    assert content(tmp_path / "out")[".manifest.json"] == manifest
    assert [row["index"] for row in rows] == list(range(11))
    assert [row["index"] for row in rows if row["error"] is not None] == [1, 6, 7, 8]
    assert "11 images, 4 of them cannot be read; 7 computed now" in capsys.readouterr().out
    good = [row for row in rows if row["error"] is None]
    model = FATRViTForImageClassification.from_pretrained(model_folder)
    logits = expected_logits(model, model_folder, [broken / row["name"] for row in good])
    assert_rounded_alike(torch.tensor([row["logits"] for row in good]), logits, torch.float32)


def test_an_actor_that_dies_is_replaced_and_what_one_raises_is_told(
    on_ray, ray_of_two_cores, model_folder, pictures, tmp_path, monkeypatch
):
    died, calls = tmp_path / "died", []

    def predict(model, pixel_values, top_k):
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(pixel_values)
        if len(calls) == 3:
            raise ValueError("these pixels are odd")
        return {"logits": torch.zeros(len(pixel_values), 5).tolist()}

    monkeypatch.setattr("score_actors.predict", predict)
    with pytest.raises(ValueError, match=r"^these pixels are odd$"):
        run(on_ray, monkeypatch, model_folder, pictures, tmp_path / "out", "--actors", "1", "--gpus_per_actor", "0")
    assert died.exists()


@pytest.mark.parametrize(
    ("resources", "options", "plan"),
    [
        ({"CPU": 8.0}, {}, (8, 0, 0)),
        ({"CPU": 8.0}, {"threads": 3}, (2, 0, 0)),
        ({"CPU": 64.0}, {}, (10, 0, 0)),
        ({"CPU": 64.0}, {"actors": 64}, (64, 0, 0)),
        ({"CPU": 16.0, "GPU": 2.0}, {}, (2, 1, 14)),
        ({"CPU": 16.0, "GPU": 2.0}, {"gpus_per_actor": 0.5, "threads": 2}, (4, 0.5, 8)),
        ({"CPU": 16.0, "GPU": 2.0}, {"gpus_per_actor": 0}, (10, 0, 0)),
        ({"CPU": 2.0, "GPU": 2.0}, {}, (2, 1, 0)),
        (
            {"CPU": 8.0, "GPU": 2.0},
            {"actors": 3},
            "--actors 3, .* --gpus_per_actor 1, need more than the 8 cores",
        ),
        ({"CPU": 2.0}, {"threads": 4}, "--actors 1, each with --threads 4 .* need more than the 2 cores"),
    ],
)
def test_actors_fill_what_there_is(on_ray, monkeypatch, resources, options, plan):
    actors = importlib.import_module("score_actors")
    monkeypatch.setattr(actors.ray, "cluster_resources", lambda: resources)
    arguments = argparse.Namespace(**{"actors": None, "gpus_per_actor": None, "threads": 1, **options})
    if isinstance(plan, str):
        with pytest.raises(ValueError, match=plan):
            actors.plan_pool(arguments, 10)
    else:
        assert actors.plan_pool(arguments, 10) == plan


def test_machines_that_do_not_share_the_pictures_or_the_model_are_named(
    on_ray, module, model_folder, pictures, tmp_path, monkeypatch, make_fatr
):
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    load = module.load_chosen
    with monkeypatch.context() as patch:
        patch.setattr("score_actors.load_chosen", lambda arguments: (make_fatr(keep_ratio=0.5), load(arguments)[1]))
        with pytest.raises(ValueError, match=r"--model .* is another one on node-7: share it"):
            run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    check = module.check_folder
    monkeypatch.setattr(module, "check_folder", lambda *given: (check(*given), pictures.rename(tmp_path / "elsewhere")))
    with pytest.raises(FileNotFoundError, match=r"--images .*pictures is not there on node-7: share it"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out")


@pytest.mark.parametrize(("images", "output", "name"), [("pictures", "/out", "images"), ("user/set", "out", "output")])
def test_a_job_needs_absolute_places(module, pictures, tmp_path, monkeypatch, images, output, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=f"--{name} .* must be absolute: a job runs in a copy"):
        run(module, monkeypatch, "user/model", images, output)


def test_a_finished_run_computes_nothing_again(module, model_folder, pictures, tmp_path, monkeypatch, capsys):
    arguments = (model_folder, pictures, tmp_path / "out")
    rows = run(module, monkeypatch, *arguments)
    monkeypatch.setattr(module, "score_batches", None)
    assert run(module, monkeypatch, *arguments, "--batch_size", "2") == rows
    assert "11 images, 0 of them cannot be read; 0 computed now" in capsys.readouterr().out


@pytest.fixture
def broken(pictures):
    """Of the eleven pictures four cannot be read."""
    (pictures / "a" / "01.png").write_bytes((pictures / "a" / "01.png").read_bytes()[:200])
    (pictures / "b" / "06.jpg").write_text("no picture")
    (pictures / "b" / "07.png").unlink()
    (pictures / "b" / "07.png").symlink_to("nowhere.png")
    (pictures / "b" / "08.jpg").write_bytes(b"")
    return pictures


def test_broken_pictures_have_rows_that_say_why(module, model_folder, broken, tmp_path, monkeypatch, capsys):
    rows = run(module, monkeypatch, model_folder, broken, tmp_path / "out", "--logits")
    errors = {row["index"]: row["error"] for row in rows if row["error"] is not None}
    assert list(errors) == [1, 6, 7, 8]
    assert "truncated" in errors[1]
    assert errors[6] == errors[8] == "it is no picture of a known format"
    assert "No such file" in errors[7]
    assert all(row["labels"] is row["logits"] is None for row in rows if row["error"] is not None)
    good = [row for row in rows if row["error"] is None]
    model = FATRViTForImageClassification.from_pretrained(model_folder)
    logits = expected_logits(model, model_folder, [broken / row["name"] for row in good])
    assert_rounded_alike(torch.tensor([row["logits"] for row in good]), logits, torch.float32)
    assert "11 images, 4 of them cannot be read" in capsys.readouterr().out


def test_strict_stops_at_a_broken_picture(module, model_folder, broken, tmp_path, monkeypatch):
    (broken / "a" / "01.png").unlink()
    with pytest.raises(ValueError, match=r"--strict: picture 5 \(b/06.jpg\) cannot be read: it is no picture"):
        run(module, monkeypatch, model_folder, broken, tmp_path / "out", "--strict")
    assert [row["index"] for row in rows_of(tmp_path / "out")] == [0, 1, 2, 3]


def test_parquet_files_give_the_rows_of_the_pictures_in_them(module, model_folder, broken, tmp_path, monkeypatch):
    files = sorted(broken.rglob("*.*"))
    stored = [{"path": path.name, "bytes": path.read_bytes() if path.exists() else None} for path in files]
    rows = Dataset.from_dict(
        {"number": list(range(12)), "picture": [*stored, None]},
        Features({"number": Value("int64"), "picture": Image(decode=False)}),
    )
    for index, part in enumerate((range(5), range(5, 12))):
        (tmp_path / "data").mkdir(exist_ok=True)
        rows.select(part).to_parquet(tmp_path / "data" / f"{index}.parquet", batch_size=4)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    actual = run(module, monkeypatch, model_folder, tmp_path / "data", tmp_path / "out")
    expected = run(module, monkeypatch, model_folder, broken, tmp_path / "expected")
    assert [row["name"] for row in actual] == [*(path.name for path in files), None]
    assert [row["error"] is None for row in actual] == [*(row["error"] is None for row in expected), False]
    for name in ("index", "classes", "labels"):
        assert [row[name] for row in actual][:11] == [row[name] for row in expected]


def test_a_split_of_a_data_set(module, model_folder, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    for split, folder in (("train", "a"), ("test", "b")):
        files = sorted((pictures / folder).iterdir())
        rows = {"picture": [{"path": path.name, "bytes": path.read_bytes()} for path in files]}
        Dataset.from_dict(rows, Features({"picture": Image()})).to_parquet(tmp_path / "set" / f"{split}.parquet")
    arguments = (model_folder, tmp_path / "set", tmp_path / "out", "--split")
    rows = run(module, monkeypatch, *arguments, "test")
    expected = run(module, monkeypatch, model_folder, pictures / "b", tmp_path / "expected")
    assert rows == expected
    assert run(module, monkeypatch, *arguments, "test") == rows
    with pytest.raises(ValueError, match=r"number of images was 5 and is 6"):
        run(module, monkeypatch, *arguments, "train")
    with pytest.raises(OSError, match="user/nothing"):
        run(module, monkeypatch, model_folder, "user/nothing", tmp_path / "new", "--split", "test")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard_size", "5"], "shard_size was 4 and is 5"),
        (["--dtype", "bfloat16"], "dtype was 'float32' and is 'bfloat16'"),
        (["--keep_ratio", "0.5"], "keep_ratio was 0.7 and is 0.5"),
    ],
    ids=["shards", "dtype", "keep-ratio"],
)
def test_other_options_in_the_same_folder_are_refused(
    module, model_folder, pictures, tmp_path, monkeypatch, more, message
):
    run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"holds predictions of another run: .*{re.escape(message)}"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out", *more)
    assert content(tmp_path / "out") == before


def test_other_weights_or_images_in_the_same_folder_are_refused(
    module, model_folder, pictures, tmp_path, monkeypatch, make_fatr
):
    run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    (pictures / "b" / "12.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"number of images was 11 and is 12"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    (pictures / "b" / "12.png").unlink()
    (pictures / "b" / "10.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run: images was '\w+' and is '\w+'\. Choose"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    make_fatr(id2label={number: f"class {number}" for number in range(5)}).save_pretrained(model_folder)
    with pytest.raises(ValueError, match=r"model was '\w+' and is '\w+'"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(module, model_folder, pictures, monkeypatch):
    before = content(model_folder)
    with pytest.raises(ValueError, match="holds something else than predictions"):
        run(module, monkeypatch, model_folder, pictures, model_folder)
    assert content(model_folder) == before


def test_names_and_files_of_all_kinds_are_served_as_they_are_trained_on(
    module, model_folder, pictures, tmp_path, monkeypatch, capsys
):
    os.rename(pictures / "a" / "03.png", os.fsencode(pictures / "a") + b"/caf\xe9.png")
    (pictures / "b" / "07.png").rename(pictures / "b" / "x::y.png")
    (pictures / "a" / "._00.png").write_bytes(b"resource fork")
    (pictures / "a" / "00.jpg.json").write_text("{}")
    rows = run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    assert [row["error"] for row in rows] == [None] * 11
    assert {r"a/caf\xe9.png", "b/x::y.png"} <= {row["name"] for row in rows}
    assert "11 pictures; files left out: 1 hidden (a/._00.png), 1 of other kinds (.json 1)" in capsys.readouterr().out


def test_a_run_that_failed_at_its_first_batch_leaves_the_folder_free(
    module, model_folder, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr("score_actors.predict", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        run(module, monkeypatch, model_folder, pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_picture(module, model_folder, pictures, tmp_path, monkeypatch):
    [row] = run(module, monkeypatch, model_folder, pictures / "a" / "03.png", tmp_path / "out")
    assert (row["name"], row["error"]) == ("03.png", None)


def test_photographs_keep_their_names(module, model_folder, tmp_path, monkeypatch):
    rows = run(module, monkeypatch, model_folder, "photographs", tmp_path / "out")
    assert [row["name"] for row in rows][:2] == ["astronaut", "cat"]
    assert {row["error"] for row in rows} == {None}


def test_an_encoder_gives_its_cls_token(module, make_fatr, model_folder, pictures, tmp_path, monkeypatch):
    encoder = make_fatr().double().vit
    encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "preprocessor_config.json").write_bytes(
        (model_folder / "preprocessor_config.json").read_bytes()
    )
    with pytest.raises(ValueError, match="has no classifier: ask for --embedding"):
        run(module, monkeypatch, tmp_path / "encoder", pictures, tmp_path / "out")
    rows = run(module, monkeypatch, tmp_path / "encoder", pictures, tmp_path / "out", "--embedding")
    assert list(rows[0]) == ["index", "name", "error", "embedding"]
    [path] = pictures.rglob("05.png")
    pixel_values = to_batch(
        [NamedImage("", PIL.Image.open(path))], ViTImageProcessor.from_pretrained(model_folder)
    ).pixel_values
    token = encoder(pixel_values).last_hidden_state[0, 0]
    assert_rounded_alike(torch.tensor(rows[5]["embedding"]), token.detach(), torch.float32)


def test_a_missing_ray_is_named_before_anything_is_read(on_ray, monkeypatch):
    monkeypatch.setattr(importlib.import_module("score_actors"), "HAS_RAY", False)
    with pytest.raises(ImportError, match=r"runs on Ray: pip install 'fatr-hf\[scale\]'"):
        on_ray.main()


@pytest.mark.parametrize(
    ("images", "more", "message"),
    [
        ("nowhere", [], "--images nowhere does not exist"),
        ("empty", [], "holds neither pictures"),
        ("empty.parquet", ["--column", "image"], "holds no rows, or files that are broken"),
        ("table.parquet", [], "--column must be one of number: 0 of them are pictures"),
        ("table.parquet", ["--column", "picture"], "--column picture must be one of number"),
        ("table.parquet", ["--column", "number"], "--column number must hold pictures, not"),
        ("pictures", ["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        ("pictures", ["--actors", "0"], "--actors 0 must be at least 1"),
        ("pictures", ["--gpus_per_actor", "nan"], "--gpus_per_actor nan must be at least 0"),
        ("s3://bucket/pictures", [], "--images s3://bucket/pictures must be a folder"),
        ("pictures", ["--split", "night"], "night"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else None,
)
def test_bad_options_are_refused_in_words(module, model_folder, pictures, tmp_path, monkeypatch, images, more, message):
    (tmp_path / "empty").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"number": [1, 2]}), tmp_path / "table.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], "binary")}), tmp_path / "empty.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run(module, monkeypatch, model_folder, images, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()
