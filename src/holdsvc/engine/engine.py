"""The engine: takes requests from the api and runs them in the ledger, in batches where a kind of change has lanes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog

from holdsvc import change_requests, errors, outages
from holdsvc.engine import tasks
from holdsvc.engine.batch import LaneKind
from holdsvc.engine.fairness import SHORT_S, Activity, FairQueue, PoolShare
from holdsvc.engine.identifiers import Uuid7
from holdsvc.engine.lane import AnyLanes, LaneLimits, Lanes
from holdsvc.engine.observer import Observer
from holdsvc.engine.waitlists import Waitlists
from holdsvc.entries import WaitlistEntry
from holdsvc.errors import HoldError
from holdsvc.ledger import changes, counts, holds, items, locks, upkeep, waitlist
from holdsvc.ledger.database import RESERVED_CONNECTIONS, Connection, Database
from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.ledger.locks import Locks
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Again, Answer, Cause, Done, Item, Outcome, Reservation, Serve, Sweep, Transferred
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

MICROSECOND = timedelta(microseconds=1)

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]
R = TypeVar("R", bound=change_requests.Request)
V = TypeVar("V")

DEADLINE_TICK_S = 0.25
"""How often calls whose deadline has passed are looked for."""

READS_WAITING_MAX = 1000
CHANGES_WAITING_MAX = 1000
"""Reads and changes without a lane that may wait, of each tenant."""

CALLERS_OWN_S = 0.1
"""How much later than its deadline a call without a lane is ended here: gRPC and HTTP end it at the deadline of its
caller, which costs less than a refusal."""

CHANGE_LOCK_WAIT_S = 2.0
"""The longest that a change without a lane waits for a lock: it has one of few connections."""

QUIET_S = 0.02
"""How long no call must have come for a drain to be over."""

ROUNDS_OF_ARRIVAL = 3
"""Rounds of the loop from a call's bytes to its handler."""

LINGER_S = 1.0
"""How long a drain goes on refusing calls that keep coming."""

DRAIN_TICK_S = 0.01

TRIES = 3
"""Tries of work that the database undoes."""

SWEEP_ROUNDS = 100
"""Sweeps on demand that one change of an item may ask for."""


class Engine:
    """One per process. Construct it on the loop that serves the calls, then `start` it.

    Every method that takes a `deadline`, on the loop's clock, raises a HoldError for what concerns the whole call:
    SHUTTING_DOWN, OVERLOADED, DATABASE_UNAVAILABLE, OUTCOME_UNKNOWN.
    """

    def __init__(self, settings: Settings, database: Database, observer: Observer) -> None:
        self._database = database
        self._settings = settings
        self._observer = observer
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self.activity = Activity()
        """Which tenants make changes: background work, and what others have given up, give way to them."""
        self._turned_away = 0
        share = PoolShare.of(settings.pool_size)
        self._reading = FairQueue(share.reads, max(1, share.reads - 1), READS_WAITING_MAX, self._must_rest)
        beside = self.activity.beside
        self._changing = FairQueue(
            share.changes, max(1, share.changes - 1), CHANGES_WAITING_MAX, lambda tenant, _: beside(tenant)
        )
        # The other reserved connection is the health check's.
        self._looking_up = asyncio.Semaphore(RESERVED_CONNECTIONS - 1)
        self.new_id = Uuid7()
        self.waitlists = Waitlists(database, observer, self.new_id.many)
        self._all_lanes: list[AnyLanes] = []
        self._lock_waits = asyncio.Semaphore(share.blocked)
        max_lifetime_us = settings.max_lifetime // MICROSECOND
        self._rescue_window_us = settings.rescue_window // MICROSECOND
        extend = partial(changes.extend, max_lifetime_us=max_lifetime_us)
        self._reserves = self._lanes("reserve", self._run_reserves, locks.RESERVES)
        self._modifies = self._lanes("modify", changes.modify, locks.ModifyLocks())
        self._confirms = self._lanes("confirm", self._run_confirms, locks.TargetLocks())
        self._cancels = self._lanes("cancel", changes.cancel, locks.TargetLocks())
        self._fulfils = self._lanes("fulfil", changes.fulfil, locks.TargetLocks())
        self._refunds = self._lanes("refund", changes.refund, locks.TargetLocks())
        self._extends = self._lanes("extend", extend, locks.TargetLocks())
        self._adjusts = self._lanes("adjust", items.adjust, locks.ADJUSTS)
        set_stock = partial(counts.set_stock, max_age=settings.count_max_age)
        self._set_stocks = self._lanes("set_stock", set_stock, locks.SET_STOCKS)
        self._transfers = self._lanes("transfer", items.transfer, locks.TRANSFERS)
        self._joins = self._lanes("join", waitlist.join, locks.JOINS)

    def _lanes(
        self,
        name: str,
        execute: Callable[[Connection, str, Sequence[R]], Awaitable[list[Outcome[V]]]],
        finder: Locks[R],
    ) -> Lanes[R, V]:
        kind = LaneKind(name, execute, finder, self._settings.batch_max)
        lanes = Lanes(
            kind,
            self._database,
            self._observer,
            LaneLimits.of(self._settings),
            self._lock_waits,
            self.waitlists,
        )
        self._all_lanes.append(lanes)
        return lanes

    async def _run_reserves(
        self, connection: Connection, tenant: str, requests: Sequence[change_requests.Reserve]
    ) -> list[Outcome[Reservation]]:
        outcomes = await holds.reserve(connection, tenant, requests)
        for outcome in outcomes:
            if isinstance(outcome, Done) and not outcome.replayed:
                self.new_id.observe(outcome.value.create_time.timestamp())
                break
        return outcomes

    async def _run_confirms(
        self, connection: Connection, tenant: str, requests: Sequence[change_requests.Confirm]
    ) -> list[Outcome[Reservation]]:
        outcomes = await changes.confirm(connection, tenant, requests, rescue_window_us=self._rescue_window_us)
        sold = [outcome.value for outcome in outcomes if isinstance(outcome, Done) and not outcome.replayed]
        self._observer.taken(sum(1 for each in sold if each.entry_id and not each.rescued))
        return outcomes

    def start(self) -> None:
        """Starts looking after deadlines."""
        self._spawn(tasks.forever("deadlines", self.expire))

    def _spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Read, so that asyncio does not report it as never retrieved: the caller may have gone at its deadline.
            task.exception()

    async def expire(self) -> float:
        """Answers the calls whose deadline has passed; returns the pause until the next time, seconds."""
        for lanes in self._all_lanes:
            lanes.expire()
        return DEADLINE_TICK_S

    def queue_depths(self) -> dict[str, int]:
        """Requests that wait, by kind of change."""
        return {lanes.name: lanes.depth for lanes in self._all_lanes}

    def pressed(self) -> bool:
        """Whether a request waits for the next batch of its lane."""
        return any(lanes.pressed for lanes in self._all_lanes)

    def _must_rest(self, tenant: str, average_s: float) -> bool:
        """Long reads leave the machine to other tenants' changes; short ones are what callers wait for, too."""
        return average_s > SHORT_S and bool(tenant) and self.activity.beside(tenant)

    def reserve(
        self, requests: Sequence[change_requests.Reserve], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Makes reservations; like all changes below it takes requests of one tenant and answers each by itself."""
        return self._submit(self._reserves, requests, deadline)

    def confirm(
        self, requests: Sequence[change_requests.Confirm], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Sells what reservations hold."""
        return self._submit(self._confirms, requests, deadline)

    def cancel(
        self, requests: Sequence[change_requests.Cancel], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Gives back what reservations hold."""
        return self._submit(self._cancels, requests, deadline)

    def refund(
        self, requests: Sequence[change_requests.Refund], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Takes back what reservations have confirmed."""
        return self._submit(self._refunds, requests, deadline)

    def fulfil(
        self, requests: Sequence[change_requests.Fulfil], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Takes what reservations have confirmed out of the building."""
        return self._submit(self._fulfils, requests, deadline)

    def modify(
        self, requests: Sequence[change_requests.Modify], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Changes holds in place."""
        return self._submit(self._modifies, requests, deadline)

    def extend(
        self, requests: Sequence[change_requests.Extend], deadline: float
    ) -> asyncio.Future[list[Answer[Reservation]]]:
        """Gives holds more time."""
        return self._submit(self._extends, requests, deadline)

    def adjust(self, requests: Sequence[change_requests.Adjust], deadline: float) -> asyncio.Future[list[Answer[Item]]]:
        """Changes capacities by differences."""
        return self._submit(self._adjusts, requests, deadline)

    def set_stock(
        self, requests: Sequence[change_requests.SetStock], deadline: float
    ) -> asyncio.Future[list[Answer[counts.Counted]]]:
        """Sets capacities from counts."""
        return self._submit(self._set_stocks, requests, deadline)

    def transfer(
        self, requests: Sequence[change_requests.Transfer], deadline: float
    ) -> asyncio.Future[list[Answer[Transferred]]]:
        """Moves capacity between pools."""
        return self._submit(self._transfers, requests, deadline)

    def join(
        self, requests: Sequence[change_requests.Join], deadline: float
    ) -> asyncio.Future[list[Answer[WaitlistEntry]]]:
        """Joins the waitlists of items."""
        return self._submit(self._joins, requests, deadline)

    def _submit(self, lanes: Lanes[R, V], requests: Sequence[R], deadline: float) -> asyncio.Future[list[Answer[V]]]:
        self._admit()
        self.activity.note(requests[0].caller.tenant)
        return lanes.submit(requests, deadline)

    async def change(self, tenant: str, run: Work[Outcome[V]], deadline: float) -> Answer[V]:
        """Runs a change that has no lane (and no request_id), sweeping on demand.

        It does not run when its caller has gone, or its deadline has passed, before its turn.
        """
        begun = False

        async def changing() -> Answer[V]:
            nonlocal begun
            async with self._changing.turn(tenant):
                begun = True
                return await self._run(tenant, partial(self._change, tenant, run))

        return await self._detached(changing, deadline, may_end=lambda: not begun)

    async def _change(self, tenant: str, run: Work[Outcome[V]]) -> Answer[V]:
        for _ in range(SWEEP_ROUNDS):
            async with self._database.connection(CHANGE_LOCK_WAIT_S) as connection:
                outcome = await run(connection)
                if isinstance(outcome, Sweep | Serve):
                    swept = await items.sweep(connection, tenant, outcome.items)
                    self._observer.expired(swept.expired)
                    due = swept.due
                elif isinstance(outcome, Again):
                    continue
                else:
                    due = isinstance(outcome, Done) and outcome.due
            if due:
                await self.waitlists.serve(tenant)
            if not isinstance(outcome, Sweep | Serve):
                return outcome
        return outages.overloaded(Cause.CONFLICT)

    async def read(self, tenant: str, run: Work[T], deadline: float, *, past: bool = False) -> T:
        """Runs something that only reads, for a caller of this tenant; an empty tenant is the service itself.

        Raises TENANT_MOVED where the tenant has gone to another cell, but for the `past`: what happened in this one.
        When the deadline passes or the caller goes away, the statement is cancelled in the database.
        """

        async def reading() -> T:
            place = self._database.connection(reads_of="" if past else tenant)
            async with self._reading.turn(tenant), place as connection:
                return await run(connection)

        return await self._detached(lambda: self._run(tenant, reading), deadline)

    async def look_up(self, run: Work[T], deadline: float) -> T:
        """Runs a short read that calls of every tenant depend on, such as that of a key, beside all other reads."""

        async def reading() -> T:
            async with self._looking_up, self._database.connection(reserved=True) as connection:
                return await run(connection)

        return await self._detached(lambda: self._run("", reading), deadline)

    async def cleanup(self, tenant: str, max_count: int, deadline: float) -> upkeep.Released:
        """Sweeps a tenant's lapsed holds now."""

        async def release(connection: Connection) -> Done[upkeep.Released]:
            released = await upkeep.release_expired(connection, tenant, max_count)
            return Done(released, replayed=False, due=released.expired_count > 0)

        released = errors.unwrap(await self.change(tenant, release, deadline)).value
        self._observer.expired(released.expired_count)
        log.info(
            "reservation.cleanup",
            tenant=tenant,
            expired_count=released.expired_count,
            inventory_released=released.released_quantity,
        )
        return released

    async def _run(self, tenant: str, work: Callable[[], Awaitable[T]]) -> T:
        """Runs work that the database may undo in favour of other work; takes note of a tenant that is not here."""
        try:
            for _ in range(TRIES - 1):
                with suppress(Conflict):
                    return await work()
            return await work()
        except Moved as moved:
            self._observer.left(tenant, moved)
            raise

    async def _detached(
        self, work: Callable[[], Awaitable[T]], deadline: float, may_end: Callable[[], bool] = lambda: True
    ) -> T:
        """Runs work in a task of its own, so that a caller's cancel reaches it only while it `may_end`."""
        self._admit()
        task = self._spawn(work())
        try:
            done, _ = await asyncio.wait([task], timeout=max(0.0, deadline + CALLERS_OWN_S - self._loop.time()))
        except asyncio.CancelledError:
            if may_end():
                task.cancel()
            raise
        if not done:
            safe = may_end()
            if safe:
                task.cancel()
            raise HoldError(outages.deadline_passed(safe=safe))
        try:
            return task.result()
        except NothingRan as error:
            self._observer.not_run(error.cause)
            raise HoldError(outages.nothing_ran(error.cause)) from None
        except Moved:
            raise HoldError(outages.tenant_moved()) from None
        except Conflict:
            raise HoldError(outages.overloaded(Cause.CONFLICT)) from None
        except Unknown as error:
            self._observer.not_run(error.cause)
            unknown = outages.database_unavailable() if may_end() else outages.outcome_unknown(error.cause)
            raise HoldError(unknown) from None

    def _admit(self) -> None:
        if self._closing:
            self._turned_away += 1
            raise HoldError(outages.shutting_down())

    async def drain(self) -> None:
        """Refuses new work and waits until what was accepted has been answered and no new call arrives.

        A gRPC server that stops cancels the calls that have arrived and are not yet read: CANCELLED tells a caller
        nothing, SHUTTING_DOWN that a retry is safe. So the drain ends when no call arrives, after LINGER_S at the
        latest.
        """
        self._closing = True
        while not all(lanes.idle for lanes in self._all_lanes):
            await asyncio.sleep(DRAIN_TICK_S)
        await self.waitlists.close()
        end = self._loop.time() + LINGER_S
        seen = -1
        while seen != self._turned_away and self._loop.time() < end:
            seen = self._turned_away
            await asyncio.sleep(QUIET_S)
            # A busy loop handles timers first: the calls that arrived meanwhile get their turn before the comparison.
            for _ in range(ROUNDS_OF_ARRIVAL):
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Ends the background work."""
        self._closing = True
        await tasks.end(self._tasks)
