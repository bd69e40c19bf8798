"""Ending background tasks."""

import asyncio

from holdsvc.engine import tasks


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
