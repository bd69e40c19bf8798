"""Follows the end of the feed, once for a whole process.

It polls: changes are made through other processes too, and a NOTIFY inside a change of stock costs four fifths of the
throughput.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import structlog

from holdsvc.engine import tasks
from holdsvc.ledger import feed, upkeep
from holdsvc.ledger.database import Database
from holdsvc.ledger.feed import Look

log = structlog.get_logger(__name__)

POLL_S = 0.05
"""Time between two looks while streams are open: an event is complete after two looks, so it is told within 0.1 s."""

POLL_IDLE_S = 1.0
"""Time between two looks while no stream is open: a new stream finds a fence that is not old."""

READY_S = 1.0
"""How long a new stream waits for the first fence of a process that has just started."""

DAY_S = 1.0
"""Time between two attempts to move the feed's day on to the clock's."""


class Follower:
    """Looks at the end of the feed again and again. `run` it for as long as the process serves."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end = feed.End()
        self._looked = asyncio.Event()
        self._wake = asyncio.Event()
        self._listeners = 0
        self._day_due = 0.0

    @property
    def look(self) -> Look | None:
        """The latest look; None before the first one."""
        return self._end.look

    @property
    def lag_s(self) -> float:
        """For how long open transactions have kept the feed from becoming complete."""
        return self._end.lag_s

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Looks often while this lasts."""
        self._listeners += 1
        self._wake.set()
        try:
            yield
        finally:
            self._listeners -= 1

    async def next_look(self) -> Look:
        """Waits for the next look and returns it."""
        await self._looked.wait()
        assert self._end.look is not None
        return self._end.look

    async def ready(self) -> None:
        """Waits until there is a fence, but not for long: a transaction that runs for long keeps the first one away."""
        with self.listening(), suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while self.look is None or self.look.fence is None:
                    await self.next_look()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        await tasks.forever("feed", self._step)

    async def _step(self) -> float:
        before = self.look
        async with self._database.connection() as connection:
            look = await self._end.find(connection)
            if look.read_time.date() > look.feed_day and monotonic() >= self._day_due:
                self._day_due = monotonic() + DAY_S
                await upkeep.create_event_partitions(connection)
        if before is not None and look.epoch != before.epoch:
            log.warning("feed.epoch_changed", epoch=look.epoch)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
        if self._listeners or look.fence is None:
            return POLL_S
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_IDLE_S):
                await self._wake.wait()
        return 0.0
