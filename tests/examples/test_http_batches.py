"""Items are computed in batches: full ones at once, others after a wait, and each gets its own result."""

import asyncio
import contextlib
import importlib

import pytest

NEVER = 3600
"""Seconds: longer than any test may take."""


@pytest.fixture
def module(importable_examples):
    return importlib.import_module("http_batches")


@pytest.fixture
def compute():
    """Doubles numbers and notes the batches; a batch with a zero fails."""

    def double(items):
        double.batches.append(items)
        return [2 * item // bool(item) for item in items]

    double.batches = []
    return double


def with_queue(queue, use):
    """Runs a coroutine beside a queue, no longer than a test may take."""

    async def beside():
        task = asyncio.create_task(queue.run())
        try:
            async with asyncio.timeout(60):
                return await use()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return asyncio.run(beside())


async def turns(number=50):
    """Lets all other coroutines go on."""
    for _ in range(number):
        await asyncio.sleep(0)


def test_full_batches_do_not_wait_and_results_are_in_order(module, compute):
    queue = module.BatchQueue(compute, max_batch=3, max_wait=NEVER)

    async def use():
        return await asyncio.gather(*(queue.result_of(item) for item in range(1, 7)))

    assert with_queue(queue, use) == [2, 4, 6, 8, 10, 12]
    assert compute.batches == [[1, 2, 3], [4, 5, 6]]
    assert (queue.items, queue.batches) == (6, 2)


def test_an_item_waits_for_others(module, compute):
    queue = module.BatchQueue(compute, max_batch=2, max_wait=NEVER)

    async def use():
        first = asyncio.create_task(queue.result_of(1))
        await turns()
        assert compute.batches == []
        return await asyncio.gather(first, queue.result_of(2))

    assert with_queue(queue, use) == [2, 4]
    assert compute.batches == [[1, 2]]


def test_an_item_that_has_waited_goes_alone(module, compute):
    queue = module.BatchQueue(compute, max_batch=8, max_wait=0.01)
    assert with_queue(queue, lambda: queue.result_of(5)) == 10


def test_a_batch_that_fails_stops_no_other(module, compute):
    queue = module.BatchQueue(compute, max_batch=2, max_wait=NEVER)

    async def use():
        return await asyncio.gather(*map(queue.result_of, [1, 0, 3, 4]), return_exceptions=True)

    *failed, third, fourth = with_queue(queue, use)
    assert [type(error) for error in failed] == [module.BatchError] * 2
    assert (third, fourth) == (6, 8)
    assert (queue.items, queue.batches) == (2, 1)


@pytest.mark.parametrize("first", [1, 0], ids=["computed", "failed"])
def test_who_no_longer_waits_disturbs_nobody(module, compute, first):
    queue = module.BatchQueue(compute, max_batch=2, max_wait=NEVER)

    async def use():
        gone = asyncio.create_task(queue.result_of(first))
        await turns()
        gone.cancel()
        with contextlib.suppress(module.BatchError):
            await queue.result_of(2)
        return await asyncio.gather(queue.result_of(3), queue.result_of(4))

    assert with_queue(queue, use) == [6, 8]
