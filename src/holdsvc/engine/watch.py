"""Watching inventory: one reader, one state for all watchers of the same items, a cursor for each watcher.

What changed is read once for the process, made into bytes once for all, and sent from one place.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import TypeVar

import structlog

from holdsvc import errors
from holdsvc.engine import present
from holdsvc.engine.encoding import Encoding
from holdsvc.engine.engine import Engine
from holdsvc.engine.feed import End, Feed
from holdsvc.engine.sender import Sender
from holdsvc.engine.topic import Change, Topic, Update, Wanted
from holdsvc.engine.watcher import Watcher, Write
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Position
from holdsvc.model import ItemKey

log = structlog.get_logger(__name__)

K = TypeVar("K")

CHANGES_MAX = 5000
"""Events that one statement reads."""

MISSING_MAX = 20_000
"""Gaps in the event ids that are looked after one by one; with more, watchers read the present state again."""

KEYS_MAX = 1000
"""Items that one statement reads."""

BEATS = 4
"""Looks for quiet streams in the time of a heartbeat."""


class WatchHub:
    """Reads what changed and hands it to the watchers."""

    def __init__(
        self,
        engine: Engine,
        feed_: Feed,
        encoding: Encoding,
        heartbeat_s: float,
    ) -> None:
        self._engine = engine
        self._feed = feed_
        self._encoding = encoding
        self._sender = Sender()
        self._heartbeat_s = heartbeat_s
        self._topics: dict[Wanted, Topic] = {}
        self._by_key: dict[tuple[str, ItemKey], set[Topic]] = {}
        self._by_prefix: dict[str, set[Topic]] = {}
        self._tail: Position | None = None
        """The highest event seen, with the fence's day."""
        self._missing: set[int] = set()
        self._lost_track_at: int | None = None
        self._number = 0
        self._closing = False
        feed_.add(self)

    # The feed's side.

    @property
    def active(self) -> bool:
        """Whether anybody watches."""
        return bool(self._topics)

    @property
    def watchers(self) -> int:
        """How many streams there are."""
        return sum(len(topic.watchers) for topic in self._topics.values())

    def restart(self) -> None:
        """Another history: nothing that was known holds."""
        self._tail = None
        self._missing.clear()
        self._lost_track_at = None
        self._resync()

    def _resync(self) -> None:
        self._number += 1
        for topic in self._topics.values():
            topic.resync(self._number)
            self._sender.wake(topic)

    async def step(self, connection: Connection, end: End) -> None:
        """Reads the items that the new events changed."""
        self._sender.cycle += 1
        if not self._topics:
            self._tail = None
            self._missing.clear()
            self._lost_track_at = None
            return
        if self._tail is None:
            self._tail = end.fence
            if not end.certain:
                self._lost_track_at = end.fence.event_id
        if self._lost_track_at is not None and end.complete_id >= self._lost_track_at:
            self._lost_track_at = None
            self._resync()
        if end.last_event_id > self._tail.event_id or self._missing:
            await self._read_on(connection, end)
        self._missing = {number for number in self._missing if number > end.complete_id}

    async def _read_on(self, connection: Connection, end: End) -> None:
        assert self._tail is not None
        missing = sorted(self._missing)
        more = True
        while more:
            found = await feed.item_changes(
                connection, Position(self._tail.event_id, end.fence.day), missing, CHANGES_MAX
            )
            missing = []
            seen = {event_id for change in found for event_id in change.event_ids}
            self._missing -= seen
            more = len(seen) >= CHANGES_MAX
            highest = max(seen, default=0)
            if highest > self._tail.event_id:
                if highest - self._tail.event_id - len(seen) > MISSING_MAX:
                    self._lost_track_at = highest
                else:
                    self._missing.update(set(range(self._tail.event_id + 1, highest)) - seen)
                self._tail = Position(highest, end.fence.day)
            await self._read_items(connection, found, end.read_time)
        if len(self._missing) > MISSING_MAX:
            self._lost_track_at = max(self._missing)
            self._missing.clear()

    async def _read_items(self, connection: Connection, found: list[feed.Changed], read_time: datetime) -> None:
        wanted: dict[str, dict[ItemKey, None]] = {}
        for change in found:
            for key in change.items:
                if self._interested(change.tenant, key):
                    wanted.setdefault(change.tenant, {})[key] = None
        for tenant, keys in wanted.items():
            names = list(keys)
            for start in range(0, len(names), KEYS_MAX):
                part = names[start : start + KEYS_MAX]
                self._publish(tenant, await feed.watch_items(connection, tenant, part), read_time)

    def _interested(self, tenant: str, key: ItemKey) -> bool:
        if (tenant, key) in self._by_key:
            return True
        return any(topic.wanted.matches(key) for topic in self._by_prefix.get(tenant, ()))

    def _publish(self, tenant: str, states: list[feed.Watched], read_time: datetime) -> None:
        touched: set[Topic] = set()
        for item, deleted in states:
            key = ItemKey(item.sku, item.pool)
            self._number += 1
            payload = self._encoding.deleted_item(key) if deleted else self._encoding.item(item)
            change = Change(self._number, item.revision, payload)
            for topic in self._by_key.get((tenant, key), set()) | self._by_prefix.get(tenant, set()):
                if topic.wanted.matches(key):
                    topic.put(key, change, read_time)
                    touched.add(topic)
        for topic in touched:
            self._sender.wake(topic)

    # The watchers' side.

    def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN."""
        self._closing = True
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.end(errors.shutting_down())

    def _check_open(self) -> None:
        if self._closing:
            raise errors.shutting_down()

    def _join(self, wanted: Wanted, interval_s: float, write: Write) -> Watcher:
        topic = self._topics.get(wanted)
        if topic is None:
            topic = self._topics[wanted] = Topic(wanted, self._encoding.update)
            for key in wanted.keys:
                self._by_key.setdefault((wanted.tenant, key), set()).add(topic)
            if wanted.prefix is not None:
                self._by_prefix.setdefault(wanted.tenant, set()).add(topic)
        watcher = Watcher(topic, interval_s, write)
        topic.watchers.add(watcher)
        self._feed.wake()
        return watcher

    def _leave(self, watcher: Watcher) -> None:
        topic = watcher.topic
        topic.watchers.discard(watcher)
        topic.idle.discard(watcher)
        if topic.watchers:
            return
        wanted = topic.wanted
        del self._topics[wanted]
        for key in wanted.keys:
            _discard(self._by_key, (wanted.tenant, key), topic)
        _discard(self._by_prefix, wanted.tenant, topic)

    async def watch(self, wanted: Wanted, interval_s: float, write: Write) -> AsyncGenerator[bytes]:
        """Yields the present state, `complete`; then what changes goes through `write`, at most once in `interval_s`.

        Where the topic no longer remembers what a watcher has not been told, it yields the present state again. Raises
        SHUTTING_DOWN in the end.
        """
        self._check_open()
        await self._feed.ready()
        watcher = self._join(wanted, interval_s, write)
        try:
            again = False
            while True:
                watcher.cursor = self._number
                told: dict[ItemKey, int] = {}
                async with aclosing(self._present(wanted, told, again=again)) as updates:
                    async for update in updates:
                        yield self._encoding.update(update)
                if not again:
                    read_time = await present.read(self._engine, feed.clock)
                    yield self._encoding.update(Update([], read_time, complete=True))
                    again = True
                await self._follow(watcher, told)
        finally:
            self._leave(watcher)

    async def _present(self, wanted: Wanted, told: dict[ItemKey, int], *, again: bool) -> AsyncGenerator[Update]:
        """The present state in pages; `told` gets the revisions. Deleted items only to who was told of them before."""
        async for states, read_time in present.pages(self._engine, wanted):
            self._check_open()
            payloads = []
            for item, deleted in states:
                key = ItemKey(item.sku, item.pool)
                if (wanted.pools and key.pool not in wanted.pools) or told.get(key, 0) >= item.revision:
                    continue
                told[key] = item.revision
                if not deleted:
                    payloads.append(self._encoding.item(item))
                elif again:
                    payloads.append(self._encoding.deleted_item(key))
            if payloads:
                yield Update(payloads, read_time)

    async def _follow(self, watcher: Watcher, told: dict[ItemKey, int]) -> None:
        """Returns when the topic no longer remembers what comes after the watcher."""
        self._check_open()
        ended = watcher.begin(told, self._sender.cycle)
        self._sender.go_on(watcher)
        try:
            await ended
        finally:
            watcher.topic.idle.discard(watcher)
            # While gRPC writes, nothing else may be written, not even how the stream ends.
            await watcher.free()

    async def run(self) -> None:
        """Sends to the watchers until it is cancelled."""
        await asyncio.gather(self._sender.run(), self._beat())

    async def _beat(self) -> None:
        """Tells quiet streams that they live."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._heartbeat_s / BEATS)
            quiet_since = loop.time() - self._heartbeat_s * (1 - 1 / BEATS)
            quiet = [
                watcher for topic in self._topics.values() for watcher in topic.idle if watcher.last_sent <= quiet_since
            ]
            if quiet:
                try:
                    read_time = await present.read(self._engine, feed.clock)
                except errors.HoldError as error:
                    log.warning("watch.heartbeat_failed", error=error.reason)
                    continue
                self._sender.beat(quiet, self._encoding.update(Update([], read_time)))


def _discard(index: dict[K, set[Topic]], key: K, topic: Topic) -> None:
    topics = index.get(key)
    if topics is not None:
        topics.discard(topic)
        if not topics:
            del index[key]
