"""Events by the day: dropping old days, counting and exporting them."""

from datetime import date
from typing import NamedTuple

from holdsvc.ledger.binding import Nothing, Number, bind, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.events import EventRow
from holdsvc.ledger.feed import FeedEvent, rebuilt

EXPORT_MAX = 500
"""Events that one statement of an export reads."""


class EventDay(NamedTuple):
    """A day with events."""

    day: date
    event_count: int
    size_bytes: int


class _Day(NamedTuple):
    day: date | None


_DROP = bind_scalar("drop_event_partition", _Day, "days_kept")
_DAYS = bind("event_days", EventDay)
_READ_DAY = bind("read_events_of_day", EventRow, "day", "after", "limit")
_READ_BROUGHT = bind("read_history_of_day", EventRow, "day", "after_tenant", "after", "limit")
_PURGE = bind_scalar("purge_event_history", Number, "days_kept", "max_count")
_BEGIN_EPOCH = bind_scalar("begin_epoch", Nothing)


async def drop_day(connection: Connection, days_kept: int) -> date | None:
    """Drops the oldest day of events that lies further back; None: there is none, or another process drops it."""
    return (await _DROP.one(connection, days_kept=days_kept)).day


async def days(connection: Connection) -> list[EventDay]:
    """The days of which there are events, oldest first."""
    return await _DAYS.fetch(connection)


async def events_of(connection: Connection, day: date, after: int) -> list[FeedEvent]:
    """The next events of a day, of all tenants."""
    return await rebuilt(connection, await _READ_DAY.fetch(connection, day=day, after=after, limit=EXPORT_MAX))


async def brought_of(connection: Connection, day: date, after: tuple[str, int]) -> list[FeedEvent]:
    """The next events of a day that tenants have brought from other cells, after a tenant's event."""
    tenant, event_id = after
    rows = await _READ_BROUGHT.fetch(connection, day=day, after_tenant=tenant, after=event_id, limit=EXPORT_MAX)
    return await rebuilt(connection, rows)


async def purge_brought(connection: Connection, days_kept: int, max_count: int = 1000) -> int:
    """Removes events that tenants have brought from other cells and that lie further back; returns how many."""
    return (await _PURGE.one(connection, days_kept=days_kept, max_count=max_count)).number


async def begin_epoch(connection: Connection) -> None:
    """Makes every resume token and relay position of before foreign."""
    await _BEGIN_EPOCH.fetch(connection)
