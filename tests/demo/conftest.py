"""The demo's modules, small models for it, and the page in a browser."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

DEMO = Path(__file__).parents[2] / "examples" / "demo"
LABELS = ("tabby", "tiger <cat>", "lynx", "teapot", "rocket", "moon", "coin")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS_TO_START = 120


@pytest.fixture(scope="session")
def demo():
    """The demo's folder and its modules."""
    names = ("loaded_model", "comparison", "results", "sources", "app")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        return SimpleNamespace(folder=DEMO, **{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="session")
def loaded(demo, model_folder):
    """The ViT, and plans for those budgets that tests have asked for."""
    return demo.loaded_model.load(str(model_folder))


@pytest.fixture(scope="session")
def loaded_video(demo, video_folder):
    """The VideoMAE, likewise."""
    return demo.loaded_model.load_video(str(video_folder))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A ViT classifier with 8 x 8 patches that tells its classes apart, and its image processor."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=4,
        id2label=dict(enumerate(LABELS)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config)
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
    folder = tmp_path_factory.mktemp("model")
    model.double().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory):
    """A VideoMAE classifier of 8 frames with 4 x 4 x 4 patches, and its image processor."""
    config = VideoMAEConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_frames=8,
        id2label={0: "left", 1: "right"},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoMAEForVideoClassification(config)
    folder = tmp_path_factory.mktemp("video")
    model.save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(model_folder, video_folder, tmp_path_factory):
    """Where a copy of the demo's folder, all by itself as on a Space, serves the page."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = {"FATR_MODEL": str(model_folder), "FATR_VIDEO_MODEL": str(video_folder)}
    environment = {**os.environ, **models, "GRADIO_TEMP_DIR": str(folder / "uploads")}
    log = folder / "log.txt"
    with log.open("w") as file:
        app = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--device", "cpu"],
            cwd=folder,
            env={**environment, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while f"http://127.0.0.1:{port}" not in log.read_text():
            assert app.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        app.terminate()
        app.wait()


# The browser's event loop occupies the thread: no longer than this file's tests.
@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; with FATR_REQUIRE_BROWSER=1 its absence fails the tests."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None or find_spec("playwright") is None:
        reason = "The page is tested in a browser: install chromium and the Python package playwright."
        (pytest.fail if os.environ.get("FATR_REQUIRE_BROWSER") == "1" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor; in the end nothing may have gone wrong, nor any other host been asked."""
    contexts, errors, requests = [], [], []

    def open_page(width=1280, height=1000):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.locator(".summary", has_text="times as fast").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((f"{address}/", "data:", "blob:"))] == []
