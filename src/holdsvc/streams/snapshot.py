"""The present state of a selection, read in pages that watchers of the same selection share."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.model import ItemKey
from holdsvc.streams.sharing import SharedReads
from holdsvc.streams.subscriptions import Means, Selection

PAGE_MAX = 500
"""Items that one statement reads; encoding them keeps the loop for some 5 ms."""

READ_TIMEOUT_S = 30.0

Place = int | ItemKey
"""Where a page begins: at this one of the items that were named, or after this item of the prefix."""


class Page(NamedTuple):
    """A part of a snapshot."""

    number: int
    """The latest change when the read began."""
    items: list[tuple[ItemKey, bytes, bool]]
    """Items as bytes, and whether they are deleted."""
    read_time: datetime
    """The states are not older."""
    next: Place | None
    """Where the next page begins; None: this is the last."""


class Snapshots:
    """Reads snapshots for all watchers of a process."""

    def __init__(self, means: Means, number: Callable[[], int], settled: Callable[[], Awaitable[None]]) -> None:
        """`number` tells the latest change; after `settled`, what was read before has become changes."""
        self._means = means
        self._number = number
        self._settled = settled
        self._reads: SharedReads[tuple[Selection, Place], Page] = SharedReads()

    def forget(self) -> None:
        """Forgets what was read of another history."""
        self._reads.clear()

    async def pages(self, selection: Selection, oldest: Callable[[], int]) -> AsyncGenerator[Page]:
        """Reads what matches, deleted items too; no page is older than the change `oldest` at the time."""
        place: Place | None = 0 if selection.keys else ItemKey("", "")
        while place is not None:
            read = partial(self._read, selection, place)
            page = await self._reads.get((selection, place), read, lambda page: page.number >= oldest())
            yield page
            place = page.next

    async def _read(self, selection: Selection, place: Place) -> Page:
        means = self._means
        async with means.pacer.page():
            number = self._number()
            deadline = asyncio.get_running_loop().time() + READ_TIMEOUT_S
            read = partial(_states, selection, place)
            states, read_time, following = await means.engine.read(selection.tenant, read, deadline)
            # A state that was read before this page and becomes a change after it would take a revision back.
            await self._settled()
            items = []
            for item, deleted in states:
                key = ItemKey(item.sku, item.pool)
                if not selection.pools or key.pool in selection.pools:
                    payload = means.encoding.deleted_item(key) if deleted else means.encoding.item(item)
                    items.append((key, payload, deleted))
        return Page(number, items, read_time, following)


async def _states(
    selection: Selection, place: Place, connection: Connection
) -> tuple[list[feed.Watched], datetime, Place | None]:
    """Reads the time, then one page: the states are at least that new."""
    read_time = await feed.clock(connection)
    if isinstance(place, int):
        names = sorted(selection.keys)
        end = place + PAGE_MAX
        found = await feed.watch_items(connection, selection.tenant, names[place:end])
        of_prefix = None if selection.prefix is None else ItemKey("", "")
        return found, read_time, end if end < len(names) else of_prefix
    assert selection.prefix is not None
    pools = sorted(selection.pools) or None
    found = await feed.list_watched(connection, selection.tenant, selection.prefix, pools, place, PAGE_MAX)
    if len(found) < PAGE_MAX:
        return found, read_time, None
    return found, read_time, ItemKey(found[-1].item.sku, found[-1].item.pool)
