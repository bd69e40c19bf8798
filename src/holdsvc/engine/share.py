"""The share of the loop's time that goes to what can wait: what nobody else wants, but never less than a small part."""

import asyncio
import os
import threading
import time
from pathlib import Path

MEASURE_S = 0.05

LEFT = 0.05
"""The part of the loop's time that stays idle before more is given away."""

GAIN = 4
"""How much of each idle part is given away: four fifths of what others leave."""

FALL = 0.3
RISE = 0.15
"""Weights of the latest measurement, where it means less and where it means more. FALL * (1 + GAIN) is below 2: so it
settles."""


class Share:
    """Follows how idle the loop's thread is; `run` it on the loop.

    A thread that waits for a processor is not idle: calls wait in it. What others would use cannot be told from what
    they use, for callers that wait for answers call less the slower they are served. So what is given away grows only
    while the loop is idle in spite of it.
    """

    def __init__(self, least: float) -> None:
        self.value = 1.0
        self._least = least

    async def run(self) -> None:
        """Measures until it is cancelled."""
        clock = ThreadClock()
        before, wanted = time.monotonic(), clock.wanted_s()
        while True:
            await asyncio.sleep(MEASURE_S)
            now, now_wanted = time.monotonic(), clock.wanted_s()
            self.adapt(1 - (now_wanted - wanted) / (now - before))
            before, wanted = now, now_wanted

    def adapt(self, idle: float) -> None:
        """Takes the part of the latest time in which the loop had nothing to do."""
        wanted = min(1.0, self._least + GAIN * max(0.0, idle - LEFT))
        self.value += (RISE if wanted > self.value else FALL) * (wanted - self.value)


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
