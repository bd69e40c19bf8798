"""Watching inventory: one reader, one state for all watchers of the same items, a cursor for each watcher.

What changed is read once for the process, made into bytes once for all, and sent from one place. Which items a batch of
this process changed is known without the feed: they are read as soon as it has committed. What others changed, and
whatever was missed, the feed tells.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TypeVar

import structlog

from holdsvc import errors
from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError
from holdsvc.ledger import feed
from holdsvc.ledger.database import Conflict, Connection, Database, NothingRan, Unknown
from holdsvc.ledger.feed import Position
from holdsvc.model import Again, Item, ItemKey, Outcome, Refused, Reservation, Sweep, Transferred
from holdsvc.streams import snapshot as present
from holdsvc.streams.encoding import Encoding
from holdsvc.streams.follower import End, Feed
from holdsvc.streams.sender import Sender
from holdsvc.streams.topic import Change, Topic, Update, Wanted
from holdsvc.streams.watcher import Watcher, Write

log = structlog.get_logger(__name__)

K = TypeVar("K")

CHANGES_MAX = 5000
"""Events that one statement reads."""

MISSING_MAX = 20_000
"""Gaps in the event ids that are looked after one by one; with more, watchers read the present state again."""

KEYS_MAX = 1000
"""Items that one statement reads."""

OWN_MAX = 100
"""Watched items of one batch that are read at once. A batch that changed more waits for the feed's next look, which
reads what several of them changed together."""

BEATS = 4
"""Looks for quiet streams in the time of a heartbeat."""


class WatchHub:
    """Reads what changed and hands it to the watchers."""

    def __init__(
        self,
        engine: Engine,
        database: Database,
        feed_: Feed,
        encoding: Encoding,
        heartbeat_s: float,
    ) -> None:
        self._engine = engine
        self._database = database
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
        self._histories = 0
        self._reading = asyncio.Lock()
        """One reads at a time: what is read later is never older."""
        self._own: dict[str, dict[ItemKey, None]] = {}
        """Watched items by tenant that were changed through this process, to be read."""
        self._own_changed = asyncio.Event()
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
        self._histories += 1
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
        async with self._reading:
            self._sender.cycle += 1
            await self._look(connection, end)

    async def _look(self, connection: Connection, end: End) -> None:
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
            # First what they changed: where that cannot be read, the next look finds the same events again.
            await self._read_items(connection, found, end.read_time)
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
        if len(self._missing) > MISSING_MAX:
            self._lost_track_at = max(self._missing)
            self._missing.clear()

    async def _read_items(self, connection: Connection, found: list[feed.Changed], read_time: datetime) -> None:
        wanted: dict[str, dict[ItemKey, None]] = {}
        for change in found:
            wanted.setdefault(change.tenant, {}).update(self._watched(change.tenant, change.items))
        async for tenant, states in _states(connection, wanted):
            self._publish(tenant, states, read_time)

    def _watched(self, tenant: str, keys: Iterable[ItemKey]) -> dict[ItemKey, None]:
        """Those of the items that somebody watches."""
        prefixes = self._by_prefix.get(tenant, ())
        return {
            key: None
            for key in keys
            if (tenant, key) in self._by_key or any(topic.wanted.matches(key) for topic in prefixes)
        }

    def _publish(self, tenant: str, states: list[feed.Watched], read_time: datetime) -> None:
        touched: set[Topic] = set()
        for item, deleted in states:
            key = ItemKey(item.sku, item.pool)
            topics = self._by_key.get((tenant, key), set()) | self._by_prefix.get(tenant, set())
            topics = {topic for topic in topics if topic.wanted.matches(key) and not topic.knows(key, item.revision)}
            if not topics:
                continue
            self._number += 1
            payload = self._encoding.deleted_item(key) if deleted else self._encoding.item(item)
            for topic in topics:
                topic.put(key, Change(self._number, item.revision, payload), read_time)
            touched |= topics
        for topic in touched:
            self._sender.wake(topic)

    # The side of this process's own changes.

    def changed(self, tenant: str, outcomes: Sequence[Outcome[object]]) -> bool:
        """Reads at once the watched items that `outcomes` say were changed; False: they are left to the feed."""
        if not self._topics:
            return True
        keys = _changed_items(outcomes)
        watched = self._watched(tenant, keys or ())
        if keys is None or len(watched) > OWN_MAX:
            return False
        if watched:
            self._own.setdefault(tenant, {}).update(watched)
            self._own_changed.set()
        return True

    async def _read_own(self) -> None:
        """Reads what was changed through this process until it is cancelled; what it misses, the feed tells.

        Where calls leave so little time that watchers wait although they are due, it reads once for each slice of them:
        of more readings most would be told to nobody.
        """
        while True:
            await self._own_changed.wait()
            await self._sender.caught_up()
            self._own_changed.clear()
            try:
                async with self._database.connection() as connection, self._reading:
                    await self._read_own_once(connection)
            except (NothingRan, Unknown, Conflict) as error:
                log.warning("watch.read_failed", error=type(error).__name__)
            except Exception:
                log.exception("watch.read_failed")

    async def _read_own_once(self, connection: Connection) -> None:
        self._sender.cycle += 1
        own, self._own = self._own, {}
        history = self._histories
        async for tenant, states in _states(connection, own):
            if states and self._histories == history:
                self._publish(tenant, states, max(item.update_time for item, _ in states))

    # The watchers' side.

    def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN."""
        self._closing = True
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.end(HoldError(errors.shutting_down()))

    def _check_open(self) -> None:
        if self._closing:
            raise HoldError(errors.shutting_down())

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
        """Reads for the watchers and sends to them until it is cancelled."""
        await asyncio.gather(self._sender.run(), self._read_own(), self._beat())

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


async def _states(
    connection: Connection, wanted: dict[str, dict[ItemKey, None]]
) -> AsyncGenerator[tuple[str, list[feed.Watched]]]:
    """Reads items by tenant, as they are."""
    for tenant, keys in wanted.items():
        names = list(keys)
        for start in range(0, len(names), KEYS_MAX):
            yield tenant, await feed.watch_items(connection, tenant, names[start : start + KEYS_MAX])


def _changed_items(outcomes: Sequence[Outcome[object]]) -> set[ItemKey] | None:
    """The items that changes changed; None where the outcomes do not tell."""
    keys: set[ItemKey] = set()
    for outcome in outcomes:
        if isinstance(outcome, Refused | Again | Sweep):
            continue
        match outcome.value:
            case Reservation(lines=lines):
                keys.update(ItemKey(line.sku, line.pool) for line in lines)
            case Item(sku=sku, pool=pool):
                keys.add(ItemKey(sku, pool))
            case list() as created:
                keys.update(ItemKey(item.sku, item.pool) for item in created if isinstance(item, Item))
            case Transferred(giving=giving, taking=taking):
                keys.update((ItemKey(giving.sku, giving.pool), ItemKey(taking.sku, taking.pool)))
            case _:
                return None
    return keys


def _discard(index: dict[K, set[Topic]], key: K, topic: Topic) -> None:
    topics = index.get(key)
    if topics is not None:
        topics.discard(topic)
        if not topics:
            del index[key]
