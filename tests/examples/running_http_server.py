"""A server of examples/http_server.py in a thread of the tests, and requests to it."""

import argparse
import contextlib
import http.client
import json
import threading
import time
from typing import NamedTuple

from transformers import ViTImageProcessor

PATIENCE = 60
"""Seconds after which whatever is waited for is taken as never to come."""


class Answer(NamedTuple):
    status: int
    content: dict
    headers: dict


class Running(NamedTuple):
    service: object
    server: object
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()), dict(response.headers))

    def classify(self, body, **headers):
        return self.ask("POST", "/classify", body, headers)


@contextlib.contextmanager
def running(module, model, **options):
    """A server on a free port until the ``with`` block ends, on the path of the module http_server."""
    parser = argparse.ArgumentParser()
    module.add_server_arguments(parser)
    arguments = parser.parse_args([])
    vars(arguments).update(model="user/model", revision=None, **options)
    side = model.config.image_size
    service = module.Service(model.fuse(), ViTImageProcessor(size={"height": side, "width": side}), arguments)
    service.warm_up()
    listener = module.bind("127.0.0.1", 0)
    server = service.server()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(service, server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
        listener.close()


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


class Gate:
    """Holds back a service's batches until it is opened, and notes their sizes."""

    def __init__(self, service):
        self.opened = threading.Event()
        self.sizes = []
        self.compute = service.batches.compute
        service.batches.compute = self

    def __call__(self, items):
        self.sizes.append(len(items))
        assert self.opened.wait(PATIENCE)
        return self.compute(items)
