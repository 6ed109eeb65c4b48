"""Answers are the model's own, computed in batches, and whatever is wrong with a request stops nothing else."""

import contextlib
import importlib
import io
import json
import logging
import re
import socket
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest
import torch
from rounding import assert_rounded_alike
from running_http_server import PATIENCE, Gate, running, wait_until
from transformers import ViTImageProcessor

from fatr_hf import FATRIJepaConfig, FATRIJepaModel, FATRViTConfig, FATRViTForImageClassification, FATRViTModel
from fatr_hf.analysis.images import NamedImage, to_batch
from fatr_hf.modeling import restore_tokens

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
GEOMETRY = {"image_size": 32, "patch_size": 4}
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "examples")
        yield importlib.import_module("http_server")


@pytest.fixture(scope="module")
def model():
    """In float64, so that batches of all sizes give the same."""
    torch.manual_seed(0)
    labels = {number: f"class {number}" for number in range(5)}
    config = FATRViTConfig(**SIZES, **GEOMETRY, id2label=labels, initializer_range=0.3)
    return FATRViTForImageClassification(config).double().eval()


@pytest.fixture(scope="module")
def server(module, model):
    with running(module, model, max_upload_mb=MAX_BYTES / 1e6, max_batch=4, top_k=3) as server:
        yield server


def picture_file(seed, file_format="PNG"):
    """A file of a picture of random size."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*generator.integers(20, 60, 2), 3), dtype=np.uint8)
    return saved(PIL.Image.fromarray(pixels).convert("L" if seed % 5 == 4 else "RGB"), file_format)


def saved(picture, file_format="PNG", **options):
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def png_without_pixels(width, height):
    """A picture of any size, which is small as a file."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def form(content, disposition='name="file"; filename="picture.png"'):
    """Body and headers of a form with one part."""
    head = f"--limit\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    return head + content + b"\r\n--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


def expected(model, files):
    """What the model says of files, one by one."""
    pictures = [to_batch([NamedImage("", PIL.Image.open(io.BytesIO(file)))], PROCESSOR) for file in files]
    with torch.inference_mode():
        return [model(each.pixel_values.double()).logits[0].float().softmax(0) for each in pictures]


def test_answers_in_batches_are_the_models_own(module, model):
    files = [picture_file(seed, ("PNG", "JPEG")[seed % 2]) for seed in range(20)]
    with running(module, model, max_batch=4, max_wait_ms=0, top_k=3) as server, ThreadPoolExecutor(20) as clients:
        gate = Gate(server.service)
        answers = [clients.submit(server.classify, file) for file in files]
        wait_until(lambda: sum(gate.sizes[:1]) + len(server.service.batches.waiting) == 20)
        gate.opened.set()
        answers = [answer.result() for answer in answers]
        counts = server.ask("GET", "/health").content
    # All others were waiting when the first batch ended.
    first = gate.sizes[0]
    assert gate.sizes[1 : 1 + (20 - first) // 4] == [4] * ((20 - first) // 4)
    assert counts == {"status": "ready", "requests": 0, "pictures": 20, "batches": len(gate.sizes)}
    assert {answer.status for answer in answers} == {200}
    for answer, chances in zip(answers, expected(model, files), strict=True):
        best = chances.sort(descending=True, stable=True)
        assert answer.content["classes"] == best.indices[:3].tolist()
        assert answer.content["labels"] == [f"class {number}" for number in answer.content["classes"]]
        assert_rounded_alike(torch.tensor(answer.content["probabilities"]), best.values[:3])
        assert answer.content["milliseconds"] > 0


def test_a_body_and_a_form_are_answered_alike(server):
    file = picture_file(1)
    body, headers = form(file)
    answers = [
        server.classify(file),
        server.classify(file, **{"Content-Type": "application/x-www-form-urlencoded"}),  # as curl's --data-binary
        server.classify(body, **headers),
    ]
    assert [answer.status for answer in answers] == [200] * 3
    assert len({json.dumps(answer.content["probabilities"]) for answer in answers}) == 1


REFUSALS = {
    "nothing": (b"", {}, 422, "a picture cannot be read as a picture: it is no picture of a known format"),
    "words": (b"no picture" * 9, {}, 422, "it is no picture of a known format"),
    "half": (picture_file(0, "JPEG")[:900], {}, 422, "a picture cannot be read as a picture: .*truncated"),
    "no pixels": (png_without_pixels(9, 9), {}, 422, "a picture cannot be read as a picture: "),
    "many pixels": (png_without_pixels(8000, 8000), {}, 422, "more than the 50 megapixels that are taken"),
    "bomb": (png_without_pixels(60000, 60000), {}, 422, "more than the .* megapixels that are taken"),
    "thin": (saved(PIL.Image.new("L", (1, 101))), {}, 422, "1 x 101 pixels, and no side may be more than 100 times"),
    "large": (bytes(MAX_BYTES + 1), {}, 413, f"more than {MAX_BYTES} bytes"),
    "large form": (*form(bytes(MAX_BYTES)), 413, f"more than {MAX_BYTES} bytes"),
    "in pieces": (iter([bytes(MAX_BYTES // 2)] * 3), {}, 413, f"more than {MAX_BYTES} bytes"),
    "broken in a form": (*form(b"no picture"), 422, "it is no picture of a known format"),
    "no file": (*form(b"text", 'name="file"'), 422, "The form has no file: send the picture as one"),
    "no limit": (b"", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
    "no form": (b"no form", {"Content-Type": "multipart/form-data; boundary=limit"}, 400, "multipart"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_uploads_are_refused_in_words_and_the_next_is_answered(server, name):
    body, headers, status, words = REFUSALS[name]
    answer = server.classify(body, **headers)
    assert answer.status == status
    assert list(answer.content) == ["error"]
    assert re.search(words, answer.content["error"])
    assert server.classify(picture_file(2)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/classify", 405, "Method Not Allowed"),
        ("POST", "/health", 405, "Method Not Allowed"),
        ("POST", "/embed", 404, "There is no such path: POST a picture to /classify, GET /health or GET /model"),
        ("GET", "/docs", 404, "There is no such path"),
    ],
)
def test_other_methods_and_paths_are_refused(server, method, path, status, words):
    answer = server.ask(method, path)
    assert answer.status == status
    assert words in answer.content["error"]


def raw(server, data):
    """A connection that has sent bytes."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def test_a_large_body_is_refused_before_it_is_sent(server):
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
    with contextlib.closing(raw(server, head + b"Content-Length: 1000000000\r\n\r\n")) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    piece = b"%x\r\n" % (MAX_BYTES + 1) + bytes(MAX_BYTES + 1) + b"\r\n"  # and no last one
    with contextlib.closing(raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + piece)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_on_reads_the_refusal(server):
    answer = server.classify(bytes(50_000_000), Connection="close")
    assert (answer.status, list(answer.content)) == (413, ["error"])


def test_clients_that_go_away_stop_nothing(server, caplog):
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    file = picture_file(3)
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(file)
    for sent in (head[:20], head, head + file[:100], head + file):
        raw(server, sent).close()
    wait_until(lambda: server.service.requests == 0)
    assert server.classify(file).status == 200
    assert caplog.text == ""


def test_a_slow_body_is_refused(server, module, monkeypatch):
    monkeypatch.setattr(importlib.import_module("http_service"), "UPLOAD_SECONDS", 0.1)
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with contextlib.closing(raw(server, head)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_more_requests_than_the_queue_takes_are_sent_away(module, model):
    with running(module, model, max_queue=3) as server, ThreadPoolExecutor(3) as clients:
        gate = Gate(server.service)
        answers = [clients.submit(server.classify, picture_file(seed)) for seed in range(3)]
        wait_until(lambda: server.service.requests == 3)
        refusal = server.classify(picture_file(3))
        assert refusal.status == 503
        assert refusal.headers["retry-after"] == "1"
        assert "3 requests are being answered, which is the most at a time" in refusal.content["error"]
        assert server.ask("GET", "/health").content["requests"] == 3
        gate.opened.set()
        assert [answer.result().status for answer in answers] == [200] * 3
        assert server.classify(picture_file(3)).status == 200


def test_a_batch_that_fails_is_answered_and_the_server_lives(module, model, caplog):
    with running(module, model) as server:
        compute, server.service.batches.compute = server.service.batches.compute, lambda items: items[9]
        answer = server.classify(picture_file(0))
        assert answer.status == 500
        assert answer.content["error"] == "The model could not answer: its batch of 1 failed."
        assert "IndexError" in caplog.text
        server.service.batches.compute = compute
        assert server.classify(picture_file(0)).status == 200


def test_a_mistake_of_the_server_itself_is_answered(module, model):
    with running(module, model) as server:
        server.service.batches.compute = lambda items: [{"probabilities": [float("nan")]}] * len(items)  # no JSON
        answer = server.classify(picture_file(0))
        assert (answer.status, answer.content) == (500, {"error": "The server failed to answer."})
        assert server.ask("GET", "/health").status == 200


def test_what_is_due_is_answered_before_the_server_stops(module, model):
    with ThreadPoolExecutor(1) as client:
        with running(module, model) as server:
            gate = Gate(server.service)
            answer = client.submit(server.classify, picture_file(0))
            wait_until(lambda: gate.sizes)
            server.server.should_exit = True
            wait_until(lambda: not accepts(server.port))
            time.sleep(0.3)  # in which a server that does not wait would drop the request
            gate.opened.set()
        assert answer.result().status == 200


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
        return True
    return False


def test_a_picture_that_the_processor_cannot_take_is_refused(module, model):
    with running(module, model) as server:
        server.service.processor = lambda pictures, **options: pictures[9]
        answer = server.classify(picture_file(0))
    assert answer.status == 422
    assert "a picture cannot be read as a picture: IndexError" in answer.content["error"]


def test_the_client_of_the_page_waits_while_the_server_is_busy(server, tmp_path, monkeypatch):
    (tmp_path / "picture.png").write_bytes(picture_file(0))
    (tmp_path / "words.txt").write_text("words")
    page = (Path(__file__).parents[2] / "docs/http_server.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    server.service.requests = 64
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(server.service, "requests", 0))
    found = names["classify"](tmp_path / "picture.png", f"{server.url}/classify")
    assert [label for label, _ in found] == server.classify(picture_file(0)).content["labels"]
    with pytest.raises(ValueError, match="it is no picture of a known format"):
        names["classify"](tmp_path / "words.txt", f"{server.url}/classify")


def test_the_model_is_described(server, model):
    description = server.ask("GET", "/model").content
    assert description["model"] == "user/model"
    assert (description["keep_ratio"], description["classes"], description["path"]) == (0.7, 5, "/classify")


def cls_token(model, pixel_values):
    return model(pixel_values).last_hidden_state[:, 0]


def mean_of_the_grid(model, pixel_values):
    outputs = model(pixel_values, output_token_sources=True)
    return restore_tokens(outputs.last_hidden_state, outputs.token_sources[-1]).mean(1)


@pytest.mark.parametrize(
    ("family", "reads"),
    [((FATRViTModel, FATRViTConfig), cls_token), ((FATRIJepaModel, FATRIJepaConfig), mean_of_the_grid)],
    ids=["vit", "ijepa"],
)
def test_an_encoder_answers_with_its_embedding(module, family, reads):
    torch.manual_seed(0)
    model_class, config_class = family
    model = model_class(config_class(**SIZES, **GEOMETRY, initializer_range=0.3)).double().eval()
    with running(module, model) as server:
        answer = server.ask("POST", "/embed", picture_file(0))
        refusal = server.classify(picture_file(0))
        assert server.ask("GET", "/model").content["classes"] is None
    pixel_values = to_batch([NamedImage("", PIL.Image.open(io.BytesIO(picture_file(0))))], PROCESSOR).pixel_values
    with torch.inference_mode():
        [embedding] = reads(model, pixel_values.double()).float()
    assert_rounded_alike(torch.tensor(answer.content["embedding"]), embedding)
    assert refusal.status == 404
    assert "POST a picture to /embed" in refusal.content["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max_batch", "0"], "--max_batch 0 must be at least 1"),
        (["--openers", "0"], "--openers 0 must be at least 1"),
        (["--port", "65536"], "--port 65536 must lie between 0 and 65535"),
        (["--max_wait_ms", "-1"], "--max_wait_ms -1 must lie between 0 and 60000"),
        (["--max_wait_ms", "nan"], "--max_wait_ms nan must lie between"),
        (["--max_upload_mb", "0"], "--max_upload_mb 0 must lie between"),
        (["--port", "{port}"], "--host 127.0.0.1 --port {port} cannot be listened on: Address already in use"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 8000 cannot be listened on"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_refused_before_the_model_is_loaded(server, module, monkeypatch, options, words):
    monkeypatch.setattr(module, "load_chosen", None)
    options = [option.format(port=server.port) for option in options]
    monkeypatch.setattr(sys, "argv", ["http_server.py", "--model", "m", *options])
    with pytest.raises((OSError, ValueError), match=re.escape(words.format(port=server.port))):
        module.main()


def test_a_missing_starlette_is_told_in_one_line(module, monkeypatch):
    monkeypatch.setattr(module, "HAS_SERVER", False)
    with pytest.raises(ImportError, match=re.escape("pip install 'fatr-hf[serving]'")):
        module.main()
