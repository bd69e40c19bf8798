"""Turns of streams: at their time, when woken, in slices beside other work, and none after the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise

import pytest

from holdsvc.engine import pacer as module
from holdsvc.engine import tasks
from holdsvc.engine.pacer import Pacer, Turn
from holdsvc.errors import HoldError


@pytest.fixture
async def pacer() -> AsyncIterator[Pacer]:
    made = Pacer(lambda: True, lambda: False)
    loop = asyncio.create_task(tasks.forever("test_turns", made.step))
    yield made
    await tasks.end([loop])


async def test_a_turn_comes_not_before_it_is_due(pacer: Pacer) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await pacer.turn(start + 0.05)
    assert loop.time() >= start + 0.04


async def test_one_that_waits_has_its_turn_when_it_is_woken(pacer: Pacer) -> None:
    waiting: set[Turn] = set()
    turn = asyncio.create_task(pacer.turn(asyncio.get_running_loop().time() + 3600, waiting))
    while not waiting:
        await asyncio.sleep(0)
    pacer.wake(waiting)
    async with asyncio.timeout(5):
        await turn
    assert not waiting


async def test_turns_come_in_order_and_in_slices(pacer: Pacer) -> None:
    served: list[int] = []

    async def stream(number: int) -> None:
        await pacer.turn()
        served.append(number)

    rounds = 0
    streams = [asyncio.create_task(stream(number)) for number in range(3 * module.SLICE)]
    async with asyncio.timeout(5):
        while not all(task.done() for task in streams):
            before = len(served)
            await asyncio.sleep(0)
            assert len(served) - before <= module.SLICE
            rounds += 1
    assert served == sorted(served)
    assert rounds > 3


async def test_after_the_end_waiting_ends_and_nobody_begins_to_wait(pacer: Pacer) -> None:
    turns = [asyncio.create_task(pacer.turn(asyncio.get_running_loop().time() + 3600)) for _ in range(3)]
    await asyncio.sleep(0)
    pacer.close()
    for awaited in (*turns, pacer.turn(), pacer.bulk(1), pacer.page().__aenter__()):
        with pytest.raises(HoldError) as error:
            async with asyncio.timeout(5):
                await awaited
        assert error.value.reason == "SHUTTING_DOWN"


async def test_pages_are_read_one_at_a_time_with_pauses_while_callers_are_busy(pacer: Pacer) -> None:
    loop = asyncio.get_running_loop()
    times: list[tuple[float, float]] = []

    async def read() -> None:
        async with pacer.page():
            began = loop.time()
            await asyncio.sleep(0.02)
            times.append((began, loop.time()))

    await asyncio.gather(*(read() for _ in range(3)))
    for (_, ended), (began, _) in pairwise(times):
        assert began - ended >= 0.02 * module.PAGE_PAUSE * 0.9


async def test_a_reader_that_goes_away_leaves_the_pause_to_the_next(pacer: Pacer) -> None:
    loop = asyncio.get_running_loop()

    async def read() -> None:
        async with pacer.page():
            await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.03)
    # Before the pause begins: whatever holds up the test then adds to it.
    start = loop.time()
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    async with pacer.page():
        assert loop.time() - start >= 0.03 * module.PAGE_PAUSE * 0.9


async def test_large_sends_are_limited_by_bytes_while_callers_are_busy(pacer: Pacer) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*(pacer.bulk(module.BULK_BYTES_S // 40) for _ in range(4)))
    assert loop.time() - start >= 0.09
