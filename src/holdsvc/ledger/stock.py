"""What all stock and all holds add up to, read in short statements: the metrics' and the operator's view."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from holdsvc.ledger.binding import bind_out, bind_scalar
from holdsvc.ledger.database import Connection

PART_ITEMS = 10_000
"""Items that one statement adds up: some 20 ms, so that no snapshot stays open on a hot row."""

PART_HOLDS = 20_000
"""Holds that one statement counts."""


class TopItem(NamedTuple):
    """An item with many units held."""

    held: int
    confirmed: int
    remaining: int
    sku: str
    pool: str
    tenant: str


@dataclass
class Stock:
    """A tenant's totals."""

    items: int = 0
    held: int = 0
    confirmed: int = 0
    remaining: int = 0
    closed: int = 0
    """Items whose sale is closed."""
    low: int = 0
    """Items whose level is followed and LOW."""
    sold_out: int = 0
    """Items whose level is followed and OUT."""
    waiting: int = 0
    """Waitlist entries."""
    offered: int = 0
    """Waitlist entries whose offer is held."""

    def add(self, other: "Stock") -> None:
        """Adds another one's."""
        self.items += other.items
        self.held += other.held
        self.confirmed += other.confirmed
        self.remaining += other.remaining
        self.closed += other.closed
        self.low += other.low
        self.sold_out += other.sold_out
        self.waiting += other.waiting
        self.offered += other.offered


@dataclass
class Holds:
    """What is held, by tenant."""

    active: Counter[str] = field(default_factory=Counter)
    lapsed: Counter[str] = field(default_factory=Counter)
    """Holds whose time is over and whose units no sweep has returned yet."""


class OldestTransactions(NamedTuple):
    """For how long the oldest ones have been open; 0: none is."""

    writer_s: float
    snapshot_s: float


class _Tenant(NamedTuple):
    tenant: str


class _StockPart(NamedTuple):
    items: int
    held: int
    confirmed: int
    remaining: int
    closed: int
    low: int
    sold_out: int
    last_sku: str | None
    last_pool: str | None
    top_sku: list[str]
    top_pool: list[str]
    top_held: list[int]
    top_confirmed: list[int]
    top_remaining: list[int]


class _HoldPart(NamedTuple):
    tenants: list[str]
    active: list[int]
    lapsed: list[int]
    last_expire_time: datetime | None


class _Age(NamedTuple):
    age: timedelta | None


class _Ages(NamedTuple):
    writer_age: timedelta | None
    snapshot_age: timedelta | None


_TENANTS = bind_scalar("tenants", _Tenant)
_STOCK = bind_out("stock_totals", _StockPart, "tenant", "after_sku", "after_pool", "limit", "top")
_HOLDS = bind_out("hold_totals", _HoldPart, "tenant", "after", "limit")
_LAPSED_AGE = bind_scalar("oldest_lapsed_hold_age", _Age, "tenant")
_TRANSACTIONS = bind_out("oldest_transactions", _Ages)


async def tenants(connection: Connection) -> list[str]:
    """Every tenant that has items or keys."""
    return [row.tenant for row in await _TENANTS.fetch(connection)]


async def totals(
    connection: Connection, tenant: str, top: int, part_items: int = PART_ITEMS
) -> tuple[Stock, list[TopItem]]:
    """A tenant's totals and its `top` items by units held, then confirmed."""
    stock = Stock()
    best: list[TopItem] = []
    after: tuple[str, str] | None = ("", "")
    # No item is called ("", ""): a sku has a character at least.
    while after is not None:
        part = await _STOCK.one(
            connection, tenant=tenant, after_sku=after[0], after_pool=after[1], limit=part_items, top=top
        )
        stock.add(Stock(part.items, part.held, part.confirmed, part.remaining, part.closed, part.low, part.sold_out))
        columns = (part.top_held, part.top_confirmed, part.top_remaining, part.top_sku, part.top_pool)
        best = heapq.nlargest(top, [*best, *(TopItem(*values, tenant) for values in zip(*columns, strict=True))])
        after = None if part.last_sku is None or part.last_pool is None else (part.last_sku, part.last_pool)
    return stock, best


async def holds(connection: Connection, part_holds: int = PART_HOLDS) -> Holds:
    """The running and the lapsed holds of all tenants."""
    counts = Holds()
    after: datetime | str | None = "-infinity"
    while after is not None:
        part = await _HOLDS.one(connection, tenant=None, after=after, limit=part_holds)
        counts.active.update(dict(zip(part.tenants, part.active, strict=True)))
        counts.lapsed.update(dict(zip(part.tenants, part.lapsed, strict=True)))
        after = part.last_expire_time
    return counts


async def oldest_lapsed_hold_age_s(connection: Connection) -> float:
    """For how long the oldest lapsed hold waits for a sweep; 0 when none does."""
    return _seconds((await _LAPSED_AGE.one(connection, tenant=None)).age)


async def oldest_transactions(connection: Connection) -> OldestTransactions:
    """The oldest writer and the oldest snapshot of the cluster."""
    ages = await _TRANSACTIONS.one(connection)
    return OldestTransactions(_seconds(ages.writer_age), _seconds(ages.snapshot_age))


def _seconds(age: timedelta | None) -> float:
    return 0.0 if age is None else age.total_seconds()
