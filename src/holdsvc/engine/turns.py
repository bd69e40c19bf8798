"""Whose turn it is to send: watchers go a few at a time, and fewer while sales keep the loop busy.

A message costs the loop some 55 µs. A thousand watchers of a hot item woken at once would keep every Reserve waiting
for as long as that takes, several times on its way: it took the rate from 1,700 to 94 a second. So they go a few at a
time, and while the loop's thread has no time to spare their share of it falls to a few percent.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

SLICE = 32
"""Watchers that send together: about two milliseconds."""

TICK_S = 0.001
COST_S = 0.00006
"""What a message costs the loop."""

MEASURE_S = 0.1
BUSY = 0.9
FREE = 0.8
SHARE_MIN = 0.05
"""At full Reserve load a thousand watchers left 91 % of its rate with this, 76 % with 0.08 (2 cores, all on them)."""
FALL = 0.7
RISE = 1.3


class Turns:
    """Grants turns in the order in which they were asked for."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        self._asked = asyncio.Event()
        self.share = 1.0
        """The part of the loop's time that sending may take."""

    def ask(self, grant: Callable[[], None], when: float) -> None:
        """Calls `grant` when it is the asker's turn, not before `when` on the loop's clock."""
        loop = asyncio.get_running_loop()
        if when > loop.time():
            loop.call_at(when, self._enqueue, grant)
        else:
            self._enqueue(grant)

    def _enqueue(self, grant: Callable[[], None]) -> None:
        self._queue.append(grant)
        self._asked.set()

    async def run(self) -> None:
        """Grants until it is cancelled."""
        await asyncio.gather(self._grant(), self._measure())

    async def _grant(self) -> None:
        while True:
            self._asked.clear()
            if not self._queue:
                await self._asked.wait()
            count = min(SLICE, len(self._queue))
            for _ in range(count):
                self._queue.popleft()()
            await asyncio.sleep(max(TICK_S, count * COST_S * (1 / self.share - 1)))

    async def _measure(self) -> None:
        clock = ThreadClock()
        wall, wanted = time.monotonic(), clock.wanted_s()
        while True:
            await asyncio.sleep(MEASURE_S)
            now, now_wanted = time.monotonic(), clock.wanted_s()
            self.adapt((now_wanted - wanted) / (now - wall))
            wall, wanted = now, now_wanted

    def adapt(self, busy: float) -> None:
        """Takes the part of the time in which the loop's thread ran or wanted to."""
        if busy > BUSY:
            self.share = max(SHARE_MIN, self.share * FALL)
        elif busy < FREE:
            self.share = min(1.0, self.share * RISE)


class ThreadClock:
    """The time that this thread ran and, where the system tells (Linux), that it waited for a processor."""

    def __init__(self) -> None:
        try:
            path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
            self._file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def wanted_s(self) -> float:
        """Seconds in which the thread ran or wanted to."""
        if self._file is None:
            return time.thread_time()
        ran, waited, _ = os.pread(self._file, 128, 0).split()
        return (int(ran) + int(waited)) / 1e9

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
