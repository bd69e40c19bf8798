"""Events by the day: dropping old days, counting and exporting them."""

from datetime import date
from typing import NamedTuple

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


async def drop_day(connection: Connection, days_kept: int) -> date | None:
    """Drops the oldest day of events that lies further back; None: there is none, or another process is at it."""
    [[day]] = await connection.fetch("SELECT holdsvc.drop_event_partition(%s)", (days_kept,))
    return day  # type: ignore[no-any-return]


async def days(connection: Connection) -> list[EventDay]:
    """The days of which there are events, oldest first."""
    return [EventDay(*row) for row in await connection.fetch("SELECT * FROM holdsvc.event_days()")]


async def events_of(connection: Connection, day: date, after: int) -> list[FeedEvent]:
    """The next events of a day, of all tenants."""
    rows = await connection.fetch("SELECT * FROM holdsvc.read_events_of_day(%s, %s, %s)", (day, after, EXPORT_MAX))
    return await rebuilt(connection, [EventRow(*row) for row in rows])


async def begin_epoch(connection: Connection) -> None:
    """Makes every resume token and relay position of before foreign."""
    await connection.fetch("SELECT holdsvc.begin_epoch()")
