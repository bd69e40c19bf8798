"""Waiting for what sets no signal: another process, the database, the wire. Every wait has an end."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 60.0


async def until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S, pause_s: float = 0.001) -> float:
    """Returns when `condition`, a function or a coroutine function, is true; returns the seconds that took.

    Raises TimeoutError.
    """
    start = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return time.monotonic() - start
            await asyncio.sleep(pause_s)


def wait_until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S, pause_s: float = 0.02) -> float:
    """Blocks until `condition` is true; returns the seconds that took. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"not true within {timeout_s:g} s")
        time.sleep(pause_s)
    return time.monotonic() - start


async def success(
    attempt: Callable[[], Awaitable[T]],
    *errors: type[Exception],
    timeout_s: float = TIMEOUT_S,
    pause_s: float = 0.02,
) -> T:
    """Repeats a call until it raises none of these errors; returns its answer. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await attempt()
            except errors:
                await asyncio.sleep(pause_s)
