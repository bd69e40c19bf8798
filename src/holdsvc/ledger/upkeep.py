"""What keeps the ledger in order: sweep, purge, partitions, recount."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from holdsvc.ledger import function_set
from holdsvc.ledger.binding import Function, Number, bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.model import Cause

R = TypeVar("R", bound=tuple[Any, ...])

VERIFY_SKUS = 200
"""Skus that one statement of a recount reads: short, so that no snapshot stays open on a hot row."""

DAYS_AHEAD = 7
"""Days for which the event table gets its partitions in advance."""


class Drift(NamedTuple):
    """A counter that differs from what the reservations add up to."""

    sku: str
    pool: str
    counter: str
    stored: int
    recomputed: int
    limit_id: str = ""
    """The limit that the counter is of; empty: the item's own."""


class Released(NamedTuple):
    """What a sweep gave back."""

    expired_count: int
    released_quantity: int
    quarantined_count: int
    """Holds that could not be expired, because their lines and their items contradict each other."""
    more: bool


class Returned(NamedTuple):
    """What went from allotments back to their return pools."""

    returned_count: int
    returned_quantity: int
    more: bool


class _Use(NamedTuple):
    compatible_since: str


class _RecountRow(NamedTuple):
    sku: str
    pool: str
    capacity: int
    remaining: int
    held: int
    confirmed: int
    waiting: int
    offered: int
    true_held: int
    true_confirmed: int
    true_waiting: int
    true_offered: int
    reservation_count: int
    deleted: bool


class _LimitRecountRow(NamedTuple):
    limit_id: str
    sku: str
    pool: str
    counter: str
    stored: int
    recomputed: int


_RELEASE = bind_out("release_expired", Released, "tenant", "max_count", "skip_busy")
_RETURN = bind_out("return_allotments", Returned, "tenant", "max_count", "skip_busy")
_PURGE = bind_scalar("purge_requests", Number, "age", "max_count")
_PURGE_MOVES = bind_scalar("purge_stock_moves", Number, "age", "max_count")
_CREATE_PARTITIONS = bind_scalar("create_event_partitions", Number, "days_ahead")
_USE = bind_out("use_function_set", _Use, "process_id", "ended")
_VERIFY = bind("verify_items", _RecountRow, "tenant", "after_sku", "limit")
_VERIFY_LIMITS = bind("verify_limits", _LimitRecountRow, "tenant", "after_sku", "last_sku")
_VERIFY_CLIENTS = bind("verify_limit_clients", _LimitRecountRow, "tenant")


async def release_expired(connection: Connection, tenant: str | None, max_count: int) -> Released:
    """Expires at most `max_count` lapsed holds of a tenant, or of all; those on items that others keep locked wait."""
    return await _first_waiting(_RELEASE, connection, tenant, max_count)


async def return_allotments(connection: Connection, tenant: str | None, max_count: int) -> Returned:
    """Returns at most `max_count` due allotments of a tenant, or of all; those that others keep locked wait."""
    return await _first_waiting(_RETURN, connection, tenant, max_count)


async def _first_waiting(work: Function[R], connection: Connection, tenant: str | None, max_count: int) -> R:
    """Waits for items that others have locked, and where that takes too long leaves them out."""
    try:
        return await work.one(connection, tenant=tenant, max_count=max_count, skip_busy=False)
    except NothingRan as error:
        if error.cause is not Cause.LOCK_WAIT:
            raise
    return await work.one(connection, tenant=tenant, max_count=max_count, skip_busy=True)


async def purge_requests(connection: Connection, age: timedelta, max_count: int = 1000) -> int:
    """Forgets at most `max_count` request ids older than `age`."""
    return (await _PURGE.one(connection, age=age, max_count=max_count)).number


async def purge_stock_moves(connection: Connection, age: timedelta, max_count: int = 1000) -> int:
    """Forgets at most `max_count` movements of goods that took effect longer than `age` ago."""
    return (await _PURGE_MOVES.one(connection, age=age, max_count=max_count)).number


async def create_event_partitions(connection: Connection) -> int:
    """Makes the event table's partitions of the week ahead, where they are missing; returns how many."""
    return (await _CREATE_PARTITIONS.one(connection, days_ahead=DAYS_AHEAD)).number


class SetTooOld(Exception):
    """The database no longer serves function sets of this code's schema version; the message says from which on."""


async def use_function_set(connection: Connection, process_id: UUID) -> None:
    """Says that a process uses this code's set, at its start and every `function_set.TOUCH_INTERVAL_S` seconds.

    Raises SetTooOld where the process must not serve.
    """
    since = (await _USE.one(connection, process_id=process_id, ended=False)).compatible_since
    if function_set.shipped().schema_version < since:
        raise SetTooOld(f"the database serves code of schema version {since} and newer: run a newer version")


async def leave_function_set(connection: Connection, process_id: UUID) -> None:
    """Says that a process that ends uses the set no longer."""
    await _USE.one(connection, process_id=process_id, ended=True)


@asynccontextmanager
async def function_set_used(connection: Connection) -> AsyncIterator[None]:
    """Says that a command uses this code's set, for the time of the block; raises SetTooOld."""
    process_id = uuid4()
    await use_function_set(connection, process_id)
    try:
        yield
    finally:
        with suppress(NothingRan, Unknown, Conflict, Failed):
            await leave_function_set(connection, process_id)


class Recount(NamedTuple):
    """What a step of a recount has seen."""

    last_sku: str | None
    """Where the next step begins; None: this was the last."""
    item_count: int
    reservation_count: int
    drifts: list[Drift]


async def verify_step(connection: Connection, tenant: str, after_sku: str) -> Recount:
    """Recomputes the counters of the next `VERIFY_SKUS` skus from their reservations, and what counts for limits."""
    rows = await _VERIFY.fetch(connection, tenant=tenant, after_sku=after_sku, limit=VERIFY_SKUS)
    drifts = []
    for row in rows:
        counters = (
            ("held", row.held, row.true_held),
            ("confirmed", row.confirmed, row.true_confirmed),
            ("waiting", row.waiting, row.true_waiting),
            ("offered", row.offered, row.true_offered),
            ("capacity", row.capacity, row.remaining + row.held + row.confirmed),
        )
        drifts += [Drift(row.sku, row.pool, name, stored, true) for name, stored, true in counters if stored != true]
    if rows:
        of_limits = await _VERIFY_LIMITS.fetch(connection, tenant=tenant, after_sku=after_sku, last_sku=rows[-1].sku)
    else:
        of_limits = await _VERIFY_CLIENTS.fetch(connection, tenant=tenant)
    drifts += [Drift(r.sku, r.pool, r.counter, r.stored, r.recomputed, r.limit_id) for r in of_limits]
    return Recount(
        last_sku=rows[-1].sku if rows else None,
        item_count=sum(not row.deleted for row in rows),
        reservation_count=sum(row.reservation_count for row in rows),
        drifts=drifts,
    )
