"""The share of the loop's time that goes to what can wait: what nobody else wants, but never less than a small part."""

import asyncio
import os
import threading
import time
from pathlib import Path

MEASURE_S = 0.05

LEFT = 0.09
"""The part of the loop's time that stays idle before more than the least is given away: a loop under all the calls that
it can serve is idle for 1 to 7 % of the time."""

WEIGHT = 0.3
"""Weight of the latest measurement: one busy moment is no sign that calls want more."""

SCARCE = 0.5
SCARCE_WEIGHT = 0.1
"""Below `SCARCE` the share falls at a third of the speed. Half a second in which the machine is slow is no sign that
calls want more either, and a share that fell to the least in it stayed there: without messages between them calls are
served one by one, and cost the loop half as much again."""

GOT_MIN = 0.7
"""However little of a processor the thread gets, what can wait must not wait for ever."""


class Share:
    """Follows what others use of the time of the loop's thread; `run` it on the loop.

    A thread that waits for a processor is in use: calls wait in it. What others would use cannot be told from what they
    use, for callers that wait for answers call less the slower they are served. So a small part stays idle: callers who
    use that, too, want more, and the share falls until they leave it, or to the least.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._others = 0.0
        """The part of the time that all but what can wait used of late."""
        self._got = 1.0
        self._spent_s = 0.0

    @property
    def value(self) -> float:
        """The share; the least is of the time that the thread gets, where it waits for a processor for a part."""
        return max(self._least * self._got, 1.0 - LEFT - self._others)

    def spend(self, seconds: float) -> None:
        """Says that what can wait has used so much of the share."""
        self._spent_s += seconds

    async def run(self) -> None:
        """Measures until it is cancelled."""
        clock = ThreadClock()
        before = (time.monotonic(), *clock.read())
        while True:
            await asyncio.sleep(MEASURE_S)
            now = (time.monotonic(), *clock.read())
            self.adapt(*(new - old for new, old in zip(now, before, strict=True)))
            before = now

    def adapt(self, wall_s: float, ran_s: float, waited_s: float = 0.0) -> None:
        """Takes how long the thread ran and how long it waited for a processor, of the time since the last call."""
        wanted_s = ran_s + waited_s
        others = max(0.0, wanted_s - self._spent_s) / wall_s
        got = max(GOT_MIN, ran_s / wanted_s) if wanted_s > 0 else 1.0
        falling = others > self._others
        self._others += (SCARCE_WEIGHT if falling and self.value < SCARCE else WEIGHT) * (others - self._others)
        self._got += WEIGHT * (got - self._got)
        self._spent_s = 0.0


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
