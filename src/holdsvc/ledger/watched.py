"""What watchers are told of items: which of them have changed, and how they are now.

A change is told as soon as it is committed, also where the feed is not complete up to it: the latest state wins.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NamedTuple

from holdsvc.ledger import arrays, feed, items
from holdsvc.ledger.binding import bind
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Look, Position
from holdsvc.model import Item, ItemKey

EVENTS_MAX = 5000
"""Events that one statement reads; those that changed the same items come as one row."""

MISSING_MAX = 20_000
"""Ids of running transactions that are looked for one by one; with more, changes may be missed."""

PAGE_MAX = 500
"""Items that one statement reads; encoding them keeps the loop for some 5 ms."""

PageStart = int | ItemKey
"""Where a page begins: at this one of the items that are named, or after this item of the prefix."""


class Changed(NamedTuple):
    """Events that changed the same items."""

    event_ids: list[int]
    tenant: str
    items: list[ItemKey]


class Watched(NamedTuple):
    """An item as it is now; deleted: only its name and revision mean something."""

    item: Item
    deleted: bool

    @property
    def key(self) -> ItemKey:
        """The item's name."""
        return ItemKey(self.item.sku, self.item.pool)


class _Change(NamedTuple):
    event_ids: list[int]
    tenant: str
    line_sku: list[str] | None
    line_pool: list[str] | None


_CHANGES = bind("read_item_changes", _Change, "after", "missing", "day", "limit")
_WATCH = bind("watch_items", items.ItemAnswer, "tenant", "sku", "pool")
_LIST_WATCHED = bind("list_watched_items", items.ItemAnswer, *items.LIST)


class Tail:
    """How far a reader has read the changes of all tenants, and which of them it has still to find."""

    def __init__(self) -> None:
        self._end: int | None = None
        """The highest event id that was read; None: the reader has not begun."""
        self._missing: set[int] = set()
        """Ids below it whose events have not been seen: their transactions run or were undone."""
        self._lost_at: int | None = None
        """Once the feed is complete up to this id, changes before it may have been missed."""

    @property
    def begun(self) -> bool:
        """Whether the reader has begun."""
        return self._end is not None

    def begin(self, look: Look) -> None:
        """Begins after this look; without a fence, also with the changes whose transactions still ran then."""
        self._missing.clear()
        self._end = look.fence.event_id if look.fence else look.last_event_id
        self._lost_at = None if look.fence else look.last_event_id

    def end(self) -> None:
        """Ends: ids of before mean nothing any more."""
        self._end = None

    def has_lost(self, look: Look) -> bool:
        """Whether changes may have been missed, all of which have been committed by this look; told once."""
        lost = self._lost_at is not None and look.complete_id >= self._lost_at
        if lost:
            self._lost_at = None
        return lost

    async def changes(self, connection: Connection, look: Look) -> AsyncGenerator[list[Changed]]:
        """Reads what has changed up to a look, in parts; a part counts as read when the next one is asked for."""
        assert self._end is not None
        more = look.last_event_id > self._end or bool(self._missing)
        while more:
            found = await changes(connection, Position(self._end, look.day), sorted(self._missing), EVENTS_MAX)
            yield found
            seen = {event_id for change in found for event_id in change.event_ids}
            self._advance(seen, self._end)
            more = len(seen) >= EVENTS_MAX
        self._missing = {event_id for event_id in self._missing if event_id > look.complete_id}

    def _advance(self, seen: set[int], end: int) -> None:
        """Moves on to the highest id seen and remembers the gaps before it."""
        self._missing -= seen
        highest = max(seen, default=0)
        if highest > end:
            if highest - end - len(seen) + len(self._missing) > MISSING_MAX:
                self._lost_at = highest
                self._missing.clear()
            else:
                self._missing.update(set(range(end + 1, highest)) - seen)
            self._end = highest


async def changes(connection: Connection, after: Position, missing: Sequence[int], limit: int) -> list[Changed]:
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


async def states(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[Watched]:
    """Reads items as they are, in order; those that never were are left out."""
    rows = await _WATCH.fetch(
        connection,
        tenant=tenant,
        sku=arrays.texts(key.sku for key in keys),
        pool=arrays.texts(key.pool for key in keys),
    )
    return [_watched(row) for row in rows]


async def page(
    connection: Connection,
    *,
    tenant: str,
    keys: Sequence[ItemKey],
    prefix: str | None,
    pools: Sequence[str] | None,
    start: PageStart,
) -> tuple[list[Watched], datetime, PageStart | None]:
    """One page of items as they are: those named, then those of a prefix (None: of none). Deleted ones too.

    With it come a time than which the states are not older, and the start of the next page; None: this is the last.
    """
    read_time = (await feed.last(connection)).read_time
    if isinstance(start, int):
        end = start + PAGE_MAX
        found = await states(connection, tenant, keys[start:end])
        of_prefix = None if prefix is None else ItemKey("", "")
        return found, read_time, end if end < len(keys) else of_prefix
    assert prefix is not None
    after = start if start.sku else None
    rows, looked_to = await items.list_rows(_LIST_WATCHED, connection, tenant, prefix, pools, after, PAGE_MAX)
    return [_watched(row) for row in rows], read_time, None if looked_to is None else ItemKey(*looked_to)


def _watched(row: items.ItemAnswer) -> Watched:
    return Watched(items.item_of(row), row.outcome == "DELETED")
