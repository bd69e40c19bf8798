"""The census: totals of all stock and all holds, counted periodically for the metrics page.

The supervisor runs it, so that however many workers there are, each unit is counted once. The number of series is
bounded by settings. While the database does not answer the series are absent, because old figures would be wrong.
"""

import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.registry import Collector

from holdsvc.ledger import limits, stock, waitlist, webhooks
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.limits import LimitTotals
from holdsvc.ledger.stock import Holds, OldestTransactions, Stock, TopItem
from holdsvc.ledger.webhooks import Totals as WebhookTotals
from holdsvc.settings import Settings
from holdsvc.telemetry import families
from holdsvc.telemetry.families import Series, family

PAUSE_FACTOR = 20.0
"""The pause is at least so many times as long as the count: it uses a twentieth of a core of the database at most."""


@dataclass
class Count:
    """What one count has found."""

    stocks: dict[str, Stock] = field(default_factory=dict)
    top: list[TopItem] = field(default_factory=list)
    holds: Holds = field(default_factory=Holds)
    oldest_lapsed_s: float = 0.0
    oldest: OldestTransactions = field(default_factory=lambda: OldestTransactions(0.0, 0.0))
    limits: LimitTotals = field(default_factory=lambda: LimitTotals(0, 0))
    webhooks: WebhookTotals = field(default_factory=lambda: WebhookTotals(0, 0, 0, None))
    took_s: float = 0.0
    time_s: float = 0.0


class Census(Collector):
    """Counts with each `step` of a background loop; the metrics page collects the last count."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        # One connection is enough.
        self._settings = settings.model_copy(update={"pool_size": 1})
        self._dsn = dsn
        self._database: Database | None = None
        self._count: Count | None = None

    async def step(self) -> float:
        """Counts once, and returns the pause until the next count; raises what the database raises."""
        try:
            if self._database is None:
                self._database = await _opened(self._settings, self._dsn)
            await self._database.look()
            async with self._database.connection() as connection:
                self._count = await self.count(connection)
        except BaseException:
            # No figures rather than old ones.
            self._count = None
            raise
        return max(self._settings.census_interval.total_seconds(), self._count.took_s * PAUSE_FACTOR)

    async def close(self) -> None:
        """Closes its connection."""
        if self._database is not None:
            await self._database.close()

    async def count(self, connection: Connection) -> Count:
        """Counts once."""
        began = time.monotonic()
        items = self._settings.census_items
        # First, because it matters most: it shows a sweep that is stuck.
        count = Count(oldest_lapsed_s=await stock.oldest_lapsed_hold_age_s(connection))
        count.oldest = await stock.oldest_transactions(connection)
        for tenant in await stock.tenants(connection):
            total, top = await stock.totals(connection, tenant, items)
            total.waiting, total.offered = await waitlist.totals(connection, tenant)
            count.stocks[tenant] = total
            count.top = heapq.nlargest(items, [*count.top, *top])
        count.holds = await stock.holds(connection)
        count.limits = await limits.totals(connection)
        count.webhooks = await webhooks.totals(connection)
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


async def _opened(settings: Settings, dsn: str) -> Database:
    database = Database(settings, dsn)
    try:
        await database.open()
    except BaseException:
        await database.close()
        raise
    return database


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
    yield family(
        families.WAITLIST_ENTRIES,
        (
            ((tenant, state), entries)
            for tenant, total in count.stocks.items()
            for state, entries in (("waiting", total.waiting), ("offered", total.offered))
        ),
    )
    yield family(families.CLOSED_ITEMS, (((tenant,), total.closed) for tenant, total in count.stocks.items()))
    yield family(
        families.LEVELS,
        (
            ((tenant, level), items)
            for tenant, total in count.stocks.items()
            for level, items in (("low", total.low), ("out", total.sold_out))
        ),
    )
    # A tenant without holds has a series too: 0 differs from an absent series.
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
    yield family(families.LIMITS, [(("active",), count.limits.active), (("building",), count.limits.building)])
    yield family(
        families.WEBHOOKS,
        [((state,), getattr(count.webhooks, state)) for state in ("active", "failing", "disabled")],
    )
    overdue = count.webhooks.overdue
    yield family(families.WEBHOOK_OVERDUE, [((), overdue.total_seconds() if overdue else 0.0)])
    yield family(families.CENSUS_TIME, [((), count.time_s)])
    yield family(families.CENSUS_SECONDS, [((), count.took_s)])
