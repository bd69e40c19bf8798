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
from holdsvc.ledger import feed, proofs
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import UNKNOWN, FeedEvent, Filter, Identity, Poll, Position
from holdsvc.ledger.proofs import Proof, Prover
from holdsvc.streams.subscriptions import Means, fitting

KEPT_BYTES = 32 * 1024 * 1024
"""Events that all streams of a process share in memory; each filter has its part."""

EVENT_OVERHEAD_BYTES = 100
"""What an event in memory takes besides its payload."""

READ_MAX = 200
"""Events that one statement reads."""

ENCODE_MAX = 25
"""Events that are encoded without a pause: 2 ms, or 25 ms where each has a hundred lines."""


class Told(NamedTuple):
    """An event, as it is kept and told."""

    event_id: int
    payload: bytes
    hash: int


class _Part(NamedTuple):
    """Events that one message takes, and the place after them."""

    events: Sequence[Told]
    position: Position


class Batch(NamedTuple):
    """One message to a stream: events, none in a heartbeat, and its place after them."""

    events: Sequence[Told]
    position: Position
    proof: Proof
    """Of what the stream has been told with it."""


class Group:
    """The streams with one filter, and the newest of their events: all of those after `start`."""

    def __init__(self, start: Position) -> None:
        self.streams = 0
        self.waiting: set[Turn] = set()
        self.start = start
        self.events: list[Told] = []
        self._bytes = 0

    def extend(self, events: list[Told], bytes_max: int) -> None:
        """Adds events and forgets the oldest, down to half of what is allowed."""
        self.events += events
        self._bytes += sum(len(event.payload) + EVENT_OVERHEAD_BYTES for event in events)
        if self._bytes > bytes_max:
            cut = 0
            while self._bytes > bytes_max // 2:
                self._bytes -= len(self.events[cut].payload) + EVENT_OVERHEAD_BYTES
                cut += 1
            # With its day as it was: that of an earlier event is right for a later one.
            self.start = Position(self.events[cut - 1].event_id, self.start.day)
            del self.events[:cut]

    def after(self, position: Position, end: Position) -> _Part:
        """The next events that one message takes, up to `end`, where everything is known."""
        first = self._first_after(position.event_id)
        events = self.events[first : first + READ_MAX]
        if first + len(events) < len(self.events):
            end = Position(events[-1].event_id, position.day)
        return _first_part(events, position, max(position, end))

    def between(self, after: int, upto: int) -> Sequence[Told] | None:
        """The events of a range; None: the first of them may have been forgotten."""
        return None if after < self.start.event_id else self.events[self._first_after(after) : self._first_after(upto)]

    def _first_after(self, event_id: int) -> int:
        return bisect_right(self.events, event_id, key=lambda event: event.event_id)


class EventHub:
    """Reads complete events and hands them to the streams. A loop runs `step` for as long as the process serves."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._groups: dict[Filter, Group] = {}
        self._history = ""
        self._end: Position | None = None
        """Events up to here have been handed to the groups."""
        self._reads: SharedReads[tuple[str, Filter, int], _Part] = SharedReads()
        self._prover = Prover()

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return sum(group.streams for group in self._groups.values())

    # Reading.

    async def step(self) -> float:
        """Reads what has become complete since the last look."""
        look = await self._means.follower.next_look()
        if look.history != self._history:
            self._begin_history(look.history)
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
                end = await self._read_on(connection, look.history, end, look.fence)
        if end is not None:
            self._prover.note(look)
        return 0.0

    def _begin_history(self, history: str) -> None:
        """Ends the streams of another history: opened again, they are told what their token is worth."""
        self._history, self._end = history, None
        groups, self._groups = self._groups, {}
        self._reads.clear()
        self._prover = Prover()
        for group in groups.values():
            self._means.pacer.wake(group.waiting)

    async def _read_on(self, connection: Connection, history: str, after: Position, upto: Position) -> Position | None:
        """Hands the next events to the groups and returns their end; None: this hub begins anew."""
        groups = dict(self._groups)
        answer = await self._read(connection, history, list(groups), after, upto)
        if answer is None:
            # Retention has overtaken this hub; the streams behind it find out.
            self._end = None
            return None
        found, reached = answer
        wanted: dict[int, list[Told]] = {}
        for event, told in zip(found, await self._encoded(found), strict=True):
            for index in event.filters:
                wanted.setdefault(index, []).append(told)
        if self._history != history:
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

    async def _encoded(self, found: Sequence[FeedEvent]) -> list[Told]:
        encode, encoded = self._means.encoding.event, []
        for start in range(0, len(found), ENCODE_MAX):
            part = found[start : start + ENCODE_MAX]
            encoded += [Told(each.event.event_id, encode(each.event), each.hash) for each in part]
            await asyncio.sleep(0)
        return encoded

    async def _read(
        self, connection: Connection, history: str, filters: Sequence[Filter], after: Position, upto: Position
    ) -> tuple[list[FeedEvent], Position] | None:
        """The next events; None: some have been dropped. Looks afterwards whether this is still the same history."""
        answer = await feed.read(connection, filters, after, upto, limit=READ_MAX)
        identity = await feed.identity(connection)
        if identity.history != history:
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
        seen = await self._means.follower.until(lambda look: look.history == last.history)
        if seen is None or not seen.history == identity.history == last.history:
            raise HoldError(outages.database_unavailable())
        if self._history != seen.history:
            self._begin_history(seen.history)
        return identity, last

    async def begin(self, last: Poll, filter_: Filter) -> Proof | None:
        """Where a stream begins that is told of everything after the feed's end `last`, as the place of a proof.

        A transaction that runs for long hides where that is. Then the stream begins at the fence, and is told some of
        what was committed before. None: there is no fence yet.
        """
        await self._means.pacer.turn()
        look = await self._means.follower.until(lambda look: look.complete_id >= last.last_event_id)
        self._check(last.history)
        return None if look is None else proofs.begun(look, last, filter_)

    async def resume(self, proof: Proof, filter_: Filter, floor: int) -> Proof:
        """The proof with which a stream goes on that was told on another timeline.

        Raises RESUME_TOKEN_EXPIRED where events of it are no longer kept, RESUME_TOKEN_FOREIGN where some are missing.
        """
        if floor > proof.after:
            raise HoldError(outages.resume_token_expired())
        checked = partial(proofs.holds, proof=proof, filter_=filter_)
        if not await self._means.read(filter_.tenant or "", checked):
            raise HoldError(outages.resume_token_foreign())
        return proof.of(filter_)

    async def stream(self, filter_: Filter, start: Position, history: str, proof: Proof) -> AsyncGenerator[Batch]:
        """Tells every event after `start`, in order, and heartbeats; `proof` is of what was told before.

        Raises RESUME_TOKEN_EXPIRED where retention overtakes it, DATABASE_UNAVAILABLE where another history begins, and
        SHUTTING_DOWN when the process stops.
        """
        self._check(history)
        group = self._groups.get(filter_)
        if group is None:
            group = self._groups[filter_] = Group(self._end or UNKNOWN)
        group.streams += 1
        loop, pacer = asyncio.get_running_loop(), self._means.pacer
        sent_at, position = loop.time(), start
        try:
            with self._means.follower.listening():
                while True:
                    part = await self._next(filter_, group, history, position)
                    position = part.position
                    beat_at = sent_at + self._means.heartbeat_s
                    if part.events or loop.time() >= beat_at:
                        sent_at = loop.time()
                        proof = self._prover.told(proof, part.events, group.between, part.position)
                        yield Batch(part.events, position, proof)
                        await pacer.turn()
                    elif self._end is None or position.event_id >= self._end.event_id:
                        await pacer.turn(beat_at, group.waiting)
                    self._check(history)
        finally:
            group.streams -= 1
            if not group.streams and self._groups.get(filter_) is group:
                del self._groups[filter_]

    def _check(self, history: str) -> None:
        if self._history != history:
            raise HoldError(outages.database_unavailable())

    async def _next(self, filter_: Filter, group: Group, history: str, position: Position) -> _Part:
        """The next events of a stream, from memory or else from the database; perhaps none although there are more."""
        if self._end is not None and position.event_id >= group.start.event_id:
            return group.after(position, self._end)
        fence = look.fence if (look := self._means.follower.end.look) else None
        if fence is None or fence.event_id <= position.event_id:
            return _Part([], position)
        read = partial(self._past, filter_, history, position, fence)
        part = await self._reads.get((history, filter_, position.event_id), read, lambda _: True)
        await self._means.pacer.bulk(sum(len(event.payload) for event in part.events))
        return part

    async def _past(self, filter_: Filter, history: str, after: Position, upto: Position) -> _Part:
        """Reads what one message takes of the events after a place."""
        async with self._means.pacer.page():
            read = partial(self._read, history=history, filters=[filter_], after=after, upto=upto)
            answer = await self._means.read(filter_.tenant or "", read)
            if answer is None:
                raise HoldError(outages.resume_token_expired())
            found, reached = answer
            return _first_part(await self._encoded(found), after, reached)


def _first_part(events: Sequence[Told], after: Position, reached: Position) -> _Part:
    """What one message takes of the events from a place up to another."""
    count = fitting([event.payload for event in events])
    if count < len(events):
        reached = Position(events[count - 1].event_id, after.day)
    return _Part(events[:count], reached)
