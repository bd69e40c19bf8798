"""Streaming events: what has become complete is read once for all streams, filtered by the database, encoded once.

Streams with the same filter share the newest of their events in memory. A stream that is further behind (a resumed one,
a slow one) reads pages of the past, which it shares with streams at the same place. No stream has a queue.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from holdsvc import outages
from holdsvc.engine.pacer import Turn
from holdsvc.engine.sharing import SharedReads
from holdsvc.errors import HoldError
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import UNKNOWN, FeedEvent, Filter, Identity, Poll, Position
from holdsvc.streams.subscriptions import Means, fitting

KEPT_BYTES = 32 * 1024 * 1024
"""Events that all streams of a process share in memory; each filter has its part."""

EVENT_OVERHEAD_BYTES = 100
"""What an event in memory takes besides its payload."""

READ_MAX = 200
"""Events that one statement reads."""

ENCODE_MAX = 25
"""Events that are encoded without a pause: 2 ms, or 25 ms where each has a hundred lines."""


class Batch(NamedTuple):
    """One message to a stream: events, none in a heartbeat, and its place after them."""

    payloads: Sequence[bytes]
    position: Position


class Group:
    """The streams with one filter, and the newest of their events: all of those after `start`."""

    def __init__(self, start: Position) -> None:
        self.streams = 0
        self.waiting: set[Turn] = set()
        self.start = start
        self.events: list[tuple[int, bytes]] = []
        self._bytes = 0

    def extend(self, events: list[tuple[int, bytes]], bytes_max: int) -> None:
        """Adds events and forgets the oldest, down to half of what is allowed."""
        self.events += events
        self._bytes += sum(len(payload) + EVENT_OVERHEAD_BYTES for _, payload in events)
        if self._bytes > bytes_max:
            cut = 0
            while self._bytes > bytes_max // 2:
                self._bytes -= len(self.events[cut][1]) + EVENT_OVERHEAD_BYTES
                cut += 1
            # With its day as it was: that of an earlier event is right for a later one.
            self.start = Position(self.events[cut - 1][0], self.start.day)
            del self.events[:cut]

    def after(self, position: Position, end: Position) -> Batch:
        """The next events that one message takes, up to `end`, where everything is known."""
        first = bisect_right(self.events, position.event_id, key=lambda event: event[0])
        payloads = [payload for _, payload in self.events[first : first + READ_MAX]]
        count = fitting(payloads)
        reached = max(position, end)
        if first + count < len(self.events):
            reached = Position(self.events[first + count - 1][0], position.day)
        return Batch(payloads[:count], reached)


class EventHub:
    """Reads complete events and hands them to the streams. A loop runs `step` for as long as the process serves."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._groups: dict[Filter, Group] = {}
        self._epoch = ""
        self._end: Position | None = None
        """Events up to here have been handed to the groups."""
        self._reads: SharedReads[tuple[str, Filter, int], Batch] = SharedReads()

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return sum(group.streams for group in self._groups.values())

    # Reading.

    async def step(self) -> float:
        """Reads what has become complete since the last look."""
        look = await self._means.follower.next_look()
        if look.epoch != self._epoch:
            self._begin_history(look.epoch)
        if look.fence is None:
            return 0.0
        if self._end is None or not self._groups:
            self._end = look.fence
            for group in self._groups.values():
                group.start = look.fence
                self._means.pacer.wake(group.waiting)
        end: Position | None = self._end
        async with self._means.database.connection() as connection:
            while end is not None and end.event_id < look.fence.event_id:
                end = await self._read_on(connection, look.epoch, end, look.fence)
        return 0.0

    def _begin_history(self, epoch: str) -> None:
        """Ends the streams of another history: opened again, they are told what their token is worth."""
        self._epoch, self._end = epoch, None
        groups, self._groups = self._groups, {}
        self._reads.clear()
        for group in groups.values():
            self._means.pacer.wake(group.waiting)

    async def _read_on(self, connection: Connection, epoch: str, after: Position, upto: Position) -> Position | None:
        groups = dict(self._groups)
        answer = await self._read(connection, epoch, list(groups), after, upto)
        if answer is None:
            # Retention has overtaken this hub: it begins anew, and the streams behind it find out.
            self._end = None
            return None
        found, reached = answer
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for event, payload in zip(found, await self._encoded(found), strict=True):
            for index in event.filters:
                wanted.setdefault(index, []).append((event.event.event_id, payload))
        if self._epoch != epoch:
            return None
        self._end = reached
        for index, group in enumerate(groups.values()):
            if index in wanted:
                group.extend(wanted[index], KEPT_BYTES // len(groups))
                self._means.pacer.wake(group.waiting)
        for filter_, group in self._groups.items():
            if groups.get(filter_) is not group:
                # It came while this was read.
                group.start = reached
        return reached

    async def _encoded(self, found: Sequence[FeedEvent]) -> list[bytes]:
        payloads = []
        for start in range(0, len(found), ENCODE_MAX):
            payloads += [self._means.encoding.event(event.event) for event in found[start : start + ENCODE_MAX]]
            await asyncio.sleep(0)
        return payloads

    async def _read(
        self, connection: Connection, epoch: str, filters: Sequence[Filter], after: Position, upto: Position
    ) -> tuple[list[FeedEvent], Position] | None:
        """The next events; None: some have been dropped. Looks afterwards whether this is still the same history."""
        answer = await feed.read(connection, filters, after, upto, limit=READ_MAX)
        identity = await feed.identity(connection)
        if identity.epoch != epoch:
            raise HoldError(outages.database_unavailable())
        return answer if identity.floor <= after.event_id else None

    # Streams.

    def told_until(self, position: Position) -> datetime | None:
        """The time until which a stream at this place has been told everything; None: it is behind."""
        look = self._means.follower.end.look
        if look is None or self._end is None or position.event_id < self._end.event_id:
            return None
        return look.read_time - timedelta(seconds=self._means.follower.end.lag_s)

    async def look(self, tenant: str) -> tuple[Identity, Poll]:
        """Which history a new stream is of, to which this hub has come, and where the feed ends."""
        identity = await self._means.read(tenant, feed.identity)
        last = await self._means.read(tenant, feed.last)
        seen = await self._means.follower.until(lambda look: look.epoch == last.epoch)
        if seen is None or not seen.epoch == identity.epoch == last.epoch:
            raise HoldError(outages.database_unavailable())
        if self._epoch != seen.epoch:
            self._begin_history(seen.epoch)
        return identity, last

    async def begin(self, last: Poll) -> Position | None:
        """Where a stream begins that is told of everything after the feed's end `last`.

        A transaction that runs for long hides where that is. Then the stream begins at the fence, and is told some of
        what was committed before. None: there is no fence yet.
        """
        await self._means.pacer.turn()
        look = await self._means.follower.until(lambda look: look.complete_id >= last.last_event_id)
        self._check(last.epoch)
        if look is None or look.fence is None:
            return None
        if look.complete_id < last.last_event_id:
            return look.fence
        return Position(min(look.fence.event_id, last.last_event_id), min(look.fence.day, last.feed_day))

    async def stream(self, filter_: Filter, start: Position, epoch: str) -> AsyncGenerator[Batch]:
        """Tells every event after `start`, in order, and heartbeats.

        Raises RESUME_TOKEN_EXPIRED where retention overtakes it, DATABASE_UNAVAILABLE where another history begins, and
        SHUTTING_DOWN when the process stops.
        """
        self._check(epoch)
        group = self._groups.get(filter_)
        if group is None:
            group = self._groups[filter_] = Group(self._end or UNKNOWN)
        group.streams += 1
        loop, pacer = asyncio.get_running_loop(), self._means.pacer
        sent_at, position = loop.time(), start
        try:
            with self._means.follower.listening():
                while True:
                    batch = await self._next(filter_, group, epoch, position)
                    position = batch.position
                    beat_at = sent_at + self._means.heartbeat_s
                    if batch.payloads or loop.time() >= beat_at:
                        sent_at = loop.time()
                        yield batch
                        await pacer.turn()
                    elif self._end is None or position.event_id >= self._end.event_id:
                        await pacer.turn(beat_at, group.waiting)
                    self._check(epoch)
        finally:
            group.streams -= 1
            if not group.streams and self._groups.get(filter_) is group:
                del self._groups[filter_]

    def _check(self, epoch: str) -> None:
        if self._epoch != epoch:
            raise HoldError(outages.database_unavailable())

    async def _next(self, filter_: Filter, group: Group, epoch: str, position: Position) -> Batch:
        """The next events of a stream, from memory or else from the database; perhaps none although there are more."""
        if self._end is not None and position.event_id >= group.start.event_id:
            return group.after(position, self._end)
        fence = look.fence if (look := self._means.follower.end.look) else None
        if fence is None or fence.event_id <= position.event_id:
            return Batch([], position)
        read = partial(self._past, filter_, epoch, position, fence)
        batch = await self._reads.get((epoch, filter_, position.event_id), read, lambda _: True)
        await self._means.pacer.bulk(sum(map(len, batch.payloads)))
        return batch

    async def _past(self, filter_: Filter, epoch: str, after: Position, upto: Position) -> Batch:
        """Reads what one message takes of the events after a place."""
        async with self._means.pacer.page():
            read = partial(self._read, epoch=epoch, filters=[filter_], after=after, upto=upto)
            answer = await self._means.read(filter_.tenant or "", read)
            if answer is None:
                raise HoldError(outages.resume_token_expired())
            found, reached = answer
            payloads = await self._encoded(found)
        count = fitting(payloads)
        if count < len(found):
            reached = Position(found[count - 1].event.event_id, after.day)
        return Batch(payloads[:count], reached)
