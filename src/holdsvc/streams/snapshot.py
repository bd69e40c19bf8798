"""The present state of a selection, read in pages that watchers of the same selection share."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

from holdsvc.engine.sharing import SharedReads
from holdsvc.ledger import feed
from holdsvc.ledger.feed import Place
from holdsvc.model import ItemKey
from holdsvc.streams.subscriptions import Means, Selection


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

    def __init__(self, means: Means, number: Callable[[], int], reading: asyncio.Lock) -> None:
        """`number` tells the latest change; `reading` is held from the reading of states until they are changes."""
        self._means = means
        self._number = number
        self._reading = reading
        self.reads: SharedReads[tuple[Selection, Place], Page] = SharedReads()

    async def pages(self, selection: Selection, oldest: Callable[[], int]) -> AsyncGenerator[Page]:
        """Reads what matches, deleted items too; no page is older than the change `oldest` at the time."""
        place: Place | None = 0 if selection.keys else ItemKey("", "")
        while place is not None:
            read = partial(self._read, selection, place)
            page = await self.reads.get((selection, place), read, lambda page: page.number >= oldest())
            yield page
            place = page.next

    async def _read(self, selection: Selection, place: Place) -> Page:
        means = self._means
        async with means.pacer.page():
            number = self._number()
            names, pools = sorted(selection.keys), sorted(selection.pools) or None
            read = partial(
                feed.present, tenant=selection.tenant, keys=names, prefix=selection.prefix, pools=pools, place=place
            )
            states, read_time, following = await means.read(selection.tenant, read)
            async with self._reading:
                pass  # A state that was read before this page and became a change later would take a revision back.
            items = []
            for item, deleted in states:
                key = ItemKey(item.sku, item.pool)
                if not selection.pools or key.pool in selection.pools:
                    payload = means.encoding.deleted_item(key) if deleted else means.encoding.item(item)
                    items.append((key, payload, deleted))
        return Page(number, items, read_time, following)
