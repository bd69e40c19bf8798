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
from holdsvc.ledger import watched
from holdsvc.ledger.database import Connection
from holdsvc.ledger.watched import Changed, PageStart, Tail, Watched
from holdsvc.model import ItemKey
from holdsvc.streams.subscriptions import Change, Means, Selection, Topic, Topics, Update, fitting


class Page(NamedTuple):
    """A part of a snapshot."""

    number: int
    """The latest change when the read began."""
    items: list[tuple[ItemKey, bytes, bool]]
    """Items as bytes, and whether they are deleted."""
    read_time: datetime
    """The states are not older."""
    next: PageStart | None
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
        self._pages: SharedReads[tuple[Selection, PageStart], Page] = SharedReads()
        self._history = ""
        self.read_time: datetime | None = None
        """What was committed before then has been handed out, but for what the tail has lost."""
        self._tail = Tail()

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
                self._tail.end()
                self._pages.clear()
                self._resync()
            self._history = look.history
        if self._topics.by_selection:
            if not self._tail.begun:
                self._tail.begin(look)
            if self._tail.has_lost(look):
                self._resync()
            async with (
                self._reading,
                self.means.database.connection() as connection,
                aclosing(self._tail.changes(connection, look)) as parts,
            ):
                async for found in parts:
                    # Where its items cannot be read, a part does not count as read: the next look finds it again.
                    await self._read_items(connection, found)
            self.read_time = look.read_time
        return 0.0

    def _resync(self) -> None:
        """Makes all watchers read a snapshot."""
        self._number += 1
        for topic in self._topics.by_selection.values():
            topic.forget(self._number)
            self.means.pacer.wake(topic.waiting)

    async def _read_items(self, connection: Connection, found: list[Changed]) -> None:
        wanted: dict[str, set[ItemKey]] = {}
        for change in found:
            watching = {key for key in change.items if self._topics.of(change.tenant, key)}
            wanted.setdefault(change.tenant, set()).update(watching)
        for tenant, keys in wanted.items():
            names = sorted(keys)
            for start in range(0, len(names), watched.PAGE_MAX):
                states = await watched.states(connection, tenant, names[start : start + watched.PAGE_MAX])
                self._hand_out(tenant, states)

    def _hand_out(self, tenant: str, states: list[Watched]) -> None:
        changes_max = self._topics.changes_max()
        for state in states:
            topics = self._topics.of(tenant, state.key)
            if topics:
                self._number += 1
                change = Change(self._number, state.item.revision, self.means.encoding.item(state))
                for topic in topics:
                    if topic.put(state.key, change, changes_max):
                        self.means.pacer.wake(topic.waiting)

    # Streams.

    async def pages(self, selection: Selection, oldest: Callable[[], int]) -> AsyncGenerator[Page]:
        """Reads what matches, deleted items too, in pages that watchers of the same selection share.

        No page is older than the change `oldest` at the time.
        """
        start: PageStart | None = 0 if selection.keys else ItemKey("", "")
        while start is not None:
            read = partial(self._page, selection, start)
            page = await self._pages.get((selection, start), read, lambda page: page.number >= oldest())
            yield page
            start = page.next

    async def _page(self, selection: Selection, start: PageStart) -> Page:
        async with self.means.pacer.page():
            number = self._number
            names, pools = sorted(selection.keys), sorted(selection.pools) or None
            read = partial(
                watched.page, tenant=selection.tenant, keys=names, prefix=selection.prefix, pools=pools, start=start
            )
            states, read_time, following = await self.means.read(selection.tenant, read)
            async with self._reading:
                pass  # A state that was read before this page and became a change later would take a revision back.
            seen = [state for state in states if not selection.pools or state.item.pool in selection.pools]
            items = [(state.key, self.means.encoding.item(state), state.deleted) for state in seen]
        return Page(number, items, read_time, following)

    async def watch(self, selection: Selection, interval_s: float) -> AsyncGenerator[bytes]:
        """Yields messages: a snapshot, `complete`, then changes, at most one message in `interval_s`; heartbeats.

        A watcher that is further behind than its topic remembers gets a snapshot again. Raises SHUTTING_DOWN when the
        process stops.
        """
        look = await self.means.follower.until(lambda look: look.fence is not None)
        if not self._topics.by_selection and look is not None:
            # From a look before the snapshot: what is committed after it is told as a change.
            self._tail.begin(look)
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
