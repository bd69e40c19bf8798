"""What all streams of a process share: how many may be open, and the turns to send."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from holdsvc import outages
from holdsvc.engine import tasks
from holdsvc.engine.pacer import Pacer
from holdsvc.errors import HoldError
from holdsvc.model import Cause
from holdsvc.settings import Settings


class Sending:
    """One per process. `start` it on the loop that serves the calls."""

    def __init__(self, settings: Settings, busy: Callable[[], bool], pressed: Callable[[], bool]) -> None:
        """`busy`: callers make changes; `pressed`: some of them wait for a batch."""
        self.pacer = Pacer(busy, pressed)
        self._max = settings.streams_max
        self._open = 0
        self._turns: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to give turns."""
        self._turns = asyncio.create_task(tasks.forever("stream_turns", self.pacer.step))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a stream while it lasts; raises OVERLOADED when there are too many."""
        if self._open >= self._max:
            raise HoldError(outages.overloaded(Cause.STREAMS_MAX))
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN."""
        self.pacer.close()
        if self._turns is not None:
            await tasks.end([self._turns])
