"""The census: totals of all stock and all holds, counted periodically for the metrics page.

The supervisor runs it, so that however many workers there are, each unit is counted once. The number of series is
bounded by settings. While the database does not answer the series are absent, because old figures would be wrong.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.registry import Collector

from holdsvc.cell_file import CellAddress
from holdsvc.ledger import limits, stock, waitlist, webhooks
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.limits import LimitTotals
from holdsvc.ledger.stock import Holds, OldestTransactions, Stock, TopItem
from holdsvc.ledger.webhooks import Totals as WebhookTotals
from holdsvc.settings import Settings
from holdsvc.telemetry import families
from holdsvc.telemetry.families import Family, Series, family

Row = tuple[tuple[str, ...], float]
"""Labels besides the cell, and a value."""

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


class Census:
    """Counts a cell with each `step` of a background loop."""

    def __init__(self, settings: Settings, address: CellAddress) -> None:
        # One connection is enough.
        self._settings = settings.of_cell(address).model_copy(update={"pool_size": 1})
        self._address = address
        self._database: Database | None = None
        self.cell = address.name
        self.last: Count | None = None

    async def step(self) -> float:
        """Counts once, and returns the pause until the next count; raises what the database raises."""
        try:
            if self._database is None:
                self._database = await _opened(self._settings, self._address)
            await self._database.look()
            async with self._database.connection() as connection:
                self.last = await self.count(connection)
        except BaseException:
            # No figures rather than old ones.
            self.last = None
            raise
        return max(self._settings.census_interval.total_seconds(), self.last.took_s * PAUSE_FACTOR)

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


class CensusPage(Collector):
    """The last counts of all cells, for the metrics page."""

    def __init__(self, cells: Sequence[Census]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Series]:
        """Each family once, with the rows of every cell that could be counted."""
        counts = [(each.cell, each.last) for each in self._cells if each.last is not None]
        for which, rows in _ROWS if counts else ():
            yield family(which, [((cell, *labels), value) for cell, count in counts for labels, value in rows(count)])

    def describe(self) -> Iterable[Series]:
        """Nothing: what there is depends on the counts."""
        return ()


async def _opened(settings: Settings, address: CellAddress) -> Database:
    database = Database(settings, address.service, address.name)
    try:
        await database.open()
    except BaseException:
        await database.close()
        raise
    return database


def _by_state(count: Count) -> Iterator[Row]:
    for tenant, total in count.stocks.items():
        yield (tenant, "held"), total.held
        yield (tenant, "confirmed"), total.confirmed
        yield (tenant, "remaining"), total.remaining


def _entries(count: Count) -> Iterator[Row]:
    for tenant, total in count.stocks.items():
        yield (tenant, "waiting"), total.waiting
        yield (tenant, "offered"), total.offered


def _levels(count: Count) -> Iterator[Row]:
    for tenant, total in count.stocks.items():
        yield (tenant, "low"), total.low
        yield (tenant, "out"), total.sold_out


def _top(count: Count) -> Iterator[Row]:
    for item in count.top:
        place = item.tenant, item.sku, item.pool
        yield (*place, "held"), item.held
        yield (*place, "confirmed"), item.confirmed
        yield (*place, "remaining"), item.remaining


def _one(value: Callable[[Count], float]) -> Callable[[Count], Iterable[Row]]:
    return lambda count: [((), value(count))]


_ROWS: Sequence[tuple[Family, Callable[[Count], Iterable[Row]]]] = (
    (families.UNITS, _by_state),
    (families.ITEMS, lambda count: [((tenant,), total.items) for tenant, total in count.stocks.items()]),
    (families.WAITLIST_ENTRIES, _entries),
    (families.CLOSED_ITEMS, lambda count: [((tenant,), total.closed) for tenant, total in count.stocks.items()]),
    (families.LEVELS, _levels),
    # A tenant without holds has a series too: 0 differs from an absent series.
    (families.ACTIVE_HOLDS, lambda count: [((tenant,), count.holds.active[tenant]) for tenant in count.stocks]),
    (families.LAPSED_HOLDS, _one(lambda count: count.holds.lapsed.total())),
    (families.OLDEST_LAPSED_HOLD, _one(lambda count: count.oldest_lapsed_s)),
    (families.FENCE_AGE, _one(lambda count: count.oldest.writer_s)),
    (families.SNAPSHOT_AGE, _one(lambda count: count.oldest.snapshot_s)),
    (families.TOP_ITEM_UNITS, _top),
    (families.LIMITS, lambda count: [(("active",), count.limits.active), (("building",), count.limits.building)]),
    (
        families.WEBHOOKS,
        lambda count: [((state,), getattr(count.webhooks, state)) for state in ("active", "failing", "disabled")],
    ),
    (
        families.WEBHOOK_OVERDUE,
        _one(lambda count: count.webhooks.overdue.total_seconds() if count.webhooks.overdue else 0.0),
    ),
    (families.CENSUS_TIME, _one(lambda count: count.time_s)),
    (families.CENSUS_SECONDS, _one(lambda count: count.took_s)),
)
