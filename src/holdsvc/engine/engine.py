"""The engine: takes requests from the api, runs them in batches, and keeps the ledger swept."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from holdsvc import errors
from holdsvc.engine import tasks
from holdsvc.engine.identifiers import Uuid7
from holdsvc.engine.lane import Changed, Lane, LaneKind, Observer
from holdsvc.ledger import items, reservations, upkeep
from holdsvc.ledger.database import Conflict, Connection, Database, NothingRan, Unknown
from holdsvc.model import Done, Request, Sweep
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

DEADLINE_TICK_S = 0.25
"""How often calls whose deadline has passed are looked for."""

BUSY_S = 0.5
"""How long after a caller's change the engine counts as busy."""

CONNECTIONS_KEPT = 3
"""Connections of the pool that reads never take."""

QUIET_S = 0.02
"""How long no call must have come for a drain to be over."""

ROUNDS_OF_ARRIVAL = 3
"""Rounds of the loop from a call's bytes to its handler."""

LINGER_S = 1.0
"""How long a drain goes on refusing calls that keep coming."""

SWEEP_ROUNDS = 100
"""Sweeps on demand that one change of an item may ask for."""


class Engine:
    """One per process. Construct it on the loop that serves the calls, then `start` it."""

    def __init__(self, settings: Settings, database: Database, observer: Observer) -> None:
        self._database = database
        self._settings = settings
        self._observer = observer
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._last_change = -BUSY_S
        self._changed: Changed = lambda *_: None
        self._turned_away = 0
        # Reads leave connections for changes and for the health check.
        self._reading = asyncio.Semaphore(max(1, settings.pool_size - CONNECTIONS_KEPT))
        self._waiting_reads = 0
        self.new_id = Uuid7()
        max_lifetime_us = int(settings.max_lifetime.total_seconds() * 1_000_000)
        self._kinds = {
            kind.name: kind
            for kind in (
                LaneKind("reserve", self._reserve, settings.batch_max),
                LaneKind("confirm", reservations.confirm, settings.batch_max),
                LaneKind("cancel", reservations.cancel, settings.batch_max),
                LaneKind("refund", reservations.refund, settings.batch_max),
                LaneKind("extend", partial(reservations.extend, max_lifetime_us=max_lifetime_us), settings.batch_max),
                LaneKind("adjust", items.adjust, settings.batch_max),
                LaneKind("transfer", items.transfer, settings.batch_max),
            )
        }

    async def _reserve(self, connection: Connection, tenant: str, requests: Sequence[Any]) -> list[Any]:
        results = await reservations.reserve(connection, tenant, requests)
        for result in results:
            if type(result) is Done and not result.replayed:
                self.new_id.observe(result.reservation.create_time.timestamp())
                break
        return results

    def start(self) -> None:
        """Starts looking after deadlines."""
        self._spawn(self._watch_deadlines())

    def _spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Asked for, so that nobody calls it lost: its caller may have gone at the deadline.
            task.exception()

    async def _watch_deadlines(self) -> None:
        while True:
            await asyncio.sleep(DEADLINE_TICK_S)
            for key, lane in list(self._lanes.items()):
                if lane.idle:
                    del self._lanes[key]
                else:
                    lane.expire()

    def on_change(self, call: Changed) -> None:
        """Calls this after changes that were made through this process; set it before the first call comes."""
        self._changed = call

    def queue_depths(self) -> dict[str, int]:
        """Requests that wait, by kind of change."""
        depths = dict.fromkeys(self._kinds, 0)
        for (kind, _), lane in self._lanes.items():
            depths[kind] += lane.depth
        return depths

    def busy(self) -> bool:
        """Whether callers make changes: background work gives way then."""
        return self._loop.time() - self._last_change < BUSY_S

    async def submit(self, kind: str, requests: Sequence[Request], deadline: float) -> list[Any]:
        """Runs requests of one tenant through their lane and returns what came of each; refusals stand among them.

        `deadline` is on the loop's clock. Raises a HoldError that concerns all of them: SHUTTING_DOWN, OVERLOADED,
        DATABASE_UNAVAILABLE, OUTCOME_UNKNOWN.
        """
        self._admit()
        self._last_change = self._loop.time()
        tenant = requests[0].caller.tenant
        lane = self._lanes.get((kind, tenant))
        if lane is None:
            settings = self._settings
            lane = Lane(
                self._kinds[kind],
                tenant,
                self._database,
                settings.queue_max,
                self._observer,
                settings.queue_wait_max.total_seconds(),
                self._changed,
            )
            self._lanes[kind, tenant] = lane
        return await lane.submit(requests, deadline)

    async def change(self, tenant: str, run: Callable[[Connection], Awaitable[T]], deadline: float) -> T:
        """Runs a change that has no lane (and no request_id), sweeping on demand."""
        result = await self._detached(partial(self._change, tenant, run), deadline, changes=True)
        self._changed(tenant, [result])
        return result

    async def _change(self, tenant: str, run: Callable[[Connection], Awaitable[T]]) -> T:
        for _ in range(SWEEP_ROUNDS):
            async with self._database.connection() as connection:
                result = await run(connection)
                if not isinstance(result, Sweep):
                    return result
                self._observer.expired(await items.sweep(connection, tenant, result.items))
        raise errors.overloaded()

    async def read(self, run: Callable[[Connection], Awaitable[T]], deadline: float) -> T:
        """Runs something that only reads."""

        async def reading() -> T:
            async with self._reading, self._database.connection() as connection:
                return await run(connection)

        if self._waiting_reads >= self._settings.queue_max:
            raise errors.overloaded()
        self._waiting_reads += 1
        try:
            return await self._detached(reading, deadline, changes=False)
        finally:
            self._waiting_reads -= 1

    async def cleanup(self, tenant: str, max_count: int, deadline: float) -> upkeep.Released:
        """Sweeps a tenant's lapsed holds now."""
        released = await self.change(
            tenant, lambda connection: upkeep.release_expired(connection, tenant, max_count), deadline
        )
        self._observer.expired(released.expired_count)
        log.info(
            "reservation.cleanup",
            tenant=tenant,
            expired_count=released.expired_count,
            inventory_released=released.released_quantity,
        )
        return released

    async def _detached(self, work: Callable[[], Awaitable[T]], deadline: float, *, changes: bool) -> T:
        """Runs work in a task of its own, so that a caller's cancel never reaches the database connection."""
        self._admit()
        task = self._spawn(_retried(work))
        done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - self._loop.time()))
        if not done:
            raise errors.outcome_unknown() if changes else errors.database_unavailable()
        try:
            return task.result()
        except NothingRan:
            raise errors.database_unavailable() from None
        except Conflict:
            raise errors.overloaded() from None
        except Unknown:
            raise (errors.outcome_unknown() if changes else errors.database_unavailable()) from None

    def _admit(self) -> None:
        if self._closing:
            self._turned_away += 1
            raise errors.shutting_down()

    async def drain(self) -> None:
        """Refuses new work and waits until what was accepted has been answered and nobody asks any more.

        A gRPC server that stops cancels the calls that have arrived and are not yet read: to a caller CANCELLED says
        nothing, SHUTTING_DOWN that a retry is safe. So it stops when calls have ceased, after LINGER_S at the latest.
        """
        self._closing = True
        while any(not lane.idle for lane in self._lanes.values()):
            await asyncio.sleep(0.01)
        end = self._loop.time() + LINGER_S
        seen = -1
        while seen != self._turned_away and self._loop.time() < end:
            seen = self._turned_away
            await asyncio.sleep(QUIET_S)
            # A loop that was kept busy wakes for the time first: what came meanwhile has its turn before it is judged.
            for _ in range(ROUNDS_OF_ARRIVAL):
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Ends the background work."""
        self._closing = True
        await tasks.end(self._tasks)


async def _retried(work: Callable[[], Awaitable[T]]) -> T:
    """Runs work that the database may undo for the sake of other work; three times at most."""
    for _ in range(2):
        try:
            return await work()
        except Conflict:
            continue
    return await work()
