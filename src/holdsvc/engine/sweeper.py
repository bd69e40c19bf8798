"""Background work: the sweep of lapsed holds, and what the tables need now and then.

Safe in any number of processes and replicas at once: a sweep skips rows that another one has locked.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

import structlog

from holdsvc.engine import tasks
from holdsvc.ledger import limits, retention, upkeep, waitlist
from holdsvc.ledger.database import Database
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

UPKEEP_INTERVAL_S = 600.0

PURGE_PAUSE_S = 0.1
"""Pause between two purges of request ids."""

LIMITS_INTERVAL_S = 1.0
LIMITS_WAIT_S = 0.1
"""Pause between two looks for limits to work on, and the same while older transactions are running."""

SUBJECT_STEPS = 20
"""Steps of an upkeep through the subjects of limits: each worker goes on where its last upkeep ended."""

SWEEPS_AT_ONCE = 2
"""Batches that are released side by side while more has lapsed than one batch takes and callers make no changes."""

ROUND_S = 0.25
"""How long they go on before waiters are served and allotments are returned."""

BUSY_BATCH_MAX = 100
"""Holds that a sweep releases at once while callers make changes: a hot item is locked for as long as that takes."""

RETURN_BATCH = 100
"""Allotments that one transaction returns: their items are locked for as long as that takes."""

BUSY_PAUSE_FACTOR = 2.0
"""The pause after such a batch, as a multiple of the time that it took: callers have the rest of the database."""


class SweepObserver(Protocol):
    """Receives what the metrics show of sweeps."""

    def swept(self, expired_count: int, released_quantity: int) -> None:
        """A sweep has released this much."""

    def quarantined(self, count: int) -> None:
        """A sweep has found holds that it cannot expire, and leaves them alone from now on."""

    def allotments_returned(self, quantity: int) -> None:
        """A sweep has sent so many units of allotments back to their return pools."""

    def sweep_failed(self) -> None:
        """A sweep has failed; the next one tries again."""


class Sweeper:
    """Sweeps every `sweep_interval`, for the first time at once, and looks after the tables every ten minutes."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        observer: SweepObserver,
        busy: Callable[[], bool] = lambda: False,
        serve: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._lock_wait_s = settings.lock_timeout.total_seconds()
        self._database = database
        self._observer = observer
        self._busy = busy
        self._serve = serve
        """Serves the waitlists of all tenants."""
        self._subject = limits.FIRST_SUBJECT
        self._more = False
        """Whether the last sweep left lapsed holds that it could have taken."""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        await asyncio.gather(
            tasks.forever("sweep", self.sweep),
            tasks.forever("limits", self.build_limits),
            tasks.forever("upkeep", self.keep_up),
        )

    async def sweep(self) -> float:
        """Runs a sweep, two side by side where there is much to do; returns the pause until the next one, seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        at_once = SWEEPS_AT_ONCE if self._more and not self._busy() else 1
        self._more = False
        step = self.sweep_once if at_once == 1 else self._sweep_on
        results = await asyncio.gather(*(step() for _ in range(at_once)), return_exceptions=True)
        if self._serve is not None:
            await self._serve()
        failures = [result for result in results if isinstance(result, BaseException)]
        for _ in failures:
            self._observer.sweep_failed()
        if failures:
            raise failures[0]
        self._more = True in results
        # After the holds: what lapsed has come free by now.
        await self.return_allotments()
        if not self._more:
            return self._settings.sweep_interval.total_seconds()
        return BUSY_PAUSE_FACTOR * (loop.time() - began) if self._busy() else 0.0

    async def _sweep_on(self) -> bool:
        """Releases batch after batch, and waits for no other; returns whether more is left to take."""
        loop = asyncio.get_running_loop()
        end = loop.time() + ROUND_S
        while await self.sweep_once():
            if self._busy() or loop.time() >= end:
                return True
        return False

    async def sweep_once(self) -> bool:
        """Releases one batch, a small one while callers are busy; returns whether more is left to take."""
        size = min(self._settings.sweep_batch, BUSY_BATCH_MAX) if self._busy() else self._settings.sweep_batch
        async with self._database.connection(self._lock_wait_s) as connection:
            released = await upkeep.release_expired(connection, None, size)
        self._observer.swept(released.expired_count, released.released_quantity)
        if released.quarantined_count:
            self._observer.quarantined(released.quarantined_count)
            log.error("reservation.quarantined", count=released.quarantined_count)
        if released.expired_count:
            log.info(
                "reservation.cleanup",
                expired_count=released.expired_count,
                inventory_released=released.released_quantity,
            )
        return released.more and released.expired_count > 0

    async def build_limits(self) -> float:
        """Does a part of the work on new and deleted limits; returns the pause until the next one, seconds."""
        began = asyncio.get_running_loop().time()
        async with self._database.connection(self._lock_wait_s) as connection:
            built = await limits.build(connection)
        if built.busy:
            took = asyncio.get_running_loop().time() - began
            return BUSY_PAUSE_FACTOR * took if self._busy() else 0.0
        return LIMITS_WAIT_S if built.waiting else LIMITS_INTERVAL_S

    async def return_allotments(self) -> None:
        """Sends what remains of allotments that are due back to their return pools."""
        returned = None
        while returned is None or (returned.more and returned.returned_count):
            async with self._database.connection(self._lock_wait_s) as connection:
                returned = await upkeep.return_allotments(connection, None, RETURN_BATCH)
            if returned.returned_count:
                self._observer.allotments_returned(returned.returned_quantity)
                log.info("allotment.returned", count=returned.returned_count, quantity=returned.returned_quantity)

    async def keep_up(self) -> float:
        """Makes partitions, forgets what is past its retention; returns the pause, seconds."""
        async with self._database.connection(self._lock_wait_s) as connection:
            made = await upkeep.create_event_partitions(connection)
        if made:
            log.info("event.partitions_made", count=made)
        while await self._purge():
            await asyncio.sleep(PURGE_PAUSE_S)
        await self._purge_subjects()
        while await self.drop_old_events():
            pass
        return UPKEEP_INTERVAL_S

    async def _purge_subjects(self) -> None:
        """Looks at some subjects of limits, and forgets those that have no unit any more."""
        for _ in range(SUBJECT_STEPS):
            async with self._database.connection(self._lock_wait_s) as connection:
                _, self._subject = await limits.purge_subjects(connection, self._subject)
            if self._subject == limits.FIRST_SUBJECT:
                return
            await asyncio.sleep(PURGE_PAUSE_S)

    async def drop_old_events(self) -> bool:
        """Drops one day of events that retention no longer keeps; returns whether there may be more."""
        days_kept = math.ceil(self._settings.event_retention / timedelta(days=1))
        if not days_kept:
            return False
        async with self._database.connection(self._lock_wait_s) as connection:
            day = await retention.drop_day(connection, days_kept)
            brought = await retention.purge_brought(connection, days_kept)
        if day is not None:
            log.info("event.day_dropped", day=day.isoformat())
        return day is not None or brought > 0

    async def _purge(self) -> bool:
        async with self._database.connection(self._lock_wait_s) as connection:
            requests = await upkeep.purge_requests(connection, self._settings.request_id_retention)
            moves = await upkeep.purge_stock_moves(connection, self._settings.count_max_age)
            entries = await waitlist.purge(connection, self._settings.waitlist_retention)
        return requests + moves + entries > 0
