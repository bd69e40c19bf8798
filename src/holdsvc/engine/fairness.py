"""Fair queueing: work that has no lane takes turns by tenant, so that no tenant keeps the others waiting."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdsvc import outages
from holdsvc.errors import HoldError

SHORT_S = 0.05
"""A tenant runs so many turns at once that together they take this long: long turns run one at a time."""

LATEST_WEIGHT = 0.3
"""Weight of the latest turn in a tenant's average."""

AVERAGES_MAX = 10_000
"""Tenants whose average is remembered."""


class FairQueue:
    """Runs at most `slots` turns at once, `tenant_max` of one tenant; free slots go to the waiting tenants in rotation.

    One per kind of work and loop. At most `waiting_max` turns of a tenant wait.
    """

    def __init__(self, slots: int, tenant_max: int, waiting_max: int) -> None:
        self._free = slots
        self._tenant_max = tenant_max
        self._waiting_max = waiting_max
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By tenant; the first one gets the next free slot."""
        self._averages_s: OrderedDict[str, float] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    @property
    def depth(self) -> int:
        """Turns that wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Runs the block as a turn of the tenant; raises OVERLOADED when too many of its turns wait."""
        await self._enter(tenant)
        began = self._loop.time()
        try:
            yield
        finally:
            self._note(tenant, self._loop.time() - began)
            self._leave(tenant)

    async def _enter(self, tenant: str) -> None:
        if self._free and tenant not in self._waiting and self._may_run(tenant):
            self._take(tenant)
            return
        waiting = self._waiting.setdefault(tenant, deque())
        if len(waiting) >= self._waiting_max:
            raise HoldError(outages.overloaded())
        slot: asyncio.Future[None] = self._loop.create_future()
        waiting.append(slot)
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled():
                self._leave(tenant)
            elif (still := self._waiting.get(tenant)) is not None and slot in still:
                still.remove(slot)
                if not still:
                    del self._waiting[tenant]
            raise

    def _may_run(self, tenant: str) -> bool:
        average_s = self._averages_s.get(tenant, 0.0)
        most = self._tenant_max if average_s <= 0 else min(self._tenant_max, int(SHORT_S / average_s))
        return self._running[tenant] < max(1, most)

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._running[tenant] += 1

    def _leave(self, tenant: str) -> None:
        self._free += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        while self._free and (following := next(filter(self._may_run, self._waiting), None)) is not None:
            waiting = self._waiting[following]
            slot = waiting.popleft()
            if waiting:
                self._waiting.move_to_end(following)
            else:
                del self._waiting[following]
            if slot.cancelled():
                # Its task has been cancelled and has not run since.
                continue
            self._take(following)
            slot.set_result(None)

    def _note(self, tenant: str, seconds: float) -> None:
        average_s = self._averages_s.pop(tenant, seconds)
        self._averages_s[tenant] = average_s + LATEST_WEIGHT * (seconds - average_s)
        if len(self._averages_s) > AVERAGES_MAX:
            self._averages_s.popitem(last=False)
