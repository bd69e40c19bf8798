"""How often watchers hear of changes when the processor has no time to spare: sales come first."""

import asyncio
import time

TICK_S = 0.25
BUSY = 0.9
FREE = 0.75
INTERVAL_MAX_S = 1.0
_FIRST_S = 0.1
_FACTOR = 1.5


class Pace:
    """Stretches the interval between two messages of a watcher while the loop's thread is busy all the time.

    A message costs some 50 µs of the thread that also serves Reserve: a thousand watchers of a hot item at ten messages a
    second would take half of it.
    """

    def __init__(self) -> None:
        self.interval_s = 0.0

    async def run(self) -> None:
        """Measures until it is cancelled."""
        wall, used = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now, now_used = time.monotonic(), time.thread_time()
            self.adapt((now_used - used) / (now - wall))
            wall, used = now, now_used

    def adapt(self, busy: float) -> None:
        """Takes the share of the time that the thread was running."""
        if busy > BUSY:
            self.interval_s = min(INTERVAL_MAX_S, max(_FIRST_S, self.interval_s) * _FACTOR)
        elif busy < FREE:
            self.interval_s = self.interval_s / _FACTOR if self.interval_s > _FIRST_S else 0.0
