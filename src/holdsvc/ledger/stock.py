"""What all stock and all holds add up to, read in short statements: the metrics' and the operator's view."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from holdsvc.ledger.database import Connection

PART_ITEMS = 10_000
"""Items that one statement adds up: some 20 ms, so that no snapshot stays open on a hot row."""

PART_HOLDS = 20_000
"""Holds that one statement counts."""

_STOCK = "SELECT * FROM holdsvc.stock_totals(%s, %s, %s, %s, %s)"
_HOLDS = "SELECT * FROM holdsvc.hold_totals(NULL, %s, %s)"


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

    def add(self, other: "Stock") -> None:
        """Adds another one's."""
        self.items += other.items
        self.held += other.held
        self.confirmed += other.confirmed
        self.remaining += other.remaining


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


async def tenants(connection: Connection) -> list[str]:
    """Every tenant that has items or keys."""
    return [row[0] for row in await connection.fetch("SELECT * FROM holdsvc.tenants()")]


async def totals(
    connection: Connection, tenant: str, top: int, part_items: int = PART_ITEMS
) -> tuple[Stock, list[TopItem]]:
    """A tenant's totals and its `top` items by units held, then confirmed."""
    stock = Stock()
    best: list[TopItem] = []
    after: tuple[str, str] | None = ("", "")
    # No item is called ("", ""): a sku has a character at least.
    while after is not None:
        [row] = await connection.fetch(_STOCK, (tenant, *after, part_items, top))
        items, held, confirmed, remaining, last_sku, last_pool, *columns = row
        stock.add(Stock(items, held, confirmed, remaining))
        found = [TopItem(h, c, r, sku, pool, tenant) for sku, pool, h, c, r in zip(*columns, strict=True)]
        best = heapq.nlargest(top, [*best, *found])
        after = None if last_sku is None else (last_sku, last_pool)
    return stock, best


async def holds(connection: Connection, part_holds: int = PART_HOLDS) -> Holds:
    """The running and the lapsed holds of all tenants."""
    counts = Holds()
    after: datetime | str | None = "-infinity"
    while after is not None:
        [[names, active, lapsed, after]] = await connection.fetch(_HOLDS, (after, part_holds))
        counts.active.update(dict(zip(names, active, strict=True)))
        counts.lapsed.update(dict(zip(names, lapsed, strict=True)))
    return counts


async def oldest_lapsed_hold_age_s(connection: Connection) -> float:
    """For how long the oldest lapsed hold waits for a sweep; 0 when none does."""
    [[age]] = await connection.fetch("SELECT holdsvc.oldest_lapsed_hold_age()")
    return 0.0 if age is None else float(age.total_seconds())


async def oldest_transactions(connection: Connection) -> OldestTransactions:
    """The oldest writer and the oldest snapshot of the cluster."""
    [ages] = await connection.fetch("SELECT * FROM holdsvc.oldest_transactions()")
    return OldestTransactions(*(0.0 if age is None else float(age.total_seconds()) for age in ages))
