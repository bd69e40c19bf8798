"""The share of the loop's time that goes to what can wait: what nobody else wants, but never less than a small part."""

import asyncio
import os
import threading
import time
from pathlib import Path

MEASURE_S = 0.05

LEFT = 0.06
"""The part of the loop's time that stays idle before more than the least is given away: a loop under all the calls that
it can serve is idle for 1 to 4 % of the time, and at half of that for 12 to 24 % beside a thousand watchers."""

GAIN = 0.25
"""How much of what is idle beyond that is given away with each measurement, or taken back where it is missing."""

IDLE_MAX = 0.2
"""However idle a measurement finds the loop, it counts as this: the share falls soon after, when calls come."""

HASTE = 0.85
"""What is left of the share with each measurement while half of `LEFT` or less is idle: calls wait by now."""

WEIGHT = 0.2
"""Weight of the latest measurement: one busy moment is no sign that calls wait."""

GOT_MIN = 0.7
"""However little of a processor the thread gets, what can wait must not wait for ever."""


class Share:
    """Follows how idle the loop's thread is; `run` it on the loop.

    A thread that waits for a processor is not idle: calls wait in it. What others would use cannot be told from what
    they use, for callers that wait for answers call less the slower they are served. So what is given away grows only
    while the loop is idle in spite of it.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._more = 1.0 - least
        """What is given away beyond the least."""
        self._idle = IDLE_MAX
        self._got = 1.0

    @property
    def value(self) -> float:
        """The share; the least is of the time that the thread gets, where it waits for a processor for a part."""
        return self._least * self._got + self._more

    async def run(self) -> None:
        """Measures until it is cancelled."""
        clock = ThreadClock()
        before = (time.monotonic(), *clock.read())
        while True:
            await asyncio.sleep(MEASURE_S)
            now = (time.monotonic(), *clock.read())
            wall_s, ran_s, waited_s = (new - old for new, old in zip(now, before, strict=True))
            self.adapt(1 - (ran_s + waited_s) / wall_s, ran_s / max(1e-9, ran_s + waited_s))
            before = now

    def adapt(self, idle: float, got: float = 1.0) -> None:
        """Takes the part of the time that was idle of late, and what the thread got of the time that it wanted."""
        self._idle += WEIGHT * (min(IDLE_MAX, idle) - self._idle)
        more = (self._more + GAIN * (self._idle - LEFT)) * (HASTE if self._idle < LEFT / 2 else 1.0)
        self._more = min(1.0 - self._least, max(0.0, more))
        self._got += WEIGHT * (max(GOT_MIN, got) - self._got)


class ThreadClock:
    """The time that this thread ran and, where the system tells (Linux), that it waited for a processor."""

    def __init__(self) -> None:
        try:
            path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
            self._file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def read(self) -> tuple[float, float]:
        """Seconds in which the thread ran, and in which it waited for a processor."""
        if self._file is None:
            return time.thread_time(), 0.0
        ran, waited, _ = os.pread(self._file, 128, 0).split()
        return int(ran) / 1e9, int(waited) / 1e9

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
