"""Reservations that have ended: their removal by retention, and reading them before it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from holdsvc.ledger import reservations
from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.model import Reservation

SCAN_MAX = 500
"""Reservations that one step looks at: some milliseconds."""

EVENTS_MAX = 1000
"""Events that one step writes."""

WALK_PAUSE = timedelta(hours=1)
"""From the beginning of one walk over all reservations to that of the next one, at least."""

READ_MAX = 50
"""Reservations that one statement of an export reads: each may have a hundred lines."""


class Removed(NamedTuple):
    """What a step of retention has done."""

    removed_count: int
    more: bool
    """Whether the walk has not come to its end."""


class _Page(NamedTuple):
    tenants: list[str]
    ids: list[UUID]
    last_id: UUID | None


class Ended(NamedTuple):
    """One page of an export."""

    reservations: list[tuple[str, Reservation]]
    """Each with its tenant."""
    last_id: str | None
    """Where the next page begins; None: this was the last."""


_REMOVE = bind_out("remove_ended", Removed, "age", "pause", "scan_max", "events_max")
_READ = bind_out("read_ended", _Page, "tenant", "age", "after", "scan_max")


async def remove(
    connection: Connection, age: timedelta, scan_max: int = SCAN_MAX, events_max: int = EVENTS_MAX
) -> Removed:
    """Takes one step of the walk that all processes share: removes what ended longer than `age` ago."""
    return await _REMOVE.one(connection, age=age, pause=WALK_PAUSE, scan_max=scan_max, events_max=events_max)


async def pages(
    connection: Connection, tenant: str | None, age: timedelta | None, after: str, scan_max: int = SCAN_MAX
) -> AsyncIterator[Ended]:
    """The reservations of a tenant or of all after the id `after`: those that a removal with `age` takes, None: all."""
    last_id: str | None = after
    while last_id is not None:
        page = await _READ.one(connection, tenant=tenant, age=age, after=last_id, scan_max=scan_max)
        last_id = None if page.last_id is None else str(page.last_id)
        found = []
        for start in range(0, len(page.ids), READ_MAX):
            part = slice(start, start + READ_MAX)
            found += await _read(connection, page.tenants[part], page.ids[part])
        yield Ended(found, last_id)


async def _read(connection: Connection, tenants: list[str], ids: list[UUID]) -> list[tuple[str, Reservation]]:
    found: list[tuple[str, Reservation]] = []
    for tenant in dict.fromkeys(tenants):
        own = [str(id_) for of, id_ in zip(tenants, ids, strict=True) if of == tenant]
        # What retention has removed since the page was found is left out.
        found += [(tenant, r) for r in await reservations.get(connection, tenant, own) if r is not None]
    return sorted(found, key=lambda each: each[1].reservation_id)
