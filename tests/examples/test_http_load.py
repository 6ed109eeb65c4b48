"""The load test counts every answer, waits from when a picture was due, and stops the servers that it started."""

import asyncio
import importlib
import signal
import subprocess
import sys

import aiohttp
import numpy as np
import PIL.Image
import pytest
from running_http_server import running
from transformers import ViTImageProcessor


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("http_load")


@pytest.fixture
def server(importable_examples, make_fatr):
    with running(importlib.import_module("http_server"), make_fatr()) as server:
        yield server


@pytest.fixture
def body(module):
    return module.as_jpeg(PIL.Image.new("RGB", (40, 30)))


def with_sender(module, url, bodies, use):
    async def run():
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                return await use(module.Sender(session, url, bodies))

    return asyncio.run(run())


@pytest.mark.parametrize("arrivals", ["even", "random"])
def test_every_wait_is_counted(module, server, body, arrivals):
    waits = with_sender(module, f"{server.url}/classify", [body], lambda sender: sender.waits(64.0, 0.25, arrivals))
    assert len(waits) == server.service.batches.items
    assert len(waits) == 16 or arrivals == "random"
    assert min(waits) > 0


def test_the_peak_counts_answers(module, server, body):
    async def use(sender):
        return await sender.peak(4, 0.2), sender.refused

    peak, refused = with_sender(module, f"{server.url}/classify", [body], use)
    assert peak > 0
    assert refused == 0
    assert server.service.batches.items >= 4


def test_refusals_are_counted_as_such(module, server, body):
    server.service.requests = 64  # as if so many were being answered

    async def use(sender):
        return await sender.waits(40.0, 0.1, "even"), sender.refused

    assert with_sender(module, f"{server.url}/classify", [body], use) == ([], 4)
    with pytest.raises(ValueError, match="was busy all the time"):
        with_sender(module, f"{server.url}/classify", [body], lambda sender: sender.peak(1, 0.01))


def test_errors_end_the_measurement(module, server):
    with pytest.raises(ValueError, match=r"answered with 422: .*it is no picture of a known format"):
        with_sender(module, f"{server.url}/classify", [b"words"], lambda sender: sender.waits(40.0, 0.1, "even"))


def test_the_table_has_medians_and_quantiles(module):
    waits = {"even": [number / 1000 for number in range(1, 101)], "random": []}
    measured = module.Measured([3.0, 1.0, 8.0], waits, {"even": 2, "random": 0})
    head, even, random = module.table({"as chosen": measured}, 0.7).splitlines()
    assert "arrivals at 70%" in head
    assert even.split()[2:] == ["3.0", "3.0,", "1.0,", "8.0", "even", "50.5", "99.0", "1.96", "2"]
    assert random.split()[-4:] == ["nan", "nan", "nan", "0"]


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "ab":
        PIL.Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_the_command_starts_two_servers_measures_and_stops_them(
    module, make_fatr, tmp_path, pictures, monkeypatch, capsys
):
    make_fatr().save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    size = ["--seconds", "0.3", "--rounds", "1", "--clients", "3", "--limit", "2", "--images", str(pictures)]
    options = ["--model", str(tmp_path / "model"), "--threads", "1", "--macs", "3e6", *size]
    monkeypatch.setattr(sys, "argv", ["http_load.py", *options])
    module.main()
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == ["as chosen"] * 2 + ["unreduced"] * 2
    assert all(float(row[24:34]) > 0 for row in rows)
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2
    first, second = (process.args for process in started)
    assert "--macs" in first
    assert second[second.index("--keep_ratio") + 1] == "1.0"
    assert "--macs" not in second


def test_a_server_that_does_not_start_is_an_error(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SERVER", tmp_path / "server.py")
    module.SERVER.write_text("raise SystemExit(2)")
    with pytest.raises(ValueError, match="The server ended with the code 2"):
        module.running_server({"model": "m"}).__enter__()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "http://127.0.0.1:1", "--top_k", "3"], "leave out --top_k 3"),
        (["--model", "m", "--clients", "0"], "--clients 0 must be at least 1"),
        (["--model", "m", "--seconds", "0"], "--seconds 0 must be above 0"),
        (["--model", "m", "--max_batch", "0"], "--max_batch 0 must be at least 1"),
    ],
)
def test_mistakes_are_refused(module, monkeypatch, options, words):
    monkeypatch.setattr(sys, "argv", ["http_load.py", *options])
    with pytest.raises(ValueError, match=words):
        module.main()
