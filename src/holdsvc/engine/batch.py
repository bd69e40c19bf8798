"""How a batch runs: one transaction, its retries, and the answer of each entry, whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from holdsvc import outages
from holdsvc.change_requests import Request
from holdsvc.engine.job import Entry
from holdsvc.engine.observer import Observer
from holdsvc.engine.queue import Queue
from holdsvc.engine.waitlists import Waitlists
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown, Unreplicated
from holdsvc.ledger.locks import Locks
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Again, Cause, Done, ItemKey, Outcome, Serve, Sweep

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Request)
V = TypeVar("V")

CONFLICT_ATTEMPTS = 8
"""Tries of a batch that the database undid in favour of another (deadlock, serialization)."""

BATCH_TIME_MAX_S = 10.0
"""The longest that a batch may take in the database, beside a wait for a lock, before it is cancelled."""

LOCK_WAITS_MAX = 3
"""Batches of an entry that may wait for a lock on none of their items, before the entry runs alone and then waits."""

OTHER = ItemKey("", "\0")
"""Stands for a lock on something else than an item: a whole table, a request id."""

SWEEP_PAUSE_S = 0.05
"""Pause after a sweep on demand that failed."""


@dataclass(frozen=True)
class LaneKind(Generic[R, V]):
    """A kind of change: its name, and how a batch of one tenant's requests runs in one transaction."""

    name: str
    execute: Callable[[Connection, str, Sequence[R]], Awaitable[list[Outcome[V]]]]
    locks: Locks[R]
    batch_max: int


class Blocked(Protocol[R, V]):
    """Where entries go whose item another transaction keeps locked."""

    def stuck(self) -> set[ItemKey]:
        """The items whose entries wait now, and on whose lock no batch should wait again."""

    def divert(self, entries: Sequence[Entry[R, V]], key: ItemKey) -> list[Entry[R, V]]:
        """Takes entries that wait for the lock of this item; returns those that must run again instead."""


class BatchRunner(Generic[R, V]):
    """Runs the batches of one lane."""

    def __init__(
        self,
        kind: LaneKind[R, V],
        tenant: str,
        database: Database,
        queue: Queue[R, V],
        observer: Observer,
        waitlists: Waitlists,
        *,
        lock_wait_s: float,
        lock_timeout_s: float,
        blocked: Blocked[R, V] | None,
    ) -> None:
        self._kind = kind
        self._tenant = tenant
        self._database = database
        self._queue = queue
        self._observer = observer
        self._waitlists = waitlists
        self._lock_wait_s = lock_wait_s
        self._lock_timeout_s = lock_timeout_s
        self._blocked = blocked
        """None: entries run again until they are older than `lock_timeout_s`, and then they are refused."""

    async def run(self, batch: list[Entry[R, V]]) -> None:
        """Runs a batch and answers its entries, or puts them back into the queue."""
        try:
            if self._blocked is not None and (stuck := self._blocked.stuck()):
                batch = await self._divert_stuck(batch, stuck)
            if batch:
                await self._attempt(batch)
        except Exception as error:  # noqa: BLE001 - a fault of this module: the callers get an answer, the lane goes on
            refused = outages.internal(error, lane=self._kind.name)
            self._queue.fail([entry for entry in batch if entry.running], refused)

    async def _attempt(self, batch: list[Entry[R, V]]) -> None:
        try:
            async with self._database.connection(
                self._lock_wait_s, time_limit_s=self._lock_wait_s + BATCH_TIME_MAX_S
            ) as connection:
                outcomes = await self._execute(connection, batch)
        except NothingRan as error:
            self._observer.not_run(error.cause)
            await self._not_run(batch, error.cause)
        except Unreplicated as error:
            # Not run again: it would find the commit, and acknowledge what may be lost with its server.
            self._observer.not_run(error.cause)
            self._queue.fail(batch, outages.outcome_unknown(error.cause))
        except Unknown:
            self._settle_unknown(batch)
        except Moved as moved:
            self._observer.left(self._tenant, moved)
            self._queue.fail(batch, outages.tenant_moved())
        except Conflict:
            self._queue.fail(batch, outages.overloaded(Cause.CONFLICT))
        except Exception as error:  # noqa: BLE001 - whatever it is, callers wait for an answer
            await self._attempt_each(batch, error)
        else:
            if any(isinstance(outcome, Done) and outcome.due for outcome in outcomes):
                await self._waitlists.serve(self._tenant)
            lapsed, serves = self._settle_all(batch, outcomes)
            if lapsed:
                await self._sweep(lapsed, serves=serves)

    async def _not_run(self, batch: list[Entry[R, V]], cause: Cause) -> None:
        if cause is Cause.STATEMENT_TIMEOUT and len(batch) > 1:
            # One request that takes too long must fail alone.
            self._observer.retried(self._kind.name, "poisoned")
            log.warning("batch.poisoned", lane=self._kind.name, size=len(batch), error=cause)
            for entry in batch:
                entry.alone = True
            self._queue.put_back(batch)
        elif cause is Cause.LOCK_WAIT and self._blocked is not None:
            self._observer.retried(self._kind.name, "locked")
            rest = self._divert(batch, await self._find_locked(batch))
            if len(rest) == len(batch):
                rest = self._without_item(rest)
            self._queue.put_back(rest)
        elif cause is Cause.LOCK_WAIT:
            oldest = asyncio.get_running_loop().time() - self._lock_timeout_s
            self._queue.fail([entry for entry in batch if entry.entered <= oldest], outages.nothing_ran(cause))
            self._queue.put_back([entry for entry in batch if entry.entered > oldest])
        else:
            self._queue.fail(batch, outages.nothing_ran(cause))

    def _without_item(self, batch: list[Entry[R, V]]) -> list[Entry[R, V]]:
        """Handles a batch that waited for a lock, on none of its items by now; returns the entries to run again."""
        assert self._blocked is not None
        for entry in batch:
            entry.lock_waits += 1
        if batch[0].lock_waits < LOCK_WAITS_MAX:
            return batch
        if len(batch) > 1:
            for entry in batch:
                entry.alone = True
            return batch
        return self._blocked.divert(batch, OTHER)

    async def _divert_stuck(self, batch: list[Entry[R, V]], stuck: Collection[ItemKey]) -> list[Entry[R, V]]:
        """Gives away the entries of items whose lock other entries wait for; returns the others."""
        locked = self._kind.locks.among([entry.request for entry in batch], stuck)
        if locked is None:
            locked = {index: key for index, key in (await self._find_locked(batch)).items() if key in stuck}
        return self._divert(batch, locked)

    async def _find_locked(self, batch: list[Entry[R, V]]) -> dict[int, ItemKey]:
        """A locked item of each entry that has one, by the entry's place in the batch."""
        requests = [entry.request for entry in batch]
        try:
            async with self._database.connection(self._lock_wait_s) as connection:
                return await self._kind.locks.find(connection, self._tenant, requests)
        except NothingRan as error:
            # A lock on a whole table concerns every entry; after other failures the batch itself shows what is wrong.
            return dict.fromkeys(range(len(batch)), OTHER) if error.cause is Cause.LOCK_WAIT else {}
        except (Unknown, Conflict):
            return {}

    def _divert(self, batch: list[Entry[R, V]], locked: Mapping[int, ItemKey]) -> list[Entry[R, V]]:
        """Gives away the entries whose item is locked; returns the others."""
        assert self._blocked is not None
        rest: list[Entry[R, V]] = []
        diverted: dict[ItemKey, list[Entry[R, V]]] = {}
        for index, entry in enumerate(batch):
            key = locked.get(index)
            (rest if key is None else diverted.setdefault(key, [])).append(entry)
        for key, entries in diverted.items():
            rest += self._blocked.divert(entries, key)
        return rest

    async def _attempt_each(self, batch: list[Entry[R, V]], error: Exception) -> None:
        """Runs each entry by itself after an error of their batch, so that one bad request fails alone.

        When it is not the database that refused, the batch may have been committed: then only entries with a request_id
        may run again.
        """
        if len(batch) == 1:
            self._queue.settle(batch[0], outages.internal(error, lane=self._kind.name))
            return
        self._observer.retried(self._kind.name, "poisoned")
        log.warning("batch.poisoned", lane=self._kind.name, size=len(batch), error=type(error).__name__)
        for entry in batch:
            if isinstance(error, Failed) or entry.request.request_id:
                await self._attempt([entry])
            else:
                self._queue.settle(entry, outages.internal(error, lane=self._kind.name))

    async def _execute(self, connection: Connection, batch: list[Entry[R, V]]) -> list[Outcome[V]]:
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

    def _settle_all(self, batch: list[Entry[R, V]], outcomes: list[Outcome[V]]) -> tuple[list[ItemKey], bool]:
        """Answers what was judged, puts back what was not.

        Returns the items whose lapsed holds stand in the way, and whether an entry that waits does.
        """
        serves = False
        again: list[Entry[R, V]] = []
        lapsed: dict[ItemKey, None] = {}
        for entry, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Sweep):
                lapsed.update(dict.fromkeys(outcome.items))
                again.append(entry)
            elif isinstance(outcome, Serve):
                lapsed.update(dict.fromkeys(outcome.items))
                serves = entry.request.served = True
                again.append(entry)
            elif isinstance(outcome, Again):
                again.append(entry)
            else:
                self._queue.settle(entry, outcome)
        self._queue.put_back(again)
        return list(lapsed), serves

    async def _sweep(self, lapsed: list[ItemKey], *, serves: bool) -> None:
        """Makes room for calls that wait in the queue: they are judged again, until their deadline.

        Those who wait for the items come first; `serves`: also those whose entry has lapsed make way.
        """
        self._observer.retried(self._kind.name, "served" if serves else "swept")
        try:
            async with self._database.connection(self._lock_wait_s) as connection:
                swept = await items.sweep(connection, self._tenant, lapsed)
            self._observer.expired(swept.expired)
            if serves:
                await self._waitlists.sweep_of(self._tenant)
            elif swept.due:
                await self._waitlists.serve(self._tenant)
        except Exception as error:  # noqa: BLE001 - the calls ask again
            log.warning("sweep.on_demand_failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_PAUSE_S)

    def _settle_unknown(self, batch: list[Entry[R, V]]) -> None:
        """The connection broke during the batch: an entry with a request_id runs again, one without cannot."""
        self._observer.retried(self._kind.name, "connection")
        self._observer.not_run(Cause.DATABASE_AWAY)
        log.warning("batch.connection_lost", lane=self._kind.name, size=len(batch))
        self._queue.fail([entry for entry in batch if not entry.request.request_id], outages.outcome_unknown())
        self._queue.put_back([entry for entry in batch if entry.request.request_id])
