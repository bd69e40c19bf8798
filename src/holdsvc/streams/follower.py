"""The feed's one reader in a process: how far events are complete, and who reads on when there is more.

It polls, at leisure while nobody listens, every few hundredths of a second while somebody does, and at once when it is
told of a change made through this process. Polling is the truth, for changes are made through other processes too, and
a NOTIFY inside a change of stock costs four fifths of the throughput.
"""

import asyncio
from contextlib import suppress
from datetime import date, datetime
from typing import NamedTuple, Protocol

import structlog

from holdsvc.ledger import feed
from holdsvc.ledger.database import Conflict, Connection, Database, NothingRan, Unknown
from holdsvc.ledger.feed import Identity, Position

log = structlog.get_logger(__name__)

POLL_IDLE_S = 1.0
POLL_S = 0.05
GAP_S = 0.01
GAP = 10
GAP_MAX_S = 0.03
"""The shortest time from one look to the next, also in times of what a look takes: what is committed within it is read
together. A busy process looks less often; a hundred looks a second cost it a tenth of the calls that it could serve."""

RETRY_S = 0.2
READY_S = 2.0


class Reader(Protocol):
    """Who reads what the feed has to tell."""

    @property
    def active(self) -> bool:
        """Whether anybody listens."""

    async def step(self, connection: Connection, end: "End") -> None:
        """Reads on, up to the feed's end."""

    def restart(self) -> None:
        """Begins anew: this is another history than a moment ago, or the first look at one."""


class FeedObserver(Protocol):
    """Who hears of the feed: the metrics."""

    def feed_failed(self) -> None:
        """The feed could not be read; the next look tries again."""


class End(NamedTuple):
    """The feed's end at one look."""

    fence: Position
    """The last event up to which all is there, if `certain`; else the end when this process began to look."""
    complete_id: int
    """Complete up to this id, which may belong to no event."""
    last_event_id: int
    """The last id that anybody drew; between the fence and it there may be gaps that fill."""
    certain: bool
    read_time: datetime
    """When this was; what is read after it is not older."""


class _Pending(NamedTuple):
    event_id: int
    day: date
    mark: str
    since: float


class Feed:
    """Follows the end of the feed and calls the readers. `run` it for as long as the process serves."""

    def __init__(self, database: Database, observer: FeedObserver) -> None:
        self._database = database
        self._observer = observer
        self._readers: list[Reader] = []
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._identity: Identity | None = None
        self._known = False
        self._fence: Position | None = None
        self._pending: _Pending | None = None
        self._checked = feed.UNKNOWN.event_id
        """The feed is complete up to this id, which may belong to no event."""

    def add(self, reader: Reader) -> None:
        """Calls this reader from now on."""
        self._readers.append(reader)

    def wake(self) -> None:
        """Looks at once: somebody has begun to listen, or listens for what has changed just now."""
        self._wake.set()

    def _active(self) -> bool:
        return any(reader.active for reader in self._readers)

    @property
    def fence(self) -> Position | None:
        """Up to where events are complete; None before the first look has ended."""
        return self._fence

    @property
    def lag_s(self) -> float:
        """How long an open transaction has kept the feed from becoming complete."""
        return asyncio.get_running_loop().time() - self._pending.since if self._pending else 0.0

    async def end(self) -> Position:
        """The position after all that was committed before this call; waits until what is in flight has ended."""
        async with self._database.connection() as connection:
            seen = await feed.last(connection)
        while self._fence is None or self._checked < seen.last_event_id:
            self.wake()
            await self.moved()
        return Position(min(self._fence.event_id, seen.last_event_id), min(self._fence.day, seen.read_time.date()))

    async def ready(self) -> None:
        """Returns when there is a fence, or after a while without: a long transaction may keep the first one away."""
        if self._fence is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    while self._fence is None:
                        await self.moved()

    async def moved(self) -> None:
        """Returns when the feed has become complete up to a further place."""
        await self._moved.wait()

    async def run(self) -> None:
        """Runs until it is cancelled; a failure is logged, never the end."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            wait_s = POLL_IDLE_S
            try:
                async with self._database.connection() as connection:
                    await self._look(connection)
                if self._active() or self._fence is None:
                    wait_s = POLL_S if self._pending is None else GAP_S
            except (NothingRan, Unknown, Conflict) as error:
                # What answers next may be another database: a standby that took over.
                self._known = False
                wait_s = RETRY_S
                self._observer.feed_failed()
                log.warning("feed.failed", error=type(error).__name__)
            except Exception:
                self._known = False
                wait_s = RETRY_S
                self._observer.feed_failed()
                log.exception("feed.failed")
            took_s = loop.time() - started
            await self._pause(wait_s, started + max(GAP_S, min(GAP_MAX_S, GAP * took_s)))

    async def _pause(self, wait_s: float, earliest: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        # What is committed meanwhile is read together.
        await asyncio.sleep(max(0.0, earliest - loop.time()))
        self._wake.clear()

    async def _look(self, connection: Connection) -> None:
        if not self._known:
            await self._identify(connection)
        pending = self._pending
        fence = self._fence or feed.UNKNOWN
        known = pending.event_id if pending else self._checked
        seen = await feed.poll(connection, known, pending.mark if pending else None, fence)
        today = seen.read_time.date()
        if pending is not None and seen.passed:
            assert seen.complete_event_id is not None
            self._checked, self._pending = pending.event_id, None
            self._fence = Position(seen.complete_event_id, pending.day)
            self._pulse()
        elif pending is None and self._fence is not None and seen.mark is None:
            self._fence = Position(self._fence.event_id, today)
        if seen.mark is not None:
            now = asyncio.get_running_loop().time()
            self._pending = _Pending(seen.last_event_id, today, seen.mark, now)
        pending = self._pending
        if self._fence is not None:
            fence, checked = self._fence, self._checked
        elif pending is not None:
            fence, checked = Position(pending.event_id, pending.day), feed.UNKNOWN.event_id
        else:
            return
        end = End(fence, checked, seen.last_event_id, self._fence is not None, seen.read_time)
        for reader in self._readers:
            await reader.step(connection, end)

    def _pulse(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _identify(self, connection: Connection) -> None:
        identity = await feed.identity(connection)
        if self._identity is None or identity.epoch != self._identity.epoch:
            if self._identity is not None:
                log.warning("feed.epoch_changed", epoch=identity.epoch)
            self._fence = self._pending = None
            self._checked = feed.UNKNOWN.event_id
            for reader in self._readers:
                reader.restart()
        self._identity, self._known = identity, True
