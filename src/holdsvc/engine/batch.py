"""How a batch runs: one transaction, its retries, and the answer of each entry, whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from holdsvc import errors
from holdsvc.engine.job import Entry
from holdsvc.engine.observer import Observer
from holdsvc.engine.queue import Queue
from holdsvc.ledger import items
from holdsvc.ledger.database import Conflict, Connection, Database, Failed, NothingRan, Unknown
from holdsvc.model import Again, Cause, ItemKey, Outcome, Request, Sweep

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Request)
V = TypeVar("V")

CONFLICT_ATTEMPTS = 8
"""Tries of a batch that the database undid in favour of another (deadlock, serialization)."""

SWEEP_PAUSE_S = 0.05
"""Pause after a sweep on demand that failed."""


@dataclass(frozen=True)
class LaneKind(Generic[R, V]):
    """A kind of change: its name, and how a batch of one tenant's requests runs in one transaction."""

    name: str
    execute: Callable[[Connection, str, Sequence[R]], Awaitable[list[Outcome[V]]]]
    batch_max: int


class BatchRunner(Generic[R, V]):
    """Runs the batches of one lane."""

    def __init__(
        self,
        kind: LaneKind[R, V],
        tenant: str,
        database: Database,
        queue: Queue[R, V],
        observer: Observer,
    ) -> None:
        self._kind = kind
        self._tenant = tenant
        self._database = database
        self._queue = queue
        self._observer = observer

    async def run(self, batch: list[Entry[R, V]]) -> None:
        """Runs a batch and answers its entries, or puts them back into the queue."""
        try:
            await self._attempt(batch)
        except Exception as error:  # noqa: BLE001 - a fault of this module: the callers get an answer, the lane goes on
            refused = errors.internal(error, lane=self._kind.name)
            self._queue.fail([entry for entry in batch if entry.running], refused)

    async def _attempt(self, batch: list[Entry[R, V]]) -> None:
        try:
            async with self._database.connection() as connection:
                outcomes = await self._execute(connection, batch)
        except NothingRan as error:
            await self._not_run(batch, error.cause)
        except Unknown:
            self._settle_unknown(batch)
        except Conflict:
            self._queue.fail(batch, errors.overloaded(Cause.CONFLICT))
        except Exception as error:  # noqa: BLE001 - whatever it is, callers wait for an answer
            await self._attempt_each(batch, error)
        else:
            lapsed = self._settle_all(batch, outcomes)
            if lapsed:
                await self._sweep(lapsed)

    async def _not_run(self, batch: list[Entry[R, V]], cause: Cause) -> None:
        self._observer.not_run(cause)
        if cause is Cause.STATEMENT_TIMEOUT and len(batch) > 1:
            # One request that takes too long must fail alone: halves, so that a large batch is soon through.
            middle = len(batch) // 2
            await self._attempt(batch[:middle])
            await self._attempt(batch[middle:])
        else:
            self._queue.fail(batch, errors.nothing_ran(cause))

    async def _attempt_each(self, batch: list[Entry[R, V]], error: Exception) -> None:
        """Runs each entry by itself after an error of their batch, so that one bad request fails alone.

        When it is not the database that refused, the batch may have been committed: then only entries with a request_id
        may run again.
        """
        if len(batch) == 1:
            self._queue.settle(batch[0], errors.internal(error, lane=self._kind.name))
            return
        self._observer.retried(self._kind.name, "poisoned")
        log.warning("batch.poisoned", lane=self._kind.name, size=len(batch), error=type(error).__name__)
        for entry in batch:
            if isinstance(error, Failed) or entry.request.request_id:
                await self._attempt([entry])
            else:
                self._queue.settle(entry, errors.internal(error, lane=self._kind.name))

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

    def _settle_all(self, batch: list[Entry[R, V]], outcomes: list[Outcome[V]]) -> list[ItemKey]:
        """Answers what was judged, puts back what was not; returns the items whose lapsed holds stand in the way."""
        again: list[Entry[R, V]] = []
        lapsed: dict[ItemKey, None] = {}
        for entry, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Sweep):
                lapsed.update(dict.fromkeys(outcome.items))
                again.append(entry)
            elif isinstance(outcome, Again):
                again.append(entry)
            else:
                self._queue.settle(entry, outcome)
        self._queue.put_back(again)
        return list(lapsed)

    async def _sweep(self, lapsed: list[ItemKey]) -> None:
        """Makes room for calls that wait in the queue: they are judged again, until their deadline."""
        self._observer.retried(self._kind.name, "swept")
        try:
            async with self._database.connection() as connection:
                self._observer.expired(await items.sweep(connection, self._tenant, lapsed))
        except Exception as error:  # noqa: BLE001 - the calls ask again
            log.warning("sweep.on_demand_failed", error=type(error).__name__)
            await asyncio.sleep(SWEEP_PAUSE_S)

    def _settle_unknown(self, batch: list[Entry[R, V]]) -> None:
        """The connection broke during the batch: an entry with a request_id runs again, one without cannot."""
        self._observer.retried(self._kind.name, "connection")
        self._observer.not_run(Cause.DATABASE_AWAY)
        log.warning("batch.connection_lost", lane=self._kind.name, size=len(batch))
        self._queue.fail([entry for entry in batch if not entry.request.request_id], errors.outcome_unknown())
        self._queue.put_back([entry for entry in batch if entry.request.request_id])
