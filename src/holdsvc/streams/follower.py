"""Follows the end of the feed, once for a whole process.

It polls: changes are made through other processes too, and a NOTIFY inside a change of stock costs four fifths of the
throughput.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from holdsvc.ledger import feed, upkeep
from holdsvc.ledger.database import Database
from holdsvc.ledger.feed import Look

log = structlog.get_logger(__name__)

POLL_S = 0.05
"""Time between two looks while streams are open: an event is complete after two looks, so it is told within 0.1 s."""

POLL_IDLE_S = 1.0
"""Time between two looks while no stream is open: a new stream finds a fence that is not old."""

BEGIN_WAIT_S = 0.5
"""How long a new stream waits for the look that it should begin with: ten looks. A long transaction delays it."""


class Follower:
    """Looks at the end of the feed again and again. A loop runs `step` for as long as the process serves."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.end = feed.End()
        self._looked = asyncio.Event()
        self._wake = asyncio.Event()
        self._listeners = 0

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
        assert self.end.look is not None
        return self.end.look

    async def until(self, reached: Callable[[Look], bool]) -> Look | None:
        """The latest look, once it has reached something or BEGIN_WAIT_S is over."""
        with self.listening(), suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_WAIT_S):
                while self.end.look is None or not reached(self.end.look):
                    await self.next_look()
        return self.end.look

    async def step(self) -> float:
        """Looks once; returns when the next look is due."""
        before = self.end.look
        async with self._database.connection() as connection:
            look = await self.end.find(connection)
        if before is not None and look.history != before.history:
            log.warning("feed.history_changed", history=look.history)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
        if self.end.day_is_due():
            async with self._database.connection() as connection:
                await upkeep.create_event_partitions(connection)
        if self._listeners or look.fence is None:
            return POLL_S
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_IDLE_S):
                await self._wake.wait()
        return 0.0
