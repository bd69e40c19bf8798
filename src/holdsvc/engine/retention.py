"""Retention of reservations: removes what ended long ago, step by step beside the callers' work.

Safe in any number of processes and replicas at once: they share one walk, whose place is in the database.
"""

import asyncio

import structlog

from holdsvc.engine import tasks
from holdsvc.ledger import removal
from holdsvc.ledger.database import Database
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

PAUSE_MIN_S = 0.02
PAUSE_FACTOR = 4.0
"""The pause after a step, as a multiple of the time that it took: callers have the rest of the database."""

LOOK_INTERVAL_S = 60.0
"""How often a process looks whether the next walk is due."""


class Retention:
    """Applies RESERVATION_RETENTION; where it is 0 nothing runs."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._age = settings.reservation_retention
        self._lock_wait_s = settings.lock_timeout.total_seconds()
        self._database = database

    async def run(self) -> None:
        """Runs until it is cancelled."""
        if self._age:
            await tasks.forever("retention", self.step)

    async def step(self) -> float:
        """Takes one step of the walk; returns the pause until the next one, seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self._database.connection(self._lock_wait_s) as connection:
            removed = await removal.remove(connection, self._age)
        if removed.removed_count:
            log.info("reservation.removed", count=removed.removed_count)
        if not removed.more:
            return LOOK_INTERVAL_S
        return max(PAUSE_MIN_S, PAUSE_FACTOR * (loop.time() - began))
