"""Long work on the loop, in slices that alternate with other calls."""

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

SLICE_S = 0.005
"""The longest work before other calls get the loop; a call that wakes up waits for two or three slices."""


class Turns:
    """Runs one slice of long work at a time: many large requests keep other calls waiting no longer than one does."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Generator[None, None, T]) -> T:
        """Runs work that yields wherever it may be interrupted, and returns what it returns.

        Work that ends without a pause takes no turn.
        """
        try:
            next(work)
        except StopIteration as done:
            short: T = done.value
            return short
        while True:
            async with self._lock:
                end = perf_counter() + SLICE_S
                try:
                    while perf_counter() < end:
                        next(work)
                except StopIteration as done:
                    result: T = done.value
                    return result
                # With the turn in hand: between two slices, of whatever request, every other call runs.
                await asyncio.sleep(0)
