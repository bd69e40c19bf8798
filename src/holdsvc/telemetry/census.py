"""The census: what all stock and all holds add up to, counted now and then for the metrics page.

The supervisor runs it, so that however many workers there are, each unit is counted once. The number of series is
bounded by settings. When the database does not answer, the series end: old figures would lie.
"""

import asyncio
import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from holdsvc.ledger import stock
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.stock import Holds, OldestTransactions, Stock, TopItem
from holdsvc.settings import Settings
from holdsvc.telemetry import families
from holdsvc.telemetry.families import Family

log = structlog.get_logger(__name__)

Series = CounterMetricFamily | GaugeMetricFamily

PAUSE_FACTOR = 20.0
"""The pause is so many times as long as the count took, at least: a twentieth of a core of the database at most."""


@dataclass
class Count:
    """What one count has found."""

    stocks: dict[str, Stock] = field(default_factory=dict)
    top: list[TopItem] = field(default_factory=list)
    holds: Holds = field(default_factory=Holds)
    oldest_lapsed_s: float = 0.0
    oldest: OldestTransactions = field(default_factory=lambda: OldestTransactions(0.0, 0.0))
    took_s: float = 0.0
    time_s: float = 0.0


class Census(Collector):
    """Counts in a thread of its own between `start` and `stop`; the metrics page collects the last count."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        # One connection is enough.
        self._settings = settings.model_copy(update={"pool_size": 1})
        self._dsn = dsn
        self._count: Count | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts counting."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="holdsvc census", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5.0)

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        database = Database(self._settings, self._dsn)
        opened = False
        while not self._stop.is_set():
            pause_s = self._settings.census_interval.total_seconds()
            try:
                if not opened:
                    await database.open()
                    opened = True
                async with database.connection() as connection:
                    self._count = await self.count(connection)
                pause_s = max(pause_s, self._count.took_s * PAUSE_FACTOR)
            except Exception as error:  # noqa: BLE001 - whatever it is, there are no figures and the next count tries again
                self._count = None
                log.warning("census.failed", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
        await database.close()

    async def count(self, connection: Connection) -> Count:
        """Counts once."""
        began = time.monotonic()
        items = self._settings.census_items
        # First, for it matters most: a sweep that is stuck shows here.
        count = Count(oldest_lapsed_s=await stock.oldest_lapsed_hold_age_s(connection))
        count.oldest = await stock.oldest_transactions(connection)
        for tenant in await stock.tenants(connection):
            count.stocks[tenant], top = await stock.totals(connection, tenant, items)
            count.top = heapq.nlargest(items, [*count.top, *top])
        count.holds = await stock.holds(connection)
        self._fold(count)
        count.took_s = time.monotonic() - began
        count.time_s = time.time()
        return count

    def _fold(self, count: Count) -> None:
        """Adds up the tenants beyond the limit: those with the fewest units held and confirmed."""
        by_size = sorted(count.stocks, key=lambda name: (-count.stocks[name].held - count.stocks[name].confirmed, name))
        rest = by_size[self._settings.census_tenants :]
        if not rest:
            return
        other = Stock()
        active = 0
        for tenant in rest:
            other.add(count.stocks.pop(tenant))
            active += count.holds.active.pop(tenant, 0)
        count.stocks[families.OTHER_TENANTS] = other
        count.holds.active[families.OTHER_TENANTS] = active
        count.top = [item for item in count.top if item.tenant in count.stocks]

    def collect(self) -> Iterator[Series]:
        """The last count as Prometheus reads it."""
        count = self._count
        return iter(()) if count is None else _families(count)

    def describe(self) -> Iterable[Series]:
        """Nothing: what there is depends on the count."""
        return ()


class Workforce(Collector):
    """How many workers there are, as the supervisor tells: living, wanted, died so far."""

    def __init__(self, tell: Callable[[], tuple[int, int, int]]) -> None:
        self._tell = tell

    def collect(self) -> Iterator[Series]:
        """The present numbers."""
        for which, number in zip(
            (families.WORKERS, families.WORKERS_WANTED, families.WORKER_DEATHS), self._tell(), strict=True
        ):
            yield family(which, [((), number)])


def family(which: Family, rows: Iterable[tuple[tuple[str, ...], float]]) -> Series:
    """A family's series from their labels and values."""
    counts = which.name.endswith("_total")
    made = (CounterMetricFamily if counts else GaugeMetricFamily)(which.name, which.description, labels=which.labels)
    for labels, value in rows:
        made.add_metric(labels, value)
    return made


def _families(count: Count) -> Iterator[Series]:
    yield family(
        families.UNITS,
        (
            ((tenant, state), units)
            for tenant, total in count.stocks.items()
            for state, units in (
                ("held", total.held),
                ("confirmed", total.confirmed),
                ("remaining", total.remaining),
            )
        ),
    )
    yield family(families.ITEMS, (((tenant,), total.items) for tenant, total in count.stocks.items()))
    # A tenant without holds has a series too: 0 is a figure, an absent series is none.
    yield family(families.ACTIVE_HOLDS, (((tenant,), count.holds.active[tenant]) for tenant in count.stocks))
    yield family(families.LAPSED_HOLDS, [((), count.holds.lapsed.total())])
    yield family(families.OLDEST_LAPSED_HOLD, [((), count.oldest_lapsed_s)])
    yield family(families.FENCE_AGE, [((), count.oldest.writer_s)])
    yield family(families.SNAPSHOT_AGE, [((), count.oldest.snapshot_s)])
    yield family(
        families.TOP_ITEM_UNITS,
        (
            ((item.tenant, item.sku, item.pool, state), units)
            for item in count.top
            for state, units in (("held", item.held), ("confirmed", item.confirmed), ("remaining", item.remaining))
        ),
    )
    yield family(families.CENSUS_TIME, [((), count.time_s)])
    yield family(families.CENSUS_SECONDS, [((), count.took_s)])
