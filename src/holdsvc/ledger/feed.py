"""The feed of events: how far it is complete, and reading it, for streams, watchers and the relay."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from holdsvc.ledger import arrays, items, reservations
from holdsvc.ledger.binding import bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.events import EventRow, rebuild
from holdsvc.model import Event, Item, ItemKey

SPAN_MAX = 50_000
"""Event ids that one statement looks at: a tenant's few among many of others are not found by an index."""


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


class _Change(NamedTuple):
    event_ids: list[int]
    tenant: str
    line_sku: list[str] | None
    line_pool: list[str] | None


class _RelayPosition(NamedTuple):
    epoch: str
    event_id: int
    event_day: date


class _Nothing(NamedTuple):
    nothing: None


_IDENTITY = bind_out("feed_identity", Identity)
_POLL = bind_out("poll_feed", Poll, "previous_value", "previous_mark", "fence", "day")
_CHANGES = bind("read_item_changes", _Change, "after", "missing", "day", "limit")
_WATCH = bind("watch_items", items.ItemAnswer, "tenant", "sku", "pool")
_LIST_WATCHED = bind(
    "list_watched_items",
    items.ItemAnswer,
    *("tenant", "sku_prefix", "pools", "after_sku", "after_pool", "limit"),
)
_READ = bind("read_events", EventRow, "tenant", "after", "upto", "day", "types", "limit")
_RELAY = bind_out("relay_position", _RelayPosition, "name")
_SAVE_RELAY = bind_scalar("save_relay_position", _Nothing, "name", "epoch", "event_id", "event_day")


async def identity(connection: Connection) -> Identity:
    """Reads which history this is and where it begins."""
    return await _IDENTITY.one(connection)


async def poll(connection: Connection, value: int, mark: str | None, fence: Position) -> Poll:
    """Looks at the feed's end; takes a new mark when `mark` is reached and there is more than `value`."""
    return await _POLL.one(connection, previous_value=value, previous_mark=mark, fence=fence.event_id, day=fence.day)


async def item_changes(connection: Connection, after: Position, missing: Sequence[int], limit: int) -> list[Changed]:
    """Which items the events after a position changed, and those among `missing` that have appeared, of all tenants.

    Of a hot item thousands of events come as one row: with a row for each a look cost the loop five times as much.
    """
    rows = await _CHANGES.fetch(
        connection, after=after.event_id, missing=arrays.plain(missing), day=after.day, limit=limit
    )
    return [
        Changed(
            row.event_ids,
            row.tenant,
            [ItemKey(*key) for key in zip(row.line_sku or (), row.line_pool or (), strict=True)],
        )
        for row in rows
    ]


async def watch_items(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[Watched]:
    """Reads items as they are, in order; those that never were are left out."""
    rows = await _WATCH.fetch(
        connection,
        tenant=tenant,
        sku=arrays.texts(key.sku for key in keys),
        pool=arrays.texts(key.pool for key in keys),
    )
    return [Watched(items.item_of(row), row.outcome == "DELETED") for row in rows]


async def list_watched(
    connection: Connection, tenant: str, prefix: str, pools: Sequence[str] | None, after: ItemKey, limit: int
) -> list[Watched]:
    """One page of the items of a prefix as they are, deleted ones too, in order, after the item `after`."""
    rows = await _LIST_WATCHED.fetch(
        connection,
        tenant=tenant,
        sku_prefix=prefix,
        pools=None if pools is None else arrays.texts(pools),
        after_sku=after.sku,
        after_pool=after.pool,
        limit=limit,
    )
    return [Watched(items.item_of(row), row.outcome == "DELETED") for row in rows]


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
    rows = await _READ.fetch(
        connection,
        tenant=tenant,
        after=after.event_id,
        upto=reach,
        day=after.day,
        types=None if types is None else arrays.plain(types),
        limit=limit,
    )
    found = await rebuilt(connection, rows)
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
    rows = await _RELAY.fetch(connection, name=name)
    return (rows[0].epoch, Position(rows[0].event_id, rows[0].event_day)) if rows else None


async def save_relay_position(connection: Connection, name: str, epoch: str, position: Position) -> None:
    """Remembers how far a relay has come."""
    await _SAVE_RELAY.fetch(connection, name=name, epoch=epoch, event_id=position.event_id, event_day=position.day)
