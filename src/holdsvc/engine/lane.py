"""Batches: what callers send while the last batch commits becomes the next one.

A call that finds the lane idle runs at once, alone; under load a batch takes all that waits, up to a cap, and pays one
lock and one commit for it. The database is never touched from a caller's own task: a cancel would land inside
the commit. A lane is one kind of change of one tenant; its batches run one after another, two at a time while full ones
wait.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import Any, Protocol

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from holdsvc import errors
from holdsvc.engine.admission import DEADLINE_SHARE, Pace
from holdsvc.errors import HoldError
from holdsvc.ledger import items
from holdsvc.ledger.database import Conflict, Connection, Database, Failed, NothingRan, Unknown
from holdsvc.model import Again, ItemKey, Request, Sweep
from holdsvc.telemetry import tracing

log = structlog.get_logger(__name__)

CONFLICT_ATTEMPTS = 8
"""Tries of a batch that the database undid for the sake of another (deadlock, serialization)."""

BREATH = 1.5
BREATH_MAX_S = 0.010
"""Time from one shared batch to the next: so many times what this thread worked since the one before. A thread that is
busier than two thirds makes larger batches: what a batch costs beside its calls is then what keeps calls waiting. One
that is less busy makes them as quickly as the database does. At 100 calls in flight on 2 cores 10 ms is ahead of 5 and
15 ms by 4 to 14 %, of 25 ms by a third. A call that finds the lane idle runs at once."""

SWEEP_PAUSE_S = 0.05
"""Pause after a sweep on demand that failed."""

Execute = Callable[[Connection, str, Sequence[Any]], Awaitable[list[Any]]]
"""Runs a batch of a tenant's requests in one transaction; returns what came of each."""

Changed = Callable[[str, Sequence[Any]], None]
"""Hears of a tenant's batch that has been committed, and what came of its requests."""


class Observer(Protocol):
    """Who hears of batches: the metrics."""

    def batch(self, lane: str, size: int, wait_s: float, run_s: float) -> None:
        """A batch of `size` requests has run; its first waited `wait_s`."""

    def settled(self, lane: str, outcomes: dict[str, int]) -> None:
        """Requests have come to an end: how many, by OK, REPLAYED or the reason of the refusal."""

    def retried(self, lane: str, why: str) -> None:
        """A batch, or a request of it, runs once more."""

    def expired(self, expired_count: int) -> None:
        """A sweep on demand has released lapsed holds."""


class Job:
    """Requests that were submitted together and are answered together."""

    __slots__ = ("deadline", "future", "pending", "place", "results", "retriable", "running")

    def __init__(self, size: int, deadline: float, future: asyncio.Future[list[Any]], *, retriable: bool) -> None:
        self.deadline = deadline
        self.future = future
        self.results: list[Any] = [None] * size
        self.pending = size
        self.running = 0
        self.retriable = retriable
        self.place = tracing.active.place() if tracing.active is not None else None
        """Where in a trace the call stands."""

    @property
    def untouched(self) -> bool:
        """Whether nothing of it has taken effect or may be about to."""
        return self.running == 0 and self.pending == len(self.results)


class Entry:
    """One request of a job on its way through the lane."""

    __slots__ = ("entered", "index", "job", "request", "running", "twins")

    def __init__(self, job: Job, index: int, request: Request, entered: float) -> None:
        self.job = job
        self.index = index
        self.request = request
        self.running = False
        self.entered = entered
        self.twins: list[Entry] | None = None
        """Entries of the same batch with the same request_id: they are answered as this one."""

    def start(self) -> None:
        """It is in a batch now."""
        self.running = True
        self.job.running += 1

    def end(self) -> None:
        """It is in no batch any more."""
        if self.running:
            self.running = False
            self.job.running -= 1


@dataclass(frozen=True)
class LaneKind:
    """A kind of change: its name and how a batch of it runs."""

    name: str
    execute: Execute
    batch_max: int


class Lane:
    """The queue of one kind of change of one tenant."""

    def __init__(
        self,
        kind: LaneKind,
        tenant: str,
        database: Database,
        queue_max: int,
        observer: Observer,
        wait_max_s: float = float("inf"),
        changed: Changed = lambda *_: None,
    ) -> None:
        self._kind = kind
        self._tenant = tenant
        self._database = database
        self._queue_max = queue_max
        self._wait_max_s = wait_max_s
        self._changed = changed
        self._pace = Pace(kind.batch_max)
        self._observer = observer
        self._queue: deque[Entry] = deque()
        self._jobs: set[Job] = set()
        self._outcomes: dict[str, int] = {}
        self._worked_s, self._next_at = 0.0, 0.0
        """This thread's processor time when the last batch began, and when the next one may begin."""
        self._task: asyncio.Task[None] | None = None
        self._second: asyncio.Task[None] | None = None
        """Runs full batches beside the task's own."""
        self._abreast = 0
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._task is None and self._second is None and not self._queue

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def submit(self, requests: Sequence[Request], deadline: float) -> asyncio.Future[list[Any]]:
        """Queues requests; the future brings what came of each.

        `deadline` is on the loop's clock. Raises OVERLOADED when the queue is full, or so long that they could not be
        answered in time.
        """
        now = self._loop.time()
        if self._is_too_long(len(requests), deadline - now):
            self._observer.settled(self._kind.name, {"OVERLOADED": len(requests)})
            raise errors.overloaded()
        retriable = all(request.request_id for request in requests)
        job = Job(len(requests), deadline, self._loop.create_future(), retriable=retriable)
        self._jobs.add(job)
        self._queue.extend([Entry(job, index, request, now) for index, request in enumerate(requests)])
        if self._task is None:
            self._task = self._loop.create_task(self._drain())
        elif self._second is None and self._is_full():
            self._second = self._loop.create_task(self._run_full())
        return job.future

    def _is_full(self) -> bool:
        return len(self._queue) >= self._kind.batch_max

    def _is_too_long(self, more: int, remaining_s: float) -> bool:
        ahead = len(self._queue)
        if ahead + more > self._queue_max:
            return True
        # The first in the queue is never refused: its batch is what the pace is learned from.
        return ahead > 0 and self._pace.wait_s(ahead + more - 1) > min(self._wait_max_s, DEADLINE_SHARE * remaining_s)

    def expire(self) -> None:
        """Answers the jobs whose deadline has passed while the database keeps them waiting."""
        now = self._loop.time()
        for job in [job for job in self._jobs if job.deadline <= now]:
            self._jobs.discard(job)
            if not job.future.done():
                job.future.set_exception(self._late(job))

    def _late(self, job: Job) -> HoldError:
        """Its batch may be under way: a retry is safe where every request brought an id, or where none has run."""
        return errors.database_unavailable() if job.retriable or job.untouched else errors.outcome_unknown()

    async def _drain(self) -> None:
        self._worked_s = thread_time()
        try:
            while batch := await self._next():
                await self._run(batch)
        finally:
            self._task = None
            self._tell_outcomes()

    async def _run_full(self) -> None:
        """Runs full batches beside the task's own, as another worker might.

        A full batch gains nothing by waiting for more, and while one is made or answered here the database runs the
        other.
        """
        try:
            while self._is_full() and (batch := self._collect()):
                await self._run(batch)
        finally:
            self._second = None
            if self._queue and self._task is None:
                # The other had ended when this one put calls back that must be judged again.
                self._task = self._loop.create_task(self._drain())

    async def _next(self) -> list[Entry]:
        """The next batch, a breath after one that several calls shared."""
        rest_s = self._next_at - self._loop.time()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        return self._collect()

    def _collect(self) -> list[Entry]:
        """Takes the next batch. Calls that nobody waits for any more, or whose deadline has passed, are dropped."""
        batch: list[Entry] = []
        leaders: dict[tuple[str, str], Entry] = {}
        now = self._loop.time()
        while self._queue and len(batch) < self._kind.batch_max:
            entry = self._queue.popleft()
            job = entry.job
            if job.future.done() or job.deadline <= now:
                self._count("DATABASE_UNAVAILABLE")
                self._drop(job)
                continue
            request_id = entry.request.request_id
            if request_id:
                leader = leaders.setdefault((entry.request.caller.client, request_id), entry)
                if leader is not entry:
                    if leader.twins is None:
                        leader.twins = []
                    leader.twins.append(entry)
                    continue
            entry.start()
            batch.append(entry)
        return batch

    def _drop(self, job: Job) -> None:
        self._jobs.discard(job)
        if not job.future.done():
            job.future.set_exception(self._late(job))

    async def _run(self, batch: list[Entry]) -> None:
        self._abreast += 1
        try:
            await self._run_timed(batch)
        except Exception as error:
            # A fault of this module; whoever waits gets an answer all the same, and the lane lives on.
            log.exception("batch.crashed", lane=self._kind.name)
            self._fail([entry for entry in batch if entry.running], error)
        finally:
            self._abreast -= 1

    async def _run_timed(self, batch: list[Entry]) -> None:
        started, worked_s = self._loop.time(), thread_time()
        breath_s = min(BREATH_MAX_S, BREATH * (worked_s - self._worked_s)) if len(batch) > 1 else 0.0
        self._worked_s, self._next_at = worked_s, started + breath_s
        if tracing.active is None:
            await self._attempt(batch)
        else:
            with tracing.active.batch(self._kind.name, _places(batch)):
                await self._attempt(batch)
        ended = self._loop.time()
        self._pace.ran((ended - started) / self._abreast)
        self._observer.batch(self._kind.name, len(batch), started - batch[0].entered, ended - started)
        self._tell_outcomes()

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def _tell_outcomes(self) -> None:
        if self._outcomes:
            self._observer.settled(self._kind.name, self._outcomes)
            self._outcomes = {}

    async def _attempt(self, batch: list[Entry]) -> None:
        """Runs a batch and settles its entries, whatever happens."""
        try:
            async with self._database.connection() as connection:
                results = await self._execute(connection, batch)
        except NothingRan:
            self._fail(batch, errors.database_unavailable())
        except Unknown:
            self._settle_unknown(batch)
        except Conflict:
            self._fail(batch, errors.overloaded())
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            if len(batch) == 1:
                self._fail(batch, error)
                return
            # One bad request must fail alone, so each runs by itself. When it is not the database that refused, the
            # batch may have been committed: then only what has a request_id may run again.
            self._observer.retried(self._kind.name, "poisoned")
            log.warning("batch.poisoned", lane=self._kind.name, size=len(batch), error=type(error).__name__)
            for entry in batch:
                if isinstance(error, Failed) or entry.request.request_id:
                    await self._attempt([entry])
                else:
                    self._settle(entry, error)
        else:
            lapsed = self._settle_all(batch, results)
            self._changed(self._tenant, results)
            if lapsed:
                await self._sweep(lapsed)

    async def _execute(self, connection: Connection, batch: list[Entry]) -> list[Any]:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Conflict),
            stop=stop_after_attempt(CONFLICT_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.005, max=0.2),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self._observer.retried(self._kind.name, "conflict")
                return await self._kind.execute(connection, self._tenant, [entry.request for entry in batch])
        raise AssertionError("tenacity returns or raises")

    def _settle_all(self, batch: list[Entry], results: list[Any]) -> list[ItemKey]:
        """Answers what was judged, puts back what was not; returns the items whose lapsed holds stand in the way."""
        again: list[Entry] = []
        lapsed: dict[ItemKey, None] = {}
        for entry, result in zip(batch, results, strict=True):
            if type(result) is Sweep:
                lapsed.update(dict.fromkeys(result.items))
                again.append(entry)
            elif type(result) is Again:
                again.append(entry)
            else:
                self._settle(entry, result)
        self._put_back(again)
        return list(lapsed)

    def _put_back(self, entries: list[Entry]) -> None:
        """Queues entries once more, in order of arrival, ahead of what came later."""
        for entry in reversed(entries):
            entry.end()
            for twin in reversed(entry.twins or ()):
                self._queue.appendleft(twin)
            entry.twins = None
            self._queue.appendleft(entry)

    async def _sweep(self, lapsed: list[ItemKey]) -> None:
        """Makes room for calls that wait in the queue: they are judged again, until their deadline."""
        self._observer.retried(self._kind.name, "swept")
        try:
            async with self._database.connection() as connection:
                self._observer.expired(await items.sweep(connection, self._tenant, lapsed))
        except Exception as error:  # noqa: BLE001 - the calls ask again
            log.warning("sweep.on_demand_failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_PAUSE_S)

    def _settle(self, entry: Entry, result: Any) -> None:
        entry.end()
        twins = entry.twins
        job = entry.job
        self._count(_outcome(result))
        job.results[entry.index] = result
        job.pending -= 1
        if job.pending == 0:
            self._jobs.discard(job)
            if not job.future.done():
                job.future.set_result(job.results)
        if twins:
            entry.twins = None
            for twin in twins:
                same_rights = twin.request.caller == entry.request.caller
                if not same_rights or twin.request.fingerprint != entry.request.fingerprint:
                    # Another content under the same id, or another key of the client: judged by itself, later.
                    self._queue.appendleft(twin)
                elif isinstance(result, Exception):
                    self._settle(twin, result)
                else:
                    self._settle(twin, result._replace(replayed=True))

    def _fail(self, batch: list[Entry], error: Exception) -> None:
        for entry in batch:
            self._settle(entry, error)

    def _settle_unknown(self, batch: list[Entry]) -> None:
        """The connection broke under way: a request_id lets the call be made again, without one nobody can tell."""
        self._observer.retried(self._kind.name, "connection")
        log.warning("batch.connection_lost", lane=self._kind.name, size=len(batch))
        for entry in batch:
            if not entry.request.request_id:
                self._settle(entry, errors.outcome_unknown())
        self._put_back([entry for entry in batch if entry.request.request_id])


def _places(batch: list[Entry]) -> list[Any]:
    return [each.job.place for entry in batch for each in (entry, *(entry.twins or ()))]


def _outcome(result: Any) -> str:
    if isinstance(result, Exception):
        return result.reason if isinstance(result, HoldError) else "INTERNAL"
    return "REPLAYED" if result.replayed else "OK"
