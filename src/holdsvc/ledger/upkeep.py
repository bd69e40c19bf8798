"""What keeps the ledger in order: sweep, purge, partitions, recount."""

from datetime import timedelta
from typing import NamedTuple

from psycopg.errors import LockNotAvailable

from holdsvc.ledger.database import Connection, NothingRan
from holdsvc.model import Drift

VERIFY_SKUS = 200
"""Skus that one statement of a recount reads: short, so that no snapshot stays open on a hot row."""

_RELEASE = "SELECT * FROM holdsvc.release_expired_reservations(%s, %s, %s)"


class Released(NamedTuple):
    """What a sweep gave back."""

    expired_count: int
    released_quantity: int
    more: bool


async def release_expired(connection: Connection, tenant: str | None, max_count: int) -> Released:
    """Expires at most `max_count` lapsed holds of a tenant, or of all; those on items that others keep locked wait."""
    try:
        [row] = await connection.fetch(_RELEASE, (tenant, max_count, False))
    except NothingRan as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        [row] = await connection.fetch(_RELEASE, (tenant, max_count, True))
    return Released(*row)


async def purge_requests(connection: Connection, age: timedelta, max_count: int = 1000) -> int:
    """Forgets at most `max_count` request ids older than `age`."""
    [[purged]] = await connection.fetch("SELECT holdsvc.purge_requests(%s, %s)", (age, max_count))
    return int(purged)


async def create_event_partitions(connection: Connection) -> int:
    """Makes the event table's partitions of the week ahead, where they are missing; returns how many."""
    [[made]] = await connection.fetch("SELECT holdsvc.create_event_partitions()")
    return int(made)


class Recount(NamedTuple):
    """What a step of a recount has seen."""

    last_sku: str | None
    """Where the next step begins; None: this was the last."""
    item_count: int
    reservation_count: int
    drifts: list[Drift]


async def verify_step(connection: Connection, tenant: str, after_sku: str) -> Recount:
    """Recomputes the counters of the next `VERIFY_SKUS` skus from their reservations."""
    rows = await connection.fetch("SELECT * FROM holdsvc.verify_items(%s, %s, %s)", (tenant, after_sku, VERIFY_SKUS))
    drifts = []
    for sku, pool, capacity, remaining, held, confirmed, true_held, true_confirmed, _, _ in rows:
        counters = (
            ("held", held, true_held),
            ("confirmed", confirmed, true_confirmed),
            ("capacity", capacity, remaining + held + confirmed),
        )
        drifts += [Drift(sku, pool, name, stored, true) for name, stored, true in counters if stored != true]
    item_count = sum(not deleted for *_, deleted in rows)
    return Recount(rows[-1][0] if rows else None, item_count, sum(row[8] for row in rows), drifts)
