"""The feed of events: how far it is complete, and reading it, for streams, watchers and the relay."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from holdsvc.ledger import arrays, reservations
from holdsvc.ledger.database import Connection
from holdsvc.ledger.events import EventRow, rebuild
from holdsvc.model import Event, Item, ItemKey

SPAN_MAX = 50_000
"""Event ids that one statement looks at: a tenant's few among many of others are not found by an index."""

_READ = "SELECT * FROM holdsvc.read_events(%s, %s, %s, %s, %s, %s)"


class Identity(NamedTuple):
    """Which history of events the database has."""

    epoch: str
    token_key: str
    floor: int
    """The highest event id that retention has dropped."""


class Poll(NamedTuple):
    """What the feed's end looks like."""

    last_event_id: int
    passed: bool
    """Whether the mark given is reached: every id up to what was the last one then is there or never will be."""
    complete_event_id: int | None
    """With `passed`: the highest event up to there."""
    mark: str | None
    """A new mark for `last_event_id`."""
    read_time: datetime


class Position(NamedTuple):
    """A place in the feed: after this event. No later one is of a day before the one before `day`."""

    event_id: int
    day: date


UNKNOWN = Position(-1, date.min)
"""Before every event."""


class FeedEvent(NamedTuple):
    """An event with whose it is and where it lies."""

    tenant: str
    day: date
    event: Event


class Changed(NamedTuple):
    """Events that changed the same items."""

    event_ids: list[int]
    tenant: str
    items: list[ItemKey]


class Watched(NamedTuple):
    """An item as it is now; deleted: only its name and revision mean something."""

    item: Item
    deleted: bool


async def identity(connection: Connection) -> Identity:
    """Reads which history this is and where it begins."""
    [row] = await connection.fetch("SELECT * FROM holdsvc.feed_identity()")
    return Identity(*row)


async def poll(connection: Connection, value: int, mark: str | None, fence: Position) -> Poll:
    """Looks at the feed's end; takes a new mark when `mark` is reached and there is more than `value`."""
    [row] = await connection.fetch(
        "SELECT * FROM holdsvc.poll_feed(%s, %s, %s, %s)", (value, mark, fence.event_id, fence.day)
    )
    return Poll(*row)


async def item_changes(connection: Connection, after: Position, missing: Sequence[int], limit: int) -> list[Changed]:
    """Which items the events after a position changed, and those among `missing` that have appeared, of all tenants.

    Of a hot item thousands of events come as one row: with a row for each a look cost the loop five times as much.
    """
    rows = await connection.fetch(
        "SELECT array_agg(event_id), tenant, line_sku, line_pool FROM holdsvc.read_item_changes(%s, %s, %s, %s)"
        " GROUP BY tenant, line_sku, line_pool",
        (after.event_id, arrays.plain(missing), after.day, limit),
    )
    return [
        Changed(event_ids, tenant, [ItemKey(*key) for key in zip(skus or (), pools or (), strict=True)])
        for event_ids, tenant, skus, pools in rows
    ]


async def watch_items(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[Watched]:
    """Reads items as they are, in order; those that never were are left out."""
    rows = await connection.fetch(
        "SELECT * FROM holdsvc.watch_items(%s, %s, %s)",
        (tenant, arrays.texts(key.sku for key in keys), arrays.texts(key.pool for key in keys)),
    )
    return [Watched(Item(*row[4:15]), row[1] == "DELETED") for row in rows]


async def list_watched(
    connection: Connection, tenant: str, prefix: str, pools: Sequence[str] | None, after: ItemKey, limit: int
) -> list[Watched]:
    """One page of the items of a prefix as they are, deleted ones too, in order, after the item `after`."""
    rows = await connection.fetch(
        "SELECT * FROM holdsvc.list_watched_items(%s, %s, %s, %s, %s, %s)",
        (tenant, prefix, None if pools is None else arrays.texts(pools), *after, limit),
    )
    return [Watched(Item(*row[4:15]), row[1] == "DELETED") for row in rows]


async def clock(connection: Connection) -> datetime:
    """The ledger's time."""
    return (await last(connection)).read_time


async def last(connection: Connection) -> Poll:
    """Looks at the feed's end and takes no mark."""
    return await poll(connection, 2**62, None, UNKNOWN)


async def read(
    connection: Connection,
    tenant: str | None,
    after: Position,
    upto: Position,
    *,
    types: Sequence[int] | None = None,
    limit: int = 500,
) -> tuple[list[FeedEvent], Position]:
    """The next events up to `upto`, to which the feed must be complete, of a tenant or all; and how far that reaches.

    It may reach further than the last of the events, and there may be none although more follow.
    """
    reach = min(upto.event_id, after.event_id + SPAN_MAX)
    rows = await connection.fetch(
        _READ,
        (tenant, after.event_id, reach, after.day, None if types is None else arrays.plain(types), limit),
    )
    found = await rebuilt(connection, [EventRow(*row) for row in rows])
    if len(found) == limit:
        return found, Position(found[-1].event.event_id, found[-1].day)
    if reach == upto.event_id:
        return found, upto
    return found, Position(reach, found[-1].day if found else after.day)


async def rebuilt(connection: Connection, rows: list[EventRow]) -> list[FeedEvent]:
    """The events of rows, with the reservations that they are about."""
    ids: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.reservation_id is not None:
            ids.setdefault(row.tenant, {})[str(row.reservation_id)] = None
    subjects = {}
    for tenant, wanted in ids.items():
        for subject in await reservations.get(connection, tenant, list(wanted)):
            if subject is not None:
                subjects[tenant, subject.reservation_id] = subject
    return [
        FeedEvent(
            row.tenant,
            row.occur_day,
            rebuild(row, subjects[row.tenant, str(row.reservation_id)] if row.reservation_id is not None else None),
        )
        for row in rows
    ]


async def relay_position(connection: Connection, name: str) -> tuple[str, Position] | None:
    """The epoch and place to which a relay has come; None: it has not begun."""
    rows = await connection.fetch("SELECT * FROM holdsvc.relay_position(%s)", (name,))
    return (rows[0][0], Position(rows[0][1], rows[0][2])) if rows else None


async def save_relay_position(connection: Connection, name: str, epoch: str, position: Position) -> None:
    """Remembers how far a relay has come."""
    await connection.fetch("SELECT holdsvc.save_relay_position(%s, %s, %s, %s)", (name, epoch, *position))
