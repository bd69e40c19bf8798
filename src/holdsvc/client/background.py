"""Work that goes on after its caller has left, for asyncio and for threads."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

AsyncSleep = Callable[[float], Awaitable[None]]
Sleep = Callable[[float], None]

PENDING_MAX = 1000
"""Pieces of work under way; more are dropped: what they would have cancelled expires by itself."""


class AsyncBackground:
    """Tasks that outlive the cancellation of their caller."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts work and does not wait for it."""
        if len(self._tasks) < PENDING_MAX:
            self._start(work)
        else:
            log.warning("work behind a cancelled call was dropped: %d are under way", PENDING_MAX)

    async def finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Waits for work, which goes on when the waiting task is cancelled."""
        await asyncio.shield(self._start(work))

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def join(self, timeout_s: float) -> None:
        """Waits for what is under way, at most `timeout_s`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def reset(self) -> None:
        """Forgets what is under way: its event loop has ended."""
        self._tasks = set()


class Background:
    """Threads that outlive the interruption of their caller."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    def spawn(self, work: Callable[[], None]) -> None:
        """Starts work and does not wait for it."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) < PENDING_MAX:
            thread = threading.Thread(target=work, name="holdsvc-client", daemon=True)
            thread.start()
            self._threads.add(thread)
        else:
            log.warning("work behind an interrupted call was dropped: %d are under way", PENDING_MAX)

    def finish(self, work: Callable[[], None]) -> None:
        """Does work at once."""
        work()

    def join(self, timeout_s: float) -> None:
        """Waits for what is under way, at most `timeout_s`."""
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def reset(self) -> None:
        """Forgets what is under way: a forked child has no threads of its parent."""
        self._threads = set()
