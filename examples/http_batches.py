"""What many requests ask for at the same time, computed in batches."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class BatchError(RuntimeError):
    """A batch could not be computed; the log says why."""


class Waiting(NamedTuple):
    """An item whose batch has not begun."""

    item: Any
    since: float
    """Seconds on the event loop's clock."""
    result: asyncio.Future[Any]


class BatchQueue:
    """Computes items in batches, in the order in which they come, in a thread of its own.

    A batch begins when it is full or its oldest item has waited long enough. While another batch is computed items
    wait in any case, so that under load batches fill without a delay.

    Args:
        compute: gives the results of a list of items, in their order.
        max_batch: items at a time.
        max_wait: seconds that an item waits for others while nothing is computed.
    """

    def __init__(self, compute: Callable[[list[Any]], Sequence[Any]], max_batch: int, max_wait: float):
        self.compute = compute
        self.max_batch = max_batch
        self.max_wait = max_wait
        self.waiting: deque[Waiting] = deque()
        self.arrival = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "model")
        self.items = self.batches = 0  # computed so far

    async def result_of(self, item: Any) -> Any:
        """The result of an item, once its batch is computed.

        Raises:
            BatchError: its batch failed.
        """
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        self.waiting.append(Waiting(item, loop.time(), result))
        self.arrival.set()
        return await result

    async def run(self) -> None:
        """Computes whatever comes until it is cancelled."""
        while True:
            batch = await self.next_batch()
            items = [each.item for each in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self.thread, self.compute, items)
            except Exception:
                logger.exception("A batch of %d failed", len(batch))
                for each in batch:
                    if not each.result.done():  # else nobody waits for it any more
                        each.result.set_exception(BatchError(f"its batch of {len(batch)} failed"))
                continue
            self.items, self.batches = self.items + len(batch), self.batches + 1
            for each, result in zip(batch, results, strict=True):
                if not each.result.done():
                    each.result.set_result(result)

    async def next_batch(self) -> list[Waiting]:
        """Waits for items, then for more of them."""
        while not self.waiting:
            self.arrival.clear()
            await self.arrival.wait()
        try:
            async with asyncio.timeout_at(self.waiting[0].since + self.max_wait):
                while len(self.waiting) < self.max_batch:
                    self.arrival.clear()
                    await self.arrival.wait()
        except TimeoutError:
            pass
        return [self.waiting.popleft() for _ in range(min(self.max_batch, len(self.waiting)))]
