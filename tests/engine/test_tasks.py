"""Background loops that go on, and ending tasks."""

import asyncio

import pytest

from holdsvc.engine import tasks
from holdsvc.ledger.failures import NothingRan, Unknown
from holdsvc.telemetry.counters import LOOP_FAILURES


async def test_a_task_that_loses_a_cancel_ends_all_the_same() -> None:
    lost = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.end([task])
    assert lost.is_set()
    assert task.cancelled()


async def test_a_task_that_ends_with_an_error_is_ended() -> None:
    async def failing() -> None:
        raise ValueError

    async with asyncio.timeout(5):
        await tasks.end([asyncio.create_task(failing())])
        await tasks.end([])


async def test_a_loop_whose_step_raises_counts_it_and_runs_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PAUSE_MIN_S", 0.0)
    reached = asyncio.Event()
    outcomes: list[Exception | None] = [ValueError("a fault of ours"), NothingRan(), Unknown(), None]

    async def step() -> float:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        reached.set()
        return 60.0

    loop = asyncio.create_task(tasks.forever("test", step))
    async with asyncio.timeout(5):
        await reached.wait()
        await tasks.end([loop])
    assert loop.cancelled()
    assert LOOP_FAILURES.labels("test")._value.get() == 3
