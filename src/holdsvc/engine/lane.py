"""Lanes: what callers send while the last batch commits becomes the next batch.

A lane is one kind of change of one tenant. A call that finds it idle runs at once, alone; under load a batch takes all
that waits, up to a cap, and pays one lock and one commit for it. The database is never used from a caller's own task: a
cancel would arrive inside the commit. Batches run one after another, two at a time while full ones wait.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import thread_time
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from holdsvc import outages
from holdsvc.change_requests import Request
from holdsvc.engine.admission import DEADLINE_SHARE, NO_LOAD_S, Pace
from holdsvc.engine.batch import BatchRunner, LaneKind
from holdsvc.engine.blocked import BlockedLanes
from holdsvc.engine.job import Entry
from holdsvc.engine.observer import Observer
from holdsvc.engine.queue import Queue
from holdsvc.engine.waitlists import Waitlists
from holdsvc.errors import HoldError
from holdsvc.ledger.database import Database
from holdsvc.model import Answer
from holdsvc.settings import Settings
from holdsvc.telemetry import tracing

R = TypeVar("R", bound=Request)
V = TypeVar("V")

PAUSE_FACTOR = 1.5
"""Pause from the start of one shared batch to the next, as a multiple of this thread's processor time since the batch
before: a busy thread makes larger batches."""

PAUSE_MAX_S = 0.010

BATCH_LOCK_WAIT_S = 0.2
"""How long a batch waits for a lock before it goes on without the locked item."""

LOCK_WAIT_S = 1.0
"""How long a batch of a locked item waits for the lock before it lets another locked item's batch wait."""


class LaneLimits(NamedTuple):
    """What a lane may keep waiting, and for how long."""

    queue_max: int
    wait_max_s: float = float("inf")
    lock_timeout_s: float = 10.0
    """The longest wait for a lock in a lane of the locked item."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that the settings give."""
        return cls(settings.queue_max, settings.queue_wait_max.total_seconds(), settings.lock_timeout.total_seconds())


class Lane(Generic[R, V]):
    """The queue of one kind of change of one tenant, and the tasks that empty it.

    It gives up on an item that stays locked for BATCH_LOCK_WAIT_S, whose calls go on in a lane for this item. Such a
    lane is `waiting`: its batches wait for locks, one of a few at a time, for they keep their connections meanwhile.
    """

    def __init__(
        self,
        kind: LaneKind[R, V],
        tenant: str,
        database: Database,
        observer: Observer,
        limits: LaneLimits,
        lock_waits: asyncio.Semaphore,
        waitlists: Waitlists,
        *,
        waiting: bool = False,
    ) -> None:
        self._kind = kind
        self._limits = limits
        self._observer = observer
        self._pace = Pace(kind.batch_max)
        self._queue: Queue[R, V] = Queue(kind.name, observer)
        self._lock_waits = lock_waits if waiting else None
        self._blocked: BlockedLanes[R, V] | None = None
        if not waiting:
            make = partial(Lane[R, V], kind, tenant, database, observer, limits, lock_waits, waitlists, waiting=True)
            self._blocked = BlockedLanes(self._queue, make, limits.queue_max)
        self._runner = BatchRunner(
            kind,
            tenant,
            database,
            self._queue,
            observer,
            waitlists,
            lock_wait_s=min(limits.lock_timeout_s, LOCK_WAIT_S) if waiting else BATCH_LOCK_WAIT_S,
            lock_timeout_s=limits.lock_timeout_s,
            blocked=self._blocked,
        )
        self._worked_s, self._next_at = 0.0, 0.0
        """This thread's processor time when the last batch began, and when the next one may begin."""
        self._first: asyncio.Task[None] | None = None
        self._second: asyncio.Task[None] | None = None
        """Runs full batches beside the first task's."""
        self._running = 0
        self._began, self._last_s = 0.0, float("inf")
        """When the latest batch began, and how long the one before it took."""
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        own = self._first is None and self._second is None and not self._queue
        return own and (self._blocked is None or self._blocked.idle)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._queue) + (0 if self._blocked is None else self._blocked.depth)

    @property
    def stuck(self) -> bool:
        """Whether a batch waits for a lock, as far as its time tells; a new lane counts as stuck."""
        latest_s = self._loop.time() - self._began if self._running else 0.0
        return not self.idle and max(latest_s, self._last_s) > BATCH_LOCK_WAIT_S

    def submit(self, requests: Sequence[R], deadline: float) -> asyncio.Future[list[Answer[V]]]:
        """Queues requests; the future brings the answer of each.

        `deadline` is on the loop's clock. Raises OVERLOADED when the queue is full, or so long that they could not be
        answered in time.
        """
        if self._is_too_long(len(requests), deadline - self._loop.time()):
            self._observer.settled(self._kind.name, {"OVERLOADED": len(requests)})
            raise HoldError(outages.overloaded())
        future = self._queue.add(requests, deadline)
        self._wake()
        return future

    def adopt(self, entries: Sequence[Entry[R, V]]) -> None:
        """Queues entries of another lane."""
        self._queue.adopt(entries)
        self._wake()

    def _wake(self) -> None:
        if self._first is None:
            self._first = self._loop.create_task(self._drain())
        elif self._second is None and self._is_full():
            self._second = self._loop.create_task(self._run_full())

    def _is_full(self) -> bool:
        return len(self._queue) >= self._kind.batch_max

    def _is_too_long(self, more: int, remaining_s: float) -> bool:
        ahead = len(self._queue)
        if ahead + more > self._limits.queue_max:
            return True
        # The first in the queue is never refused: its batch is what the pace is learned from.
        return ahead > 0 and self._pace.wait_s(ahead + more - 1) > min(
            self._limits.wait_max_s, max(NO_LOAD_S, DEADLINE_SHARE * remaining_s)
        )

    def expire(self) -> None:
        """Answers the jobs whose deadline has passed while the database keeps them waiting."""
        self._queue.expire()
        if self._blocked is not None:
            self._blocked.expire()

    async def _drain(self) -> None:
        self._worked_s = thread_time()
        try:
            while batch := await self._next():
                await self._run(batch)
        finally:
            self._first = None
            self._queue.report()

    async def _run_full(self) -> None:
        """Runs full batches beside the first task's, as another worker might.

        A full batch gains nothing by waiting for more, and while one is made or answered here the database runs the
        other.
        """
        try:
            while self._is_full() and (batch := self._collect()):
                await self._run(batch)
        finally:
            self._second = None
            if self._queue and self._first is None:
                # The first task had ended when this one put calls back that must be judged again.
                self._first = self._loop.create_task(self._drain())

    async def _next(self) -> list[Entry[R, V]]:
        """The next batch, after a pause where the last one was shared by several calls."""
        rest_s = self._next_at - self._loop.time()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        return self._collect()

    def _collect(self) -> list[Entry[R, V]]:
        return self._queue.collect(self._kind.batch_max)

    async def _run(self, batch: list[Entry[R, V]]) -> None:
        self._running += 1
        try:
            await self._run_timed(batch)
        finally:
            self._running -= 1

    async def _run_traced(self, batch: list[Entry[R, V]]) -> None:
        if tracing.active is None:
            await self._runner.run(batch)
        else:
            with tracing.active.batch(self._kind.name, [place for entry in batch for place in entry.places()]):
                await self._runner.run(batch)

    async def _run_timed(self, batch: list[Entry[R, V]]) -> None:
        started, worked_s = self._loop.time(), thread_time()
        self._began = started
        pause_s = min(PAUSE_MAX_S, PAUSE_FACTOR * (worked_s - self._worked_s)) if len(batch) > 1 else 0.0
        self._worked_s, self._next_at = worked_s, started + pause_s
        entered = batch[0].entered
        if self._lock_waits is None:
            await self._run_traced(batch)
        else:
            async with self._lock_waits:
                await self._run_traced(batch)
        ended = self._loop.time()
        self._last_s = ended - started
        self._pace.ran((ended - started) / self._running)
        self._observer.batch(self._kind.name, len(batch), started - entered, ended - started)
        self._queue.report()


class Lanes(Generic[R, V]):
    """The lanes of one kind of change, one for each tenant that makes such changes now."""

    def __init__(
        self,
        kind: LaneKind[R, V],
        database: Database,
        observer: Observer,
        limits: LaneLimits,
        lock_waits: asyncio.Semaphore,
        waitlists: Waitlists,
    ) -> None:
        self._kind = kind
        self._database = database
        self._observer = observer
        self._limits = limits
        self._lock_waits = lock_waits
        self._waitlists = waitlists
        self._by_tenant: dict[str, Lane[R, V]] = {}

    @property
    def name(self) -> str:
        """The kind of change, as metrics name it."""
        return self._kind.name

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return all(lane.idle for lane in self._by_tenant.values())

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return sum(lane.depth for lane in self._by_tenant.values())

    @property
    def pressed(self) -> bool:
        """Whether a request waits."""
        return any(lane.depth for lane in self._by_tenant.values())

    def submit(self, requests: Sequence[R], deadline: float) -> asyncio.Future[list[Answer[V]]]:
        """Queues requests of one tenant; see `Lane.submit`."""
        tenant = requests[0].caller.tenant
        lane = self._by_tenant.get(tenant)
        if lane is None:
            lane = self._by_tenant[tenant] = Lane(
                self._kind,
                tenant,
                self._database,
                self._observer,
                self._limits,
                self._lock_waits,
                self._waitlists,
            )
        return lane.submit(requests, deadline)

    def expire(self) -> None:
        """Answers the calls whose deadline has passed, and drops the lanes that are idle."""
        for tenant, lane in list(self._by_tenant.items()):
            if lane.idle:
                del self._by_tenant[tenant]
            else:
                lane.expire()


class AnyLanes(Protocol):
    """Lanes of some kind, as far as the kind does not matter."""

    @property
    def name(self) -> str:
        """The kind of change, as metrics name it."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""

    @property
    def depth(self) -> int:
        """Requests that wait."""

    @property
    def pressed(self) -> bool:
        """Whether a request waits."""

    def expire(self) -> None:
        """Answers the calls whose deadline has passed."""
