"""Streaming events: what has become complete is read once for the process, made into bytes once, kept for a while.

Who stands within the part that is kept takes from there; who is further behind (a resumed stream, a slow one) reads
from the database at its own pace. So no stream has a queue, and a slow one holds nobody up.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from holdsvc import errors
from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import FeedEvent, Identity, Position
from holdsvc.model import Caller, Event
from holdsvc.streams.follower import End, Feed

T = TypeVar("T")

KEPT_MAX = 5000
"""Events of a tenant that are kept in memory while somebody streams."""

READ_MAX = 200
"""Events that one statement reads; making them into bytes keeps the loop for some 10 ms."""

CHUNKS_MAX = 5
"""Statements of one step: watchers wait for the same reader."""

BATCH_MAX = 200
"""Events of one message."""

READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Subscription:
    """Which events a stream gets."""

    caller: Caller
    types: frozenset[int]

    def wants(self, logged: "Logged") -> bool:
        """Whether the event is asked for and may be seen."""
        if self.types and logged.type not in self.types:
            return False
        if logged.owner is not None and logged.owner != self.caller.client and not self.caller.reads_all:
            return False
        return not self.caller.pools or logged.pools <= self.caller.pools


class Logged(NamedTuple):
    """An event as streams need it."""

    position: Position
    type: int
    owner: str | None
    """The client whose reservation it is about."""
    pools: frozenset[str]
    payload: bytes


class Batch(NamedTuple):
    """What a stream is told at once: events, none in a heartbeat, and where it stands after them."""

    payloads: list[bytes]
    position: Position


class Log:
    """The newest events of a tenant."""

    def __init__(self, start: Position) -> None:
        self.start = start
        self.end = start
        """Every event after `start` up to `end` is kept."""
        self.streams = 0
        self._kept: list[Logged] = []
        self._ids: list[int] = []

    def begin(self, position: Position) -> None:
        """Keeps what comes after this position."""
        self.start = self.end = position

    def extend(self, events: Sequence[Logged], end: Position) -> None:
        """Adds events; forgets old ones, many at a time."""
        self._kept += events
        self._ids += [logged.position.event_id for logged in events]
        self.end = end
        if len(self._kept) > 2 * KEPT_MAX:
            cut = len(self._kept) - KEPT_MAX
            self.start = self._kept[cut - 1].position
            del self._kept[:cut], self._ids[:cut]

    def after(self, event_id: int, limit: int) -> tuple[list[Logged], bool]:
        """The next events after an id, and whether they are all."""
        first = bisect_right(self._ids, event_id)
        return self._kept[first : first + limit], first + limit >= len(self._kept)


class EventHub:
    """Reads complete events and hands them to the streams."""

    def __init__(self, engine: Engine, feed_: Feed, encode: Callable[[Event], bytes], heartbeat_s: float) -> None:
        self._engine = engine
        self._feed = feed_
        self._encode = encode
        self._heartbeat_s = heartbeat_s
        self._logs: dict[str, Log] = {}
        self._end: Position | None = None
        self._moved = asyncio.Event()
        self._epochs = 0
        self._looked = False
        self._closing = False
        feed_.add(self)

    # The feed's side.

    @property
    def active(self) -> bool:
        """Whether anybody streams."""
        return bool(self._logs)

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return sum(log.streams for log in self._logs.values())

    def restart(self) -> None:
        """Another history: streams of the one before end. The first ends none: it is that of all there are."""
        if self._looked:
            self._epochs += 1
            self._logs.clear()
        self._looked = True
        self._end = None
        self._pulse()

    async def step(self, connection: Connection, end: End) -> None:
        """Reads the events that have become complete."""
        if not end.certain:
            return
        if not self._logs or self._end is None:
            self._end = end.fence
            for log in self._logs.values():
                log.begin(self._end)
            self._pulse()
            return
        for _ in range(CHUNKS_MAX):
            if self._end.event_id >= end.fence.event_id:
                return
            await self._read_on(connection, self._end, end.fence)
            # A long way to catch up must not keep the loop from serving calls.
            await asyncio.sleep(0)
        self._feed.wake()

    async def _read_on(self, connection: Connection, after: Position, upto: Position) -> None:
        logs = dict(self._logs)
        tenant = next(iter(logs)) if len(logs) == 1 else None
        found, reached = await feed.read(connection, tenant, after, upto, limit=READ_MAX)
        by_tenant: dict[str, list[Logged]] = {}
        for event in found:
            if event.tenant in logs:
                by_tenant.setdefault(event.tenant, []).append(self._logged(event))
        for name, log in self._logs.items():
            if logs.get(name) is log:
                log.extend(by_tenant.get(name, ()), reached)
            else:
                # It came while this was read.
                log.begin(reached)
        self._end = reached
        self._pulse()

    def _logged(self, found: FeedEvent) -> Logged:
        event = found.event
        if event.reservation is not None:
            owner, lines = event.reservation.client, event.reservation.lines
            pools = frozenset(line.pool for line in lines)
        else:
            assert event.item is not None
            owner, pools = None, frozenset((event.item.pool,))
        position = Position(event.event_id, found.day)
        return Logged(position, int(event.type), owner, pools, self._encode(event))

    def _pulse(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # The streams' side.

    def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN."""
        self._closing = True
        self._pulse()

    def _check_open(self, epochs: int) -> None:
        if self._closing:
            raise HoldError(errors.shutting_down())
        if epochs != self._epochs:
            # Opened again with its token, it is told RESUME_TOKEN_FOREIGN where that is so.
            raise HoldError(errors.database_unavailable())

    async def identity(self) -> Identity:
        """Which history the tokens of a new stream must be of."""
        if self._closing:
            raise HoldError(errors.shutting_down())
        return await self._read(feed.identity)

    async def end(self) -> Position:
        """Where a stream that starts now begins."""
        return await self._feed.end()

    async def last_event_id(self) -> int:
        """The last id that anybody drew."""
        return (await self._read(feed.last)).last_event_id

    async def stream(self, subscription: Subscription, start: Position) -> AsyncGenerator[Batch]:
        """Tells every event after `start`, in order, with heartbeats between.

        Raises RESUME_TOKEN_EXPIRED where retention overtakes it, SHUTTING_DOWN in the end.
        """
        self._check_open(self._epochs)
        epochs = self._epochs
        log = self._join(subscription.caller.tenant)
        loop = asyncio.get_running_loop()
        last_sent = loop.time()
        position = start
        try:
            while True:
                self._check_open(epochs)
                moved = self._moved
                batch = await self._next(log, subscription, position)
                position = batch.position
                if batch.payloads or loop.time() >= last_sent + self._heartbeat_s:
                    last_sent = loop.time()
                    yield batch
                elif position.event_id >= log.end.event_id:
                    await _wait(moved, last_sent + self._heartbeat_s - loop.time())
        finally:
            log.streams -= 1
            if not log.streams and self._logs.get(subscription.caller.tenant) is log:
                del self._logs[subscription.caller.tenant]

    def _join(self, tenant: str) -> Log:
        log = self._logs.get(tenant)
        if log is None:
            log = self._logs[tenant] = Log(self._end or feed.UNKNOWN)
        log.streams += 1
        self._feed.wake()
        return log

    async def _next(self, log: Log, subscription: Subscription, position: Position) -> Batch:
        """The next events of a stream, from memory or else from the database; perhaps none although there are more."""
        if position.event_id >= log.start.event_id and log.end != feed.UNKNOWN:
            found, all_ = log.after(position.event_id, BATCH_MAX)
            reached = log.end if all_ else found[-1].position
            if reached.event_id < position.event_id:
                reached = position
        else:
            events, reached = await self._catch_up(subscription, position)
            found = [self._logged(event) for event in events]
        return Batch([logged.payload for logged in found if subscription.wants(logged)], reached)

    async def _catch_up(self, subscription: Subscription, position: Position) -> tuple[list[FeedEvent], Position]:
        fence = self._feed.fence
        if fence is None or fence.event_id <= position.event_id:
            return [], position
        answer = await self._read(
            partial(
                _read_kept,
                tenant=subscription.caller.tenant,
                after=position,
                upto=fence,
                types=sorted(subscription.types) or None,
            )
        )
        if answer is None:
            raise HoldError(errors.resume_token_expired())
        return answer

    async def _read(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._engine.read("", run, asyncio.get_running_loop().time() + READ_TIMEOUT_S)


async def _read_kept(
    connection: Connection, *, tenant: str, after: Position, upto: Position, types: Sequence[int] | None
) -> tuple[list[FeedEvent], Position] | None:
    """The next events of a tenant; None where some were dropped before they were read."""
    answer = await feed.read(connection, tenant, after, upto, types=types, limit=BATCH_MAX)
    # Looked at afterwards: what was dropped meanwhile is noticed.
    return answer if after.event_id >= (await feed.identity(connection)).floor else None


async def _wait(moved: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await moved.wait()
    except TimeoutError:
        pass
