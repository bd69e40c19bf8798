"""Reads that several readers ask for at about the same time are done once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEPT_MAX = 8
"""Results that are kept: readers of the same pages are not quite at the same one."""


class SharedReads(Generic[K, V]):
    """Reads under way and the latest results, by what is read."""

    def __init__(self) -> None:
        self._reads: dict[K, asyncio.Future[V]] = {}
        self._waiting: dict[asyncio.Future[V], int] = {}

    async def get(self, key: K, run: Callable[[], Awaitable[V]], usable: Callable[[V], bool]) -> V:
        """What `run` returns, or a usable result of another reader's read; raises what the read raises."""
        while (read := self._reads.get(key)) is not None:
            if usable(result := await self._wait(key, read)):
                return result
            if self._reads.get(key) is read:
                del self._reads[key]
        read = self._reads[key] = asyncio.ensure_future(run())
        for old in [kept for kept, other in self._reads.items() if other.done()][:-KEPT_MAX]:
            del self._reads[old]
        return await self._wait(key, read)

    def clear(self) -> None:
        """Forgets all results."""
        self._reads.clear()

    async def _wait(self, key: K, read: asyncio.Future[V]) -> V:
        self._waiting[read] = self._waiting.get(read, 0) + 1
        try:
            return await asyncio.shield(read)
        finally:
            self._waiting[read] -= 1
            if not self._waiting[read]:
                del self._waiting[read]
                if not read.done() or read.cancelled() or read.exception():
                    # No reader waits for it any more, or it failed: it is not kept.
                    read.cancel()
                    if self._reads.get(key) is read:
                        del self._reads[key]
