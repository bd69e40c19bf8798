"""Background work: the sweep of lapsed holds, and what the tables need now and then.

Safe in any number of processes and replicas at once: the sweep skips what another one has locked.
"""

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import structlog

from holdsvc.ledger import retention, upkeep
from holdsvc.ledger.database import Conflict, Database, NothingRan, Unknown
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

UPKEEP_INTERVAL_S = 600.0

ABREAST = 2
"""Batches that a sweep releases beside each other while more has lapsed than one takes and nobody makes changes: one
does its part of the work while the other has the items and waits for the disk. On 2 cores two connections release
45,000 to 51,000 holds a second, one 22,000 to 27,000."""

BUSY_BATCH_MAX = 100
"""Holds that a sweep releases at once while callers make changes: a hot item is locked for as long as that takes."""

BUSY_PAUSE = 2.0
"""The pause after such a batch, as a multiple of the time that it took: callers have the rest of the database."""


class SweepObserver(Protocol):
    """Who hears of sweeps: the metrics."""

    def swept(self, expired_count: int, released_quantity: int) -> None:
        """A sweep has released this much."""

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
    ) -> None:
        self._settings = settings
        self._database = database
        self._observer = observer
        self._busy = busy

    async def run(self) -> None:
        """Runs until it is cancelled; a failure is logged and counted, never the end."""
        await asyncio.gather(self._sweep_forever(), self._upkeep_forever())

    async def _sweep_forever(self) -> None:
        loop = asyncio.get_running_loop()
        more = False
        while True:
            began = loop.time()
            abreast = ABREAST if more and not self._busy() else 1
            more = any(await asyncio.gather(*(self._try_sweep() for _ in range(abreast))))
            if not more:
                await asyncio.sleep(self._settings.sweep_interval.total_seconds())
            elif self._busy():
                await asyncio.sleep(BUSY_PAUSE * (loop.time() - began))

    async def _try_sweep(self) -> bool:
        """Releases one batch; tells whether more is left to take, which after a failure waits for the next sweep."""
        try:
            return await self.sweep_once()
        except (NothingRan, Unknown, Conflict) as error:
            self._observer.sweep_failed()
            log.warning(
                "reservation.cleanup_failed",
                error=type(error).__name__,
                cause=type(error.__cause__).__name__,
            )
        except Exception:
            self._observer.sweep_failed()
            log.exception("reservation.cleanup_failed")
        return False

    async def sweep_once(self) -> bool:
        """Releases one batch, a small one while callers are busy; tells whether more is left to take."""
        size = min(self._settings.sweep_batch, BUSY_BATCH_MAX) if self._busy() else self._settings.sweep_batch
        async with self._database.connection() as connection:
            released = await upkeep.release_expired(connection, None, size)
        self._observer.swept(released.expired_count, released.released_quantity)
        if released.expired_count:
            log.info(
                "reservation.cleanup",
                expired_count=released.expired_count,
                inventory_released=released.released_quantity,
            )
        return released.more and released.expired_count > 0

    async def _upkeep_forever(self) -> None:
        while True:
            try:
                async with self._database.connection() as connection:
                    made = await upkeep.create_event_partitions(connection)
                    if made:
                        log.info("event.partitions_made", count=made)
                while await self._purge():
                    await asyncio.sleep(0.1)
                while await self.drop_old_events():
                    pass
            except (NothingRan, Unknown, Conflict) as error:
                log.warning("upkeep.failed", error=type(error).__name__)
            except Exception:
                log.exception("upkeep.failed")
            await asyncio.sleep(UPKEEP_INTERVAL_S)

    async def drop_old_events(self) -> bool:
        """Drops one day of events that retention no longer keeps; tells whether there was one."""
        days_kept = math.ceil(self._settings.event_retention / timedelta(days=1))
        if not days_kept:
            return False
        async with self._database.connection() as connection:
            day = await retention.drop_day(connection, days_kept)
        if day is not None:
            log.info("event.day_dropped", day=day.isoformat())
        return day is not None

    async def _purge(self) -> bool:
        async with self._database.connection() as connection:
            return await upkeep.purge_requests(connection, self._settings.request_id_retention) > 0
