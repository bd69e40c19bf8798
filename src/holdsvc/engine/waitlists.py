"""Serving waitlists: who waits for units is offered them before the call that freed them is answered."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from holdsvc.ledger import waitlist
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.model import Cause

log = structlog.get_logger(__name__)

WAIT_MAX_S = 0.25
"""The longest that a call which freed units waits until they are offered; the serve goes on."""

PASSES_MAX = 100
"""Transactions of a serve. What they do not reach is the sweep's."""

LOCK_WAIT_S = 0.25

LAPSE_S = 0.25
"""How long a sweep goes on to end entries, a transaction after another; the next one ends the others."""

BUSY_S = 1.0
"""How long after an item was found locked a serve of its tenant waits for no lock."""


class ServeObserver(Protocol):
    """Receives what the metrics show of waitlists."""

    def offered(self, waited_us: list[int]) -> None:
        """Entries have been offered units, each after so many microseconds."""

    def serve_failed(self) -> None:
        """A serve has failed: the sweep's serves again."""


class Waitlists:
    """Serves the waitlists of tenants, one serve of a tenant at a time."""

    def __init__(self, database: Database, observer: ServeObserver, new_ids: Callable[[int], list[str]]) -> None:
        self._database = database
        self._observer = observer
        self._new_ids = new_ids
        self._running: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}
        """The serve that follows the one that runs: it sees what was freed meanwhile."""
        self._busy_until: dict[str, float] = {}
        """Until when an item of a tenant counts as locked."""

    async def serve(self, tenant: str) -> None:
        """Serves what is due of a tenant; returns when that is done, or after `WAIT_MAX_S`. Never raises a failure."""
        await asyncio.wait([self._begin(tenant)], timeout=WAIT_MAX_S)

    def _begin(self, tenant: str) -> asyncio.Task[None]:
        """A serve that begins from now on."""
        running = self._running.get(tenant)
        if running is None:
            task = self._running[tenant] = asyncio.create_task(self._serve(tenant))
            return task
        following = self._next.get(tenant)
        if following is None:
            following = self._next[tenant] = asyncio.create_task(self._follow(tenant, running))
        return following

    async def _follow(self, tenant: str, running: asyncio.Task[None]) -> None:
        await asyncio.wait([running])
        self._running[tenant] = self._next.pop(tenant)
        await self._serve(tenant)

    async def _serve(self, tenant: str) -> None:
        try:
            for _ in range(PASSES_MAX):
                if not await self._pass(tenant):
                    break
        except (NothingRan, Unknown, Conflict) as error:
            # Due it stays: the sweep serves again.
            self._observer.serve_failed()
            log.warning("waitlist.serve_failed", tenant=tenant, error=type(error).__name__)
        except Failed:
            self._observer.serve_failed()
            log.exception("waitlist.serve_failed", tenant=tenant)
        finally:
            if self._running.get(tenant) is asyncio.current_task():
                del self._running[tenant]

    async def _pass(self, tenant: str) -> bool:
        """Serves once; returns whether there is more to do.

        An item that stays locked must not keep those waiting who wait for others.
        """
        loop = asyncio.get_running_loop()
        busy = loop.time() < self._busy_until.get(tenant, 0.0)
        ids = self._new_ids(waitlist.OFFERS_MAX)
        async with self._database.connection(LOCK_WAIT_S) as connection:
            try:
                served = await waitlist.serve(connection, tenant, ids, skip_busy=busy)
            except NothingRan as error:
                if error.cause is not Cause.LOCK_WAIT or busy:
                    raise
                self._busy_until[tenant] = loop.time() + BUSY_S
                served = await waitlist.serve(connection, tenant, ids, skip_busy=True)
            else:
                if not busy:
                    self._busy_until.pop(tenant, None)
        self._observer.offered(served.waited_us)
        if served.waited_us or served.lapsed_count:
            log.info("waitlist.served", tenant=tenant, offered=len(served.waited_us), lapsed=served.lapsed_count)
        return served.more

    async def sweep(self) -> None:
        """Ends the entries whose time is over, and serves every tenant that has a due item."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LAPSE_S
        while True:
            async with self._database.connection(LOCK_WAIT_S) as connection:
                swept = await waitlist.sweep(connection, None)
            if swept.lapsed_count < waitlist.LAPSED_MAX or loop.time() >= end:
                break
        for tenant in swept.due_tenants:
            await self.serve(tenant)

    async def sweep_of(self, tenant: str) -> None:
        """The same for one tenant, at once: for a call to which lapsed entries leave no unit."""
        async with self._database.connection(LOCK_WAIT_S) as connection:
            swept = await waitlist.sweep(connection, tenant)
        if swept.due_tenants:
            await self.serve(tenant)

    async def close(self) -> None:
        """Waits for the serves that run."""
        while self._running or self._next:
            await asyncio.wait([*self._running.values(), *self._next.values()])
