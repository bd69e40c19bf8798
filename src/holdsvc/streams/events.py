"""Streaming events: what has become complete is read once for all streams, filtered by the database, encoded once.

Streams with the same filter share the newest of their events in memory. A stream that is further behind (a resumed one,
a slow one) reads pages of the past, which it shares with streams at the same place. No stream has a queue.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from holdsvc import errors
from holdsvc.engine import tasks
from holdsvc.errors import HoldError
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import UNKNOWN, FeedEvent, Filter, Identity, Look, Position
from holdsvc.streams.pacer import Turn
from holdsvc.streams.sharing import SharedReads
from holdsvc.streams.subscriptions import Means, fitting

KEPT_BYTES = 32 * 1024 * 1024
"""Events that all streams of a process share in memory; each filter has its part."""

EVENT_OVERHEAD_BYTES = 100
"""What an event in memory takes besides its payload."""

READ_MAX = 200
"""Events that one statement reads."""

ENCODE_MAX = 25
"""Events that are encoded without a pause: 2 ms, or 25 ms where each has a hundred lines."""

BEGIN_WAIT_S = 0.5
"""How long a new stream waits for transactions in flight, so that it is told nothing of before."""

IDENTIFY_WAIT_S = 2.0
"""How long a new stream waits for the follower to see the history that the stream's own look has found."""

READ_TIMEOUT_S = 30.0


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
        self._ids: list[int] = []
        self._payloads: list[bytes] = []
        self._bytes = 0

    def extend(self, event_ids: Sequence[int], payloads: Sequence[bytes], bytes_max: int) -> None:
        """Adds events and forgets the oldest, down to half of what is allowed."""
        self._ids += event_ids
        self._payloads += payloads
        self._bytes += sum(map(_size, payloads))
        if self._bytes <= bytes_max:
            return
        cut = 0
        while self._bytes > bytes_max // 2:
            self._bytes -= _size(self._payloads[cut])
            cut += 1
        # Its day stays that of an earlier event: no later event has an earlier one.
        self.start = Position(self._ids[cut - 1], self.start.day)
        del self._ids[:cut], self._payloads[:cut]

    def after(self, position: Position, end: Position) -> Batch:
        """The next events that one message takes, up to `end`, where everything is known."""
        first = bisect_right(self._ids, position.event_id)
        count = fitting(self._payloads[first : first + READ_MAX])
        if first + count == len(self._ids):
            return Batch(self._payloads[first:], max(position, end))
        last = Position(self._ids[first + count - 1], position.day)
        return Batch(self._payloads[first : first + count], last)


def _size(payload: bytes) -> int:
    return len(payload) + EVENT_OVERHEAD_BYTES


class EventHub:
    """Reads complete events and hands them to the streams. `run` it for as long as the process serves."""

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

    async def run(self) -> None:
        """Runs until it is cancelled."""
        await tasks.forever("events", self._step)

    # Reading.

    async def _step(self) -> float:
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
        async with self._means.database.connection() as connection:
            while self._end.event_id < look.fence.event_id and self._epoch == look.epoch:
                await self._read_on(connection, look, self._end, look.fence)
        return 0.0

    def _begin_history(self, epoch: str) -> None:
        """Ends the streams of another history: opened again, they are told what their token is worth."""
        self._epoch, self._end = epoch, None
        groups, self._groups = self._groups, {}
        self._reads.clear()
        for group in groups.values():
            self._means.pacer.wake(group.waiting)

    async def _read_on(self, connection: Connection, look: Look, after: Position, upto: Position) -> None:
        groups = dict(self._groups)
        filters = list(groups)
        found, reached = await self._read(connection, look.epoch, filters, after, upto)
        payloads = await self._encoded(found)
        if self._epoch != look.epoch:
            return
        self._end = reached
        bytes_max = KEPT_BYTES // max(1, len(groups))
        for index, filter_ in enumerate(filters):
            chosen = [number for number, event in enumerate(found) if index in event.filters]
            if chosen:
                group = groups[filter_]
                ids = [found[number].event.event_id for number in chosen]
                group.extend(ids, [payloads[number] for number in chosen], bytes_max)
                self._means.pacer.wake(group.waiting)
        for filter_, group in self._groups.items():
            if filter_ not in groups:
                # It came while this was read.
                group.start = reached

    async def _encoded(self, found: Sequence[FeedEvent]) -> list[bytes]:
        payloads = []
        for start in range(0, len(found), ENCODE_MAX):
            payloads += [self._means.encoding.event(event.event) for event in found[start : start + ENCODE_MAX]]
            await asyncio.sleep(0)
        return payloads

    async def _read(
        self, connection: Connection, epoch: str, filters: Sequence[Filter], after: Position, upto: Position
    ) -> tuple[list[FeedEvent], Position]:
        """The next events; makes sure afterwards that none was dropped and that this is still the same history."""
        answer = await feed.read(connection, filters, after, upto, limit=READ_MAX)
        identity = await feed.identity(connection)
        if identity.epoch != epoch:
            raise HoldError(errors.database_unavailable())
        if identity.floor > after.event_id:
            raise HoldError(errors.resume_token_expired())
        return answer

    # Streams.

    async def identity(self, tenant: str) -> Identity:
        """Which history a new stream is of; the streams' own reading has come to it."""
        identity = await self._means.engine.read(tenant, feed.identity, self._deadline())
        try:
            async with asyncio.timeout(IDENTIFY_WAIT_S):
                while self._means.follower.look is None or self._means.follower.look.epoch != identity.epoch:
                    await self._means.follower.next_look()
        except TimeoutError:
            raise HoldError(errors.database_unavailable()) from None
        if self._epoch != identity.epoch:
            self._begin_history(identity.epoch)
        return identity

    async def last_event_id(self, tenant: str) -> int:
        """The last id that was drawn."""
        return (await self._means.engine.read(tenant, feed.last, self._deadline())).last_event_id

    async def begin(self, tenant: str, epoch: str) -> Position | None:
        """Where a stream that starts now begins: after everything that has been committed.

        A transaction that runs for long hides where that is. Then the stream begins at the fence, and is told some of
        what was committed before. None: there is no fence yet.
        """
        last = await self._means.engine.read(tenant, feed.last, self._deadline())
        with self._means.follower.listening(), suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_WAIT_S):
                while not (look := self._means.follower.look) or look.complete_id < last.last_event_id:
                    await self._means.follower.next_look()
        look = self._means.follower.look
        if look is None or look.epoch != epoch or look.fence is None:
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
        loop = asyncio.get_running_loop()
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
                        await self._means.pacer.turn()
                    elif self._end is None or position.event_id >= self._end.event_id:
                        await self._means.pacer.turn(beat_at, group.waiting)
                    self._check(epoch)
        finally:
            group.streams -= 1
            if not group.streams and self._groups.get(filter_) is group:
                del self._groups[filter_]

    def _check(self, epoch: str) -> None:
        if self._epoch != epoch:
            raise HoldError(errors.database_unavailable())

    async def _next(self, filter_: Filter, group: Group, epoch: str, position: Position) -> Batch:
        """The next events of a stream, from memory or else from the database; perhaps none although there are more."""
        if self._end is not None and position.event_id >= group.start.event_id:
            return group.after(position, self._end)
        fence = self._means.follower.look.fence if self._means.follower.look else None
        if fence is None or fence.event_id <= position.event_id:
            return Batch([], position)
        read = partial(self._past, filter_, epoch, position, fence)
        return await self._reads.get((epoch, filter_, position.event_id), read, lambda _: True)

    async def _past(self, filter_: Filter, epoch: str, after: Position, upto: Position) -> Batch:
        """Reads what one message takes of the events after a place."""
        async with self._means.pacer.page():
            read = partial(self._read, epoch=epoch, filters=[filter_], after=after, upto=upto)
            found, reached = await self._means.engine.read(filter_.tenant or "", read, self._deadline())
            payloads = await self._encoded(found)
        count = fitting(payloads)
        if count < len(found):
            reached = Position(found[count - 1].event.event_id, after.day)
        return Batch(payloads[:count], reached)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + READ_TIMEOUT_S
