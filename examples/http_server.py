"""Answers pictures over HTTP with their most probable classes, or an encoder's embedding, computed in batches.

    python examples/http_server.py --model outputs/photographs/model
    curl --data-binary @picture.jpg http://127.0.0.1:8000/classify

``POST /classify`` (of an encoder: ``POST /embed``) takes a picture as the body or as a form's file, ``GET /health``
says that the server is ready, ``GET /model`` what it computes with. The model runs as its fused copy. Whatever is wrong
with a request is answered in words, as JSON with an ``error``, and stops nothing else. docs/http_server.md says more.
"""

import argparse
import contextlib
import socket

import torch
from chosen_model import add_model_arguments, load_chosen

from fatr_hf.benchmark.machine import choose_device, device_name
from fatr_hf.benchmark.settings import DTYPES
from fatr_hf.programs import run_program

try:
    from http_service import Service

    HAS_SERVER = True
except ImportError:
    HAS_SERVER = False


def main() -> None:
    """Reads the command line, loads the model and serves until it is told to stop."""
    check_serving()
    arguments = parse_arguments()
    listener = bind(arguments.host, arguments.port)
    torch.set_num_threads(arguments.threads)
    model, processor = load_chosen(arguments)
    device = choose_device(None)
    service = Service(model.to(device, DTYPES[arguments.dtype]).fuse(), processor, arguments)
    service.warm_up()
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(
        f"{arguments.model} on {device_name(device)}: POST pictures to http://{host}:{port}{service.path}", flush=True
    )
    with contextlib.suppress(KeyboardInterrupt):
        service.server().run(sockets=[listener])


def check_serving() -> None:
    """Raises an ImportError where Starlette or uvicorn is not installed."""
    if not HAS_SERVER:
        raise ImportError("http_server.py needs Starlette and uvicorn: pip install 'fatr-hf[serving]'.")


def parse_arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: a number that is not allowed.
    """
    parser = argparse.ArgumentParser(description="Classifies pictures over HTTP, in batches.")
    add_model_arguments(parser)
    add_server_arguments(parser)
    arguments = parser.parse_args()
    check_server_arguments(arguments)
    return arguments


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the server, apart from its model."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what the model computes in")
    parser.add_argument("--max_batch", type=int, default=8, help="pictures computed at a time")
    parser.add_argument("--max_wait_ms", type=float, default=5, help="that a picture waits for others when all is idle")
    parser.add_argument("--max_upload_mb", type=float, default=10, help="size of a body, in millions of bytes")
    parser.add_argument("--max_queue", type=int, default=64, help="requests in the house; a further one gets 503")
    parser.add_argument("--top_k", type=int, default=5, help="classes of a picture")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that a model on the CPU runs on")
    parser.add_argument("--openers", type=int, default=2, help="threads that open and resize pictures")


def check_server_arguments(arguments: argparse.Namespace) -> None:
    """Raises a ValueError for a number that is not allowed."""
    for name in ("max_batch", "max_queue", "top_k", "threads", "openers"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least 1.")
    if not 0 <= arguments.port < 2**16:
        raise ValueError(f"--port {arguments.port} must lie between 0 and 65535.")
    if not 0 <= arguments.max_wait_ms <= 60_000:
        raise ValueError(f"--max_wait_ms {arguments.max_wait_ms:g} must lie between 0 and 60000.")
    if not 0 < arguments.max_upload_mb <= 1000:
        raise ValueError(f"--max_upload_mb {arguments.max_upload_mb:g} must lie between 0 and 1000.")


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its address, and refuses connections until the server listens on it.

    Raises:
        OSError: an address that is not this machine's, or a port that is taken or not allowed.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise OSError(f"--host {host} --port {port} cannot be listened on: {error.strerror}.") from error
        stack.pop_all()
    return listener


if __name__ == "__main__":
    run_program(main)
