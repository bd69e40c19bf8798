"""The background sweep: how many batches at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from holdsvc.engine import tasks
from holdsvc.engine.sweeper import SWEEPS_AT_ONCE, Sweeper
from holdsvc.ledger import holds, items, upkeep
from holdsvc.ledger.database import Connection, Database
from holdsvc.model import Done
from holdsvc.settings import Settings
from tests.support.holds import CALLER, reserves, stock

LAPSED = 600
BATCH = 50


class Counting(Database):
    """Counts the connections that are lent at the same time."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        super().__init__(settings, dsn)
        self.most = self._out = 0

    @asynccontextmanager
    async def connection(self, lock_wait_s: float | None = None, **options: Any) -> AsyncIterator[Connection]:
        async with super().connection(lock_wait_s, **options) as connection:
            self._out += 1
            self.most = max(self.most, self._out)
            try:
                yield connection
            finally:
                self._out -= 1


class Swept:
    """Remembers what sweeps have released."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.units = self.failures = 0
        self.all = asyncio.Event()

    def swept(self, expired_count: int, released_quantity: int) -> None:
        self.counts.append(expired_count)
        self.units += released_quantity
        if self.units >= LAPSED:
            self.all.set()

    def allotments_returned(self, quantity: int) -> None:
        raise AssertionError(f"there are no allotments: {quantity}")

    def quarantined(self, count: int) -> None:
        pass

    def sweep_failed(self) -> None:
        self.failures += 1


@pytest.fixture
async def counting(ledger_dsn: str, settings: Settings) -> AsyncIterator[Counting]:
    pool = Counting(settings, ledger_dsn)
    await pool.open()
    yield pool
    await pool.close()


async def lapse(database: Database) -> None:
    """Makes holds on three items, half of them on one, that lapse at once."""
    async with database.connection() as connection:
        await items.create(connection, CALLER, stock(("hot", "a", "b")))
        lapsing = reserves([("hot", "a", "hot", "b")[number % 4] for number in range(LAPSED)], ttl_us=1)
        assert all(type(one) is Done for one in await holds.reserve(connection, "default", lapsing))


async def sweep_all(database: Counting, *, busy: bool) -> Swept:
    observer = Swept()
    settings = Settings.load(auth="off", sweep_batch=BATCH)
    sweeper = Sweeper(settings, database, observer, lambda: busy)
    task = asyncio.create_task(tasks.forever("sweep", sweeper.sweep))
    await asyncio.wait_for(observer.all.wait(), 30)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return observer


@pytest.mark.parametrize(("busy", "at_once"), [(False, SWEEPS_AT_ONCE), (True, 1)])
async def test_a_backlog_is_released_two_batches_at_a_time_but_one_by_one_beside_callers(
    counting: Counting, busy: bool, at_once: int
) -> None:
    await lapse(counting)
    swept = await sweep_all(counting, busy=busy)
    assert (sum(swept.counts), swept.units, swept.failures) == (LAPSED, LAPSED, 0)
    assert max(swept.counts) == BATCH
    assert counting.most == at_once
    async with counting.connection() as connection:
        recount = await upkeep.verify_step(connection, "default", "")
    assert (recount.item_count, recount.reservation_count, recount.drifts) == (3, 0, [])
