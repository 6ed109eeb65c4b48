"""What http_server.py answers with: a model behind a queue of batches, and the limits on what it takes."""

import argparse
import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import PIL.Image
import torch
import uvicorn
from chosen_model import answer, most_probable
from http_batches import BatchError, BatchQueue
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from fatr_hf.analysis.images import NamedImage, to_batch
from fatr_hf.analysis.model_inputs import is_classifier
from fatr_hf.benchmark.machine import device_name
from fatr_hf.images import PictureError, open_picture, picture_mode
from fatr_hf.modeling import schedule_macs

MAX_PIXELS = 50_000_000
"""Of a picture, before it is resized."""

MAX_SIDES_RATIO = 100
"""Longer side over shorter side: where the shorter one decides the size, a thin picture would grow without bound."""

UPLOAD_SECONDS = 30
"""For a whole body."""

STOPPING_SECONDS = 30
"""For the answers that are due when the server is told to stop."""

logger = logging.getLogger(__name__)


class Service:
    """A model, and what answers requests with it.

    Args:
        model: a fused copy, classifier or encoder.
        processor: its image processor.
        arguments: of the command line.
    """

    def __init__(self, model: Any, processor: Any, arguments: argparse.Namespace):
        self.model = model
        self.processor = processor
        self.arguments = arguments
        self.path = "/classify" if is_classifier(model) else "/embed"
        self.max_bytes = round(arguments.max_upload_mb * 1e6)
        self.requests = 0  # in the house: from their first byte to their answer
        self.openers = ThreadPoolExecutor(arguments.openers, "opener")
        self.batches = BatchQueue(self.compute, arguments.max_batch, arguments.max_wait_ms / 1000)

    def server(self) -> uvicorn.Server:
        """The HTTP server; it stops gracefully on SIGTERM and SIGINT."""
        routes = [
            Route(self.path, self.answer, methods=["POST"]),
            Route("/health", self.health),
            Route("/model", self.describe),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self.lifespan,
            middleware=[Middleware(UnreadBodies)],
            exception_handlers={HTTPException: self.refuse, ClientDisconnect: self.let_go, Exception: self.fail},
        )
        return uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=STOPPING_SECONDS,
            )
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the batches beside the server."""
        batches = asyncio.create_task(self.batches.run())
        yield
        batches.cancel()

    def warm_up(self) -> None:
        """Computes the smallest and the largest batch, in the thread that computes all others."""
        blank = self.pixel_values_of(PIL.Image.new(picture_mode(self.processor), (64, 64)))
        for size in (1, self.arguments.max_batch):
            self.batches.thread.submit(self.compute, [blank] * size).result()

    async def answer(self, request: Request) -> JSONResponse:
        """What the model says of the picture in a request."""
        if self.requests >= self.arguments.max_queue:
            words = f"{self.requests} requests are being answered, which is the most at a time: try again later."
            raise HTTPException(503, words, {"Retry-After": "1"})
        self.requests += 1
        try:
            content = await self.read(request)
            start = time.perf_counter()
            pixel_values = await asyncio.get_running_loop().run_in_executor(self.openers, self.open, content)
            answer = await self.batches.result_of(pixel_values)
        except PictureError as error:
            raise HTTPException(422, f"{error}") from error
        except BatchError as error:
            raise HTTPException(500, f"The model could not answer: {error}.") from error
        finally:
            self.requests -= 1
        return JSONResponse({**answer, "milliseconds": round(1000 * (time.perf_counter() - start), 1)})

    async def read(self, request: Request) -> bytes:
        """The picture's file in a body: the body itself, or the first file of a form.

        Raises:
            HTTPException: a body that is too large, too slow, a broken form or one without a file.
        """
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise self.too_large()
        request = Request(request.scope, self.limited(request.receive))
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                    return await request.body()
                async with request.form(max_files=1) as form:
                    files = [value for value in form.values() if isinstance(value, UploadFile)]
                    if not files:
                        raise HTTPException(422, "The form has no file: send the picture as one.")
                    return await files[0].read()
        except TimeoutError as error:
            raise HTTPException(408, f"The body took longer than {UPLOAD_SECONDS} s.") from error

    def limited(self, receive: Receive) -> Receive:
        """Receives no more of a body than is taken."""
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self.too_large()
            return message

        return receive_within_limit

    def too_large(self) -> HTTPException:
        """The refusal of a large body."""
        return HTTPException(413, f"The body has more than {self.max_bytes} bytes, which is the most that is taken.")

    def open(self, content: bytes) -> Tensor:
        """Pixel values (1, channels, height, width) of a picture's file.

        Raises:
            PictureError: it cannot be read, or is too large or too thin.
        """
        picture = open_picture(content, picture_mode(self.processor), MAX_PIXELS)
        if max(picture.size) > MAX_SIDES_RATIO * min(picture.size):
            sides = f"{picture.width} x {picture.height} pixels"
            reason = f"it has {sides}, and no side may be more than {MAX_SIDES_RATIO} times the other."
            raise PictureError("a picture", reason)
        try:
            return self.pixel_values_of(picture)
        except Exception as error:
            logger.exception("The image processor failed")
            raise PictureError("a picture", f"{type(error).__name__}: {error}") from error

    def pixel_values_of(self, picture: Any) -> Tensor:
        """Pixel values (1, channels, height, width) of an open picture."""
        return to_batch([NamedImage("", picture)], self.processor).pixel_values

    def compute(self, pixel_values: list[Tensor]) -> list[dict[str, Any]]:
        """Answers for pictures (1, channels, height, width), without their times."""
        found = answer(self.model, torch.cat(pixel_values), embedding=False)
        if found.logits is None:
            assert found.embedding is not None
            return [{"embedding": row} for row in found.embedding.tolist()]
        probabilities, classes = (each.tolist() for each in most_probable(found.logits, self.arguments.top_k))
        names = self.model.config.id2label
        return [
            {"classes": numbers, "labels": [names[number] for number in numbers], "probabilities": shares}
            for shares, numbers in zip(probabilities, classes, strict=True)
        ]

    async def health(self, request: Request) -> JSONResponse:
        """That the server is ready, and how much it does; it listens only after its model is warm."""
        counts = {"requests": self.requests, "pictures": self.batches.items, "batches": self.batches.batches}
        return JSONResponse({"status": "ready", **counts})

    async def describe(self, request: Request) -> JSONResponse:
        """What the answers come from."""
        config, arguments = self.model.config, self.arguments
        return JSONResponse(
            {
                "model": arguments.model,
                "revision": arguments.revision,
                "model_type": config.model_type,
                "keep_ratio": config.keep_ratio,
                "macs": schedule_macs(config),
                "image_size": config.image_size,
                "classes": config.num_labels if self.path == "/classify" else None,
                "dtype": arguments.dtype,
                "device": device_name(self.model.device),
                "path": self.path,
            }
        )

    async def refuse(self, request: Request, error: Exception) -> JSONResponse:
        """The answer to a request that is refused."""
        assert isinstance(error, HTTPException)
        words = error.detail
        if error.status_code == 404:
            words = f"There is no such path: POST a picture to {self.path}, GET /health or GET /model."
        return JSONResponse({"error": words}, error.status_code, error.headers)

    async def let_go(self, request: Request, error: Exception) -> Response:
        """For a client that went away before its body was there: nobody reads this."""
        return Response(status_code=400)

    async def fail(self, request: Request, error: Exception) -> JSONResponse:
        """The answer where the server itself is wrong; the log has the traceback."""
        return JSONResponse({"error": "The server failed to answer."}, 500)


class UnreadBodies:
    """Answers before a body is read, too: what still comes of it is thrown away.

    A connection that is closed on a client that sends would lose the answer.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_read = False

        async def receive_on() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def send_then_read(message: Message) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            if ends and not is_read:
                await send({**message, "more_body": True})
                message = {**message, "body": b""}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UPLOAD_SECONDS):
                        while not is_read:
                            await receive_on()
            await send(message)

        await self.app(scope, receive_on, send_then_read)
