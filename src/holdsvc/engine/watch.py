"""Watching inventory: one reader, one state for all watchers of the same items, a cursor for each watcher.

What changed is read once for the process and made into bytes once for all. A topic (watchers that ask for the same)
keeps the newest state of each item that changed, in the order of the changes; a watcher is a cursor into it. So a slow
watcher costs nothing but that: it gets the newest state of each item, and whoever falls behind the topic's memory reads
the present state again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar

from holdsvc import errors
from holdsvc.engine.engine import Engine
from holdsvc.engine.feed import End, Feed
from holdsvc.engine.turns import Turns
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Position
from holdsvc.model import Item, ItemKey

T = TypeVar("T")
K = TypeVar("K")

TOPIC_MAX = 10_000
"""Changed items that a topic remembers; a watcher further behind reads the present state again."""

BATCH_MAX = 1000
"""Items of one message."""

CHANGES_MAX = 5000
"""Events that one statement reads."""

MISSING_MAX = 20_000
"""Gaps in the event ids that are looked after one by one; with more, watchers read the present state again."""

KEYS_MAX = 1000
"""Items that one statement reads."""

READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Wanted:
    """What a watcher asks for: these items and those with the prefix (None: no prefix), in pools that it may see."""

    tenant: str
    keys: frozenset[ItemKey]
    prefix: str | None
    pools: frozenset[str]

    def matches(self, key: ItemKey) -> bool:
        """Whether the watcher asked for this item and may see it."""
        if self.pools and key.pool not in self.pools:
            return False
        return key in self.keys or (self.prefix is not None and key.sku.startswith(self.prefix))


class Change(NamedTuple):
    """The newest state of an item: as bytes for the stream, and in which order it came."""

    number: int
    revision: int
    payload: bytes


@dataclass(slots=True)
class Update:
    """What a watcher is told at once; watchers at the same place share it."""

    payloads: list[bytes]
    read_time: datetime | None
    complete: bool = False
    """The present state has been told."""
    message: bytes = b""
    """As it goes to the stream, once somebody has made it."""


class Topic:
    """What the watchers of the same items share."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.changes: OrderedDict[ItemKey, Change] = OrderedDict()
        self.forgotten = 0
        """The highest number that is no longer remembered."""
        self.last = 0
        self.read_time: datetime | None = None
        self.watchers: set[Watcher] = set()
        self.idle: set[Watcher] = set()
        """Those that wait for a change."""
        self._batches: dict[tuple[int, int], tuple[Update, int]] = {}

    def put(self, key: ItemKey, change: Change, read_time: datetime) -> None:
        """Remembers the newest state of an item."""
        self.changes[key] = change
        self.changes.move_to_end(key)
        self.last = change.number
        self.read_time = read_time
        self._batches.clear()
        if len(self.changes) > TOPIC_MAX:
            self.forgotten = self.changes.popitem(last=False)[1].number

    def resync(self, number: int) -> None:
        """Makes every watcher read the present state again."""
        self.changes.clear()
        self._batches.clear()
        self.forgotten = self.last = number

    def after(self, cursor: int) -> tuple[list[tuple[ItemKey, Change]], int]:
        """The changes after a cursor, oldest first, and the cursor after them."""
        found = []
        for key in reversed(self.changes):
            change = self.changes[key]
            if change.number <= cursor:
                break
            found.append((key, change))
        found.reverse()
        return found, self.last

    def batch(self, cursor: int) -> tuple[Update, int]:
        """The changes after a cursor, made once for all watchers at the same place, and the cursor after them."""
        known = self._batches.get((cursor, self.last))
        if known is None:
            found, last = self.after(cursor)
            if len(found) > BATCH_MAX:
                del found[BATCH_MAX:]
                last = found[-1][1].number
            update = Update([change.payload for _, change in found], self.read_time)
            known = self._batches[cursor, self.last] = (update, last)
        return known


class Watcher:
    """One stream: where it stands and when its next message is due."""

    __slots__ = ("_waiter", "asked", "cursor", "due", "granted", "interval_s", "topic")

    def __init__(self, topic: Topic, interval_s: float) -> None:
        self.topic = topic
        self.interval_s = interval_s
        self.cursor = 0
        self.due = 0.0
        self.asked = False
        """Whether it is in the queue for a turn."""
        self.granted = False
        """Whether it is its turn."""
        self._waiter: asyncio.Future[None] | None = None

    def grant(self) -> None:
        """Gives it its turn."""
        self.asked, self.granted = False, True
        self.wake()

    def wake(self) -> None:
        """Lets the stream go on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def sleep(self, until: float | None = None) -> None:
        """Waits until it is woken, or until then on the loop's clock."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if until is None else loop.call_at(until, self.wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


class WatchHub:
    """Reads what changed and hands it to the watchers."""

    def __init__(
        self,
        engine: Engine,
        feed_: Feed,
        encode: Callable[[Item], bytes],
        encode_deleted: Callable[[ItemKey], bytes],
        turns: Turns,
        heartbeat_s: float,
    ) -> None:
        self._engine = engine
        self._feed = feed_
        self._encode = encode
        self._encode_deleted = encode_deleted
        self._turns = turns
        self._heartbeat_s = heartbeat_s
        self._topics: dict[Wanted, Topic] = {}
        self._by_key: dict[tuple[str, ItemKey], set[Topic]] = {}
        self._by_prefix: dict[str, set[Topic]] = {}
        self._tail: Position | None = None
        """The highest event seen, with the fence's day."""
        self._missing: set[int] = set()
        self._lost_track_at: int | None = None
        self._number = 0
        self._cycle = 0
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
            self._notify(topic)

    async def step(self, connection: Connection, end: End) -> None:
        """Reads the items that the new events changed."""
        self._cycle += 1
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
            seen = {change.event_id for change in found}
            self._missing -= seen
            more = len(found) >= CHANGES_MAX
            highest = max(seen, default=0)
            if highest > self._tail.event_id:
                if highest - self._tail.event_id - len(seen) > MISSING_MAX:
                    self._lost_track_at = highest
                else:
                    self._missing.update(set(range(self._tail.event_id + 1, highest)) - seen)
                self._tail = Position(highest, end.fence.day)
            await self._read_items(connection, found)
        if len(self._missing) > MISSING_MAX:
            self._lost_track_at = max(self._missing)
            self._missing.clear()

    async def _read_items(self, connection: Connection, found: list[feed.Changed]) -> None:
        wanted: dict[str, dict[ItemKey, None]] = {}
        for change in found:
            for key in change.items:
                if self._interested(change.tenant, key):
                    wanted.setdefault(change.tenant, {})[key] = None
        for tenant, keys in wanted.items():
            names = list(keys)
            for start in range(0, len(names), KEYS_MAX):
                part = names[start : start + KEYS_MAX]
                read_time = await feed.clock(connection)
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
            payload = self._encode_deleted(key) if deleted else self._encode(item)
            change = Change(self._number, item.revision, payload)
            topics = self._by_key.get((tenant, key), set()) | {
                topic for topic in self._by_prefix.get(tenant, ()) if topic.wanted.matches(key)
            }
            for topic in topics:
                if topic.wanted.pools and key.pool not in topic.wanted.pools:
                    continue
                topic.put(key, change, read_time)
                touched.add(topic)
        for topic in touched:
            self._notify(topic)

    def _notify(self, topic: Topic) -> None:
        for watcher in topic.idle:
            self._ask(watcher)
        topic.idle.clear()

    def _ask(self, watcher: Watcher) -> None:
        if not watcher.asked:
            watcher.asked = True
            self._turns.ask(watcher.grant, watcher.due)

    # The watchers' side.

    def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN."""
        self._closing = True
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.wake()

    def _check_open(self) -> None:
        if self._closing:
            raise errors.shutting_down()

    def _join(self, wanted: Wanted, interval_s: float) -> Watcher:
        topic = self._topics.get(wanted)
        if topic is None:
            topic = self._topics[wanted] = Topic(wanted)
            for key in wanted.keys:
                self._by_key.setdefault((wanted.tenant, key), set()).add(topic)
            if wanted.prefix is not None:
                self._by_prefix.setdefault(wanted.tenant, set()).add(topic)
        watcher = Watcher(topic, interval_s)
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

    async def watch(self, wanted: Wanted, interval_s: float) -> AsyncGenerator[Update]:
        """Tells the present state, `complete`, then what changes, at most once in `interval_s`.

        An update without payloads that is not `complete` is a heartbeat. Raises SHUTTING_DOWN in the end.
        """
        self._check_open()
        await self._feed.ready()
        watcher = self._join(wanted, interval_s)
        try:
            told = False
            while True:
                watcher.cursor = self._number
                sent: dict[ItemKey, int] = {}
                async for update in self._present(wanted, sent, again=told):
                    yield update
                if not told:
                    yield Update([], await self._read(feed.clock), complete=True)
                    told = True
                async for update in self._changes(watcher, sent):
                    yield update
        finally:
            self._leave(watcher)

    async def _present(self, wanted: Wanted, sent: dict[ItemKey, int], *, again: bool) -> AsyncGenerator[Update]:
        """The present state in pages; `sent` gets the revisions. Deleted items only to who was told of them before."""
        async for states, read_time in self._pages(wanted):
            payloads = []
            for item, deleted in states:
                key = ItemKey(item.sku, item.pool)
                if (wanted.pools and key.pool not in wanted.pools) or sent.get(key, 0) >= item.revision:
                    continue
                sent[key] = item.revision
                if not deleted:
                    payloads.append(self._encode(item))
                elif again:
                    payloads.append(self._encode_deleted(key))
            if payloads:
                yield Update(payloads, read_time)

    async def _pages(self, wanted: Wanted) -> AsyncGenerator[tuple[list[feed.Watched], datetime]]:
        names = sorted(wanted.keys)
        for start in range(0, len(names), BATCH_MAX):
            part = names[start : start + BATCH_MAX]
            yield await self._read(_timed(partial(feed.watch_items, tenant=wanted.tenant, keys=part)))
        if wanted.prefix is None:
            return
        pools = sorted(wanted.pools) or None
        after = ItemKey("", "")
        while True:
            self._check_open()
            page, read_time = await self._read(
                _timed(
                    partial(
                        feed.list_watched,
                        tenant=wanted.tenant,
                        prefix=wanted.prefix,
                        pools=pools,
                        after=after,
                        limit=BATCH_MAX,
                    )
                )
            )
            yield page, read_time
            if len(page) < BATCH_MAX:
                return
            after = ItemKey(page[-1].item.sku, page[-1].item.pool)

    async def _changes(self, watcher: Watcher, sent: dict[ItemKey, int] | None) -> AsyncGenerator[Update]:
        """What changes, until the topic no longer remembers what comes after the watcher.

        A state that the reader read before the present state was told, but handed out after, must not be told: `sent`
        has the revisions to compare with, until a round of reading has begun after it.
        """
        loop = asyncio.get_running_loop()
        topic = watcher.topic
        cycle = self._cycle
        last_sent = loop.time()
        while watcher.cursor >= topic.forgotten:
            self._check_open()
            now = loop.time()
            if topic.last > watcher.cursor:
                if not watcher.granted:
                    self._ask(watcher)
                    await watcher.sleep()
                    continue
                watcher.granted = False
                if sent is None:
                    update, watcher.cursor = topic.batch(watcher.cursor)
                else:
                    found, watcher.cursor = topic.after(watcher.cursor)
                    newer = [change.payload for key, change in found if change.revision > sent.get(key, 0)]
                    update = Update(newer, topic.read_time)
                    sent.update({key: max(change.revision, sent.get(key, 0)) for key, change in found})
                if update.payloads:
                    watcher.due = now + watcher.interval_s
                    last_sent = now
                    yield update
            elif now >= last_sent + self._heartbeat_s:
                last_sent = now
                yield Update([], await self._read(feed.clock))
            else:
                topic.idle.add(watcher)
                await watcher.sleep(last_sent + self._heartbeat_s)
                topic.idle.discard(watcher)
            if self._cycle > cycle and topic.last <= watcher.cursor:
                sent = None

    async def _read(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._engine.read(run, asyncio.get_running_loop().time() + READ_TIMEOUT_S)


def _timed(read: Callable[[Connection], Awaitable[T]]) -> Callable[[Connection], Awaitable[tuple[T, datetime]]]:
    """Reads the time, then the rest: the state is at least that new."""

    async def run(connection: Connection) -> tuple[T, datetime]:
        read_time = await feed.clock(connection)
        return await read(connection), read_time

    return run


def _discard(index: dict[K, set[Topic]], key: K, topic: Topic) -> None:
    topics = index.get(key)
    if topics is not None:
        topics.discard(topic)
        if not topics:
            del index[key]
