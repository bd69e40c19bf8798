"""Watching inventory: what changed is read once for a process, encoded once, and told to each watcher at its pace.

Each stream is one task that sends a snapshot and then, again and again, what its topic remembers after its cursor. A
watcher has no queue: one that is slow gets the newest state of each item.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import NamedTuple

from holdsvc.engine.sharing import SharedReads
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Look, Place, Position
from holdsvc.model import ItemKey
from holdsvc.streams.subscriptions import Change, Means, Selection, Topic, Topics, Update, fitting

EVENTS_MAX = 5000
"""Events that one statement reads; those that changed the same items come as one row."""

MISSING_MAX = 20_000
"""Ids of running transactions that are looked for one by one; with more, watchers read a snapshot again."""


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


class WatchHub:
    """Reads what changed and hands it to the watchers. A loop runs `step` for as long as the process serves."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self._topics = Topics(means.encoding.update)
        self._number = 0
        """Of the latest change."""
        self._reading = asyncio.Lock()
        """Held from the reading of states until they are changes of their topics."""
        self._pages: SharedReads[tuple[Selection, Place], Page] = SharedReads()
        self._history = ""
        self.read_time: datetime | None = None
        """What was committed before then has been handed out, but for what `_lost_at` means."""
        self._tail: int | None = None
        """The highest event id that was read; None before the first."""
        self._missing: set[int] = set()
        """Ids below the tail whose events have not been seen: their transactions run or were undone."""
        self._lost_at: int | None = None
        """Once the feed is complete up to this id, watchers read a snapshot: changes before it may have been missed."""

    @property
    def watchers(self) -> int:
        """How many streams there are."""
        return sum(topic.watchers for topic in self._topics.by_selection.values())

    # Reading.

    async def step(self) -> float:
        """Reads what has changed since the last look."""
        look = await self.means.follower.next_look()
        if look.history != self._history:
            if self._history:
                self._tail = None
                self._pages.clear()
                self._resync()
            self._history = look.history
        if self._topics.by_selection:
            if self._tail is None:
                self._begin(look)
            async with self._reading, self.means.database.connection() as connection:
                await self._read_on(connection, look)
            self.read_time = look.read_time
        return 0.0

    def _resync(self) -> None:
        """Makes all watchers read a snapshot."""
        self._number += 1
        for topic in self._topics.by_selection.values():
            topic.forget(self._number)
            self.means.pacer.wake(topic.waiting)

    def _begin(self, look: Look) -> None:
        """Tells the changes after this look; without a fence, also those whose transactions still ran then."""
        self._missing.clear()
        self._tail = look.fence.event_id if look.fence else look.last_event_id
        self._lost_at = None if look.fence else look.last_event_id

    async def _read_on(self, connection: Connection, look: Look) -> None:
        assert self._tail is not None
        if self._lost_at is not None and look.complete_id >= self._lost_at:
            self._lost_at = None
            self._resync()
        more = look.last_event_id > self._tail or bool(self._missing)
        while more:
            after = Position(self._tail, look.day)
            found = await feed.item_changes(connection, after, sorted(self._missing), EVENTS_MAX)
            # Items first: where they cannot be read, the next look finds the same events again.
            await self._read_items(connection, found)
            seen = {event_id for change in found for event_id in change.event_ids}
            self._advance(seen)
            more = len(seen) >= EVENTS_MAX
        self._missing = {event_id for event_id in self._missing if event_id > look.complete_id}

    def _advance(self, seen: set[int]) -> None:
        """Moves the tail to the highest id seen and remembers the gaps before it."""
        assert self._tail is not None
        self._missing -= seen
        highest = max(seen, default=0)
        if highest > self._tail:
            if highest - self._tail - len(seen) + len(self._missing) > MISSING_MAX:
                self._lost_at = highest
                self._missing.clear()
            else:
                self._missing.update(set(range(self._tail + 1, highest)) - seen)
            self._tail = highest

    async def _read_items(self, connection: Connection, found: list[feed.Changed]) -> None:
        wanted: dict[str, set[ItemKey]] = {}
        for change in found:
            watched = {key for key in change.items if self._topics.of(change.tenant, key)}
            wanted.setdefault(change.tenant, set()).update(watched)
        for tenant, keys in wanted.items():
            names = sorted(keys)
            for start in range(0, len(names), feed.PAGE_MAX):
                states = await feed.watch_items(connection, tenant, names[start : start + feed.PAGE_MAX])
                self._hand_out(tenant, states)

    def _hand_out(self, tenant: str, states: list[feed.Watched]) -> None:
        encoding, changes_max = self.means.encoding, self._topics.changes_max()
        for item, deleted in states:
            key = ItemKey(item.sku, item.pool)
            topics = self._topics.of(tenant, key)
            if topics:
                self._number += 1
                payload = encoding.deleted_item(key) if deleted else encoding.item(item)
                change = Change(self._number, item.revision, payload)
                for topic in topics:
                    if topic.put(key, change, changes_max):
                        self.means.pacer.wake(topic.waiting)

    # Streams.

    async def pages(self, selection: Selection, oldest: Callable[[], int]) -> AsyncGenerator[Page]:
        """Reads what matches, deleted items too, in pages that watchers of the same selection share.

        No page is older than the change `oldest` at the time.
        """
        place: Place | None = 0 if selection.keys else ItemKey("", "")
        while place is not None:
            read = partial(self._page, selection, place)
            page = await self._pages.get((selection, place), read, lambda page: page.number >= oldest())
            yield page
            place = page.next

    async def _page(self, selection: Selection, place: Place) -> Page:
        encoding = self.means.encoding
        async with self.means.pacer.page():
            number = self._number
            names, pools = sorted(selection.keys), sorted(selection.pools) or None
            read = partial(
                feed.present, tenant=selection.tenant, keys=names, prefix=selection.prefix, pools=pools, place=place
            )
            states, read_time, following = await self.means.read(selection.tenant, read)
            async with self._reading:
                pass  # A state that was read before this page and became a change later would take a revision back.
            items = []
            for item, deleted in states:
                key = ItemKey(item.sku, item.pool)
                if not selection.pools or key.pool in selection.pools:
                    payload = encoding.deleted_item(key) if deleted else encoding.item(item)
                    items.append((key, payload, deleted))
        return Page(number, items, read_time, following)

    async def watch(self, selection: Selection, interval_s: float) -> AsyncGenerator[bytes]:
        """Yields messages: a snapshot, `complete`, then changes, at most one message in `interval_s`; heartbeats.

        A watcher that is further behind than its topic remembers gets a snapshot again. Raises SHUTTING_DOWN when the
        process stops.
        """
        look = await self.means.follower.until(lambda look: look.fence is not None)
        if not self._topics.by_selection and look is not None:
            # From a look before the snapshot: what is committed after it is told as a change.
            self._begin(look)
        self._number += 1
        topic = self._topics.join(selection, self._number)
        watcher = _Watcher(self, topic)
        try:
            with self.means.follower.listening():
                while True:
                    for messages in (watcher.snapshot(), watcher.changes(interval_s)):
                        async with aclosing(messages):
                            async for message in messages:
                                yield message
        finally:
            self._topics.leave(topic)


class _Watcher:
    """One stream, and how far it has been told."""

    def __init__(self, hub: WatchHub, topic: Topic) -> None:
        self._hub = hub
        self._topic = topic
        self._turn = hub.means.pacer.turn
        self._encode = hub.means.encoding.update
        self._cursor = -1
        """It has been told every change up to this number."""
        self._complete = False

    async def snapshot(self) -> AsyncGenerator[bytes]:
        """Yields the present state; another time than the first, also what is deleted.

        An item that has changed since the first page was read is left to the changes, which tell its state last.
        """
        topic, again, cursor, read_time = self._topic, self._cursor >= 0, -1, None
        pages = self._hub.pages(topic.selection, lambda: max(cursor, topic.forgotten))
        async with aclosing(pages):
            async for page in pages:
                cursor, read_time = page.number if cursor < 0 else cursor, page.read_time
                payloads = [
                    payload
                    for key, payload, deleted in page.items
                    if (again or not deleted) and not topic.changed(key, cursor)
                ]
                while payloads:
                    count = fitting(payloads)
                    message = self._encode(Update(payloads[:count], read_time))
                    await self._hub.means.pacer.bulk(len(message))
                    yield message
                    del payloads[:count]
        self._cursor, end = cursor, topic.last
        while not self._complete and topic.forgotten <= self._cursor:
            await self._turn()
            if self._cursor >= end:
                self._complete = True
                yield self._encode(Update([], read_time, complete=True))
            elif topic.forgotten <= self._cursor:
                message, self._cursor = topic.message(self._cursor, self._hub.read_time)
                yield message

    async def changes(self, interval_s: float) -> AsyncGenerator[bytes]:
        """Yields what changes, until the topic no longer remembers what comes after the cursor."""
        topic, loop, heartbeat_s = self._topic, asyncio.get_running_loop(), self._hub.means.heartbeat_s
        told_time, sent_at = self._hub.read_time, loop.time()
        while topic.forgotten <= self._cursor:
            await self._turn(sent_at + min(interval_s, heartbeat_s))
            if topic.last <= self._cursor:
                await self._turn(sent_at + heartbeat_s, topic.waiting)
            message = b""
            if topic.last > self._cursor >= topic.forgotten and loop.time() >= sent_at + interval_s:
                message, self._cursor = topic.message(self._cursor, self._hub.read_time)
            elif self._hub.read_time != told_time:
                # Not while the database is silent: the watcher had better go to another replica.
                message = self._encode(Update([], self._hub.read_time))
            told_time, sent_at = self._hub.read_time, loop.time()
            if message:
                yield message
