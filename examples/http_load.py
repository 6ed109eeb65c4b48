"""Measures http_server.py on this machine: images a second at its peak, and how long answers take below it.

    python examples/http_load.py --model outputs/photographs/model
    python examples/http_load.py --url http://127.0.0.1:8000

With ``--model`` it starts two servers on free ports, one with the model unreduced, loads them in turn and stops them;
it takes all options of http_server.py. The peak is that of clients each of which sends its next picture when it has the
last answer. Then pictures come at a share of the peak, whether answers are there or not, evenly or at random times (as
from many users, a Poisson process), and every wait counts from the time when its picture was due.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from chosen_model import add_model_arguments
from http_server import add_server_arguments, check_server_arguments

from fatr_hf.analysis.images import load_images
from fatr_hf.programs import run_program

SERVER = Path(__file__).with_name("http_server.py")
STARTING_SECONDS = 30
"""Between a server's line and its first answer."""
ARRIVALS = ("even", "random")


@dataclass
class Measured:
    """What was measured of a server, in all rounds."""

    peaks: list[float] = field(default_factory=list)
    """Images a second, of each round."""
    waits: dict[str, list[float]] = field(default_factory=lambda: {arrivals: [] for arrivals in ARRIVALS})
    """Seconds, by the kind of arrivals."""
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARRIVALS, 0))
    """Answers with 503, by the kind of arrivals."""


def main() -> None:
    """Reads the command line, starts servers where none is given, and prints a table."""
    arguments, options = parse_arguments()
    bodies = [as_jpeg(image.picture) for image in load_images(arguments.images, limit=arguments.limit)]
    with contextlib.ExitStack() as stack:
        if arguments.url:
            servers = {arguments.url: arguments.url}
        else:
            unreduced = {**options, "keep_ratio": [1.0], "macs": None}
            servers = {
                name: stack.enter_context(running_server(each))
                for name, each in (("as chosen", options), ("unreduced", unreduced))
            }
        print(table(asyncio.run(measure(servers, bodies, arguments)), arguments.load))


def parse_arguments() -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line: what is for this program, and the server's options.

    Raises:
        ValueError: a number that is not allowed, or options for a server that runs already.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--url", help="of a server that runs already, such as http://127.0.0.1:8000")
    own.add_argument("--images", default="photographs", help="folder of pictures to send, or photographs")
    own.add_argument("--limit", type=int, default=32, help="pictures to send in turn")
    own.add_argument("--clients", type=int, default=16, help="at the peak")
    own.add_argument("--load", type=float, default=0.7, help="share of the peak at which waits are measured")
    own.add_argument("--seconds", type=float, default=10, help="of each measurement")
    own.add_argument("--rounds", type=int, default=3, help="measurements of each server, in turn")
    arguments, others = own.parse_known_args()
    options: dict[str, Any] = {}
    if not arguments.url:
        parser = argparse.ArgumentParser(parents=[own], description="Loads a server, or two that it starts.")
        add_model_arguments(parser)
        add_server_arguments(parser)
        everything = parser.parse_args()
        check_server_arguments(everything)
        options = {name: value for name, value in vars(everything).items() if name not in vars(arguments)}
    elif others:
        raise ValueError(f"--url is of a server that has its options already: leave out {' '.join(others)}.")
    for name in ("clients", "rounds"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least 1.")
    for name in ("load", "seconds"):
        if not getattr(arguments, name) > 0:
            raise ValueError(f"--{name} {getattr(arguments, name):g} must be above 0.")
    return arguments, options


def as_jpeg(picture: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def running_server(options: Mapping[str, Any]) -> Iterator[str]:
    """The address of a server on a free port, until the ``with`` block ends.

    Args:
        options: of http_server.py by name, None for those that are not given.

    Raises:
        ValueError: it did not start.
    """
    words = [sys.executable, str(SERVER)]
    for name, value in {**options, "port": 0}.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = re.search(r"http://[^/]+", process.stdout.readline())
            if not address:
                raise ValueError(f"The server ended with the code {process.wait()}: its message is above.")
            wait_until_ready(address[0])
            yield address[0]
        finally:
            process.terminate()


def wait_until_ready(url: str) -> None:
    """Returns when a server answers.

    Raises:
        OSError: it does not.
    """
    end = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=STARTING_SECONDS):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


async def measure(
    servers: Mapping[str, str], bodies: Sequence[bytes], arguments: argparse.Namespace
) -> dict[str, Measured]:
    """Loads servers in turn.

    Args:
        servers: addresses by the names in the table.
        bodies: pictures' files, sent one after the other, again and again.
        arguments: of the command line.
    """
    measured = {name: Measured() for name in servers}
    seconds = arguments.seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        senders = {}
        for name, url in servers.items():
            async with session.get(f"{url}/model") as answer:
                senders[name] = Sender(session, url + (await answer.json())["path"], bodies)
            await senders[name].peak(arguments.clients, min(1, seconds))
        for _ in range(arguments.rounds):
            for name, sender in senders.items():
                result = measured[name]
                result.peaks.append(await sender.peak(arguments.clients, seconds))
                rate = arguments.load * statistics.median(result.peaks)
                for arrivals in ARRIVALS:
                    before = sender.refused
                    result.waits[arrivals] += await sender.waits(rate, seconds, arrivals)
                    result.refused[arrivals] += sender.refused - before
    return measured


class Sender:
    """Sends pictures to a server.

    Args:
        session: any number of connections.
        url: what the pictures are posted to.
        bodies: their files.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, bodies: Sequence[bytes]):
        self.session = session
        self.url = url
        self.bodies = itertools.cycle(bodies)
        self.refused = 0

    async def send(self) -> bool:
        """Whether a picture was answered; else the server was busy.

        Raises:
            ValueError: any other refusal.
        """
        async with self.session.post(self.url, data=next(self.bodies)) as answer:
            words = await answer.text()
        if answer.status not in (200, 503):
            raise ValueError(f"{self.url} answered with {answer.status}: {words}")
        self.refused += answer.status == 503
        return answer.status == 200

    async def peak(self, clients: int, seconds: float) -> float:
        """Images a second where each client sends the next picture after the last answer.

        Raises:
            ValueError: a server that answers nothing, or with an error.
        """
        start = time.perf_counter()

        async def client() -> int:
            answers = 0
            while time.perf_counter() < start + seconds:
                answers += await self.send()
            return answers

        answers = sum(await asyncio.gather(*(client() for _ in range(clients))))
        if not answers:
            raise ValueError(f"{self.url} was busy all the time: nobody else may use it while it is measured.")
        return answers / (time.perf_counter() - start)

    async def waits(self, rate: float, seconds: float, arrivals: str) -> list[float]:
        """Seconds until each answer, where pictures come at a rate whether answers are there or not."""
        generator = random.Random(0)
        waits = []

        async def send(due: float) -> None:
            if await self.send():
                waits.append(time.perf_counter() - due)

        tasks = []
        due = start = time.perf_counter()
        while due < start + seconds:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(send(due)))
            due += generator.expovariate(rate) if arrivals == "random" else 1 / rate
        await asyncio.gather(*tasks)
        return waits


def table(measured: Mapping[str, Measured], load: float) -> str:
    """The peak as the median of the rounds, and quantiles of all waits."""
    lines = [
        f"{'':<24}{'images/s':>10}{'rounds':>24}{f'arrivals at {load:.0%}':>18}{'p50, ms':>10}{'p99, ms':>10}"
        f"{'p99/p50':>10}{'refused':>10}"
    ]
    for name, result in measured.items():
        rounds = ", ".join(f"{peak:.1f}" for peak in result.peaks)
        for arrivals, waits in result.waits.items():
            p50, p99 = 1000 * np.percentile(waits or [np.nan], [50, 99])
            lines.append(
                f"{name:<24}{statistics.median(result.peaks):>10.1f}{rounds:>24}{arrivals:>18}{p50:>10.1f}{p99:>10.1f}"
                f"{p99 / p50:>10.2f}{result.refused[arrivals]:>10}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
