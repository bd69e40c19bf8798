"""Fair queueing: work that has no lane takes turns by tenant, so that no tenant keeps the others waiting."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

from holdsvc import outages
from holdsvc.errors import HoldError

SHORT_S = 0.05
"""A tenant runs so many turns at once that together they take this long: long turns run one at a time."""

LATEST_WEIGHT = 0.3
"""Weight of the latest turn in a tenant's average."""

ABANDONED_S = 0.2
"""What a turn that is cancelled counts at least: to cancel a statement, the database forks a process."""

REST = 2.0
"""A tenant that must rest has a third of the time of each turn it may have at once."""

REST_MAX_S = 2.0

AVERAGES_MAX = 10_000
"""Tenants whose average is remembered."""

BUSY_S = 0.5
"""How long after a change its tenant counts as busy."""


class PoolShare(NamedTuple):
    """How many connections of the pool each kind of work takes at most; lanes have the others to themselves."""

    reads: int
    changes: int
    """Changes without a lane."""
    blocked: int
    """Lanes that wait for the lock of an item."""

    @classmethod
    def of(cls, pool_size: int) -> Self:
        """Divides a pool; one of less than five connections has none to keep for the lanes alone."""
        changes = max(1, pool_size // 4)
        return cls(reads=max(1, (3 * pool_size + 4) // 8), changes=changes, blocked=max(1, pool_size // 8))


class Activity:
    """Whether tenants make changes that have lanes, which is what callers wait for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._latest = ""
        """The tenant of the latest change."""
        self._latest_s = self._others_s = -math.inf
        """When it was, and when another tenant's latest one was, on the loop's clock."""

    def note(self, tenant: str) -> None:
        """Takes note of a change."""
        if tenant != self._latest:
            self._latest, self._others_s = tenant, self._latest_s
        self._latest_s = self._loop.time()

    def any(self) -> bool:
        """Whether some tenant makes changes."""
        return self._loop.time() - self._latest_s < BUSY_S

    def beside(self, tenant: str) -> bool:
        """Whether another tenant makes changes."""
        latest_s = self._others_s if tenant == self._latest else self._latest_s
        return self._loop.time() - latest_s < BUSY_S


class FairQueue:
    """Runs at most `slots` turns at once, `tenant_max` of one tenant; free slots go to the waiting tenants in rotation.

    One per kind of work and loop. At most `waiting_max` turns of a tenant wait. Where a tenant `must_rest`, told by its
    name and the average length of its turns, a turn counts as running for REST times its length after its end.
    """

    def __init__(
        self,
        slots: int,
        tenant_max: int,
        waiting_max: int,
        must_rest: Callable[[str, float], bool] = lambda _tenant, _average_s: False,
    ) -> None:
        self._free = slots
        self._tenant_max = tenant_max
        self._waiting_max = waiting_max
        self._must_rest = must_rest
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By tenant; the first one that may run gets the next free slot."""
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
        least_s = 0.0
        try:
            yield
        except asyncio.CancelledError:
            least_s = ABANDONED_S
            raise
        finally:
            took_s = max(least_s, self._loop.time() - began)
            self._free += 1
            if self._must_rest(tenant, self._note(tenant, took_s)):
                self._loop.call_later(min(REST_MAX_S, REST * took_s), self._end, tenant)
                self._hand_out()
            else:
                self._end(tenant)

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
                self._free += 1
                self._end(tenant)
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

    def _end(self, tenant: str) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        self._hand_out()

    def _hand_out(self) -> None:
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

    def _note(self, tenant: str, seconds: float) -> float:
        before_s = self._averages_s.pop(tenant, seconds)
        average_s = self._averages_s[tenant] = before_s + LATEST_WEIGHT * (seconds - before_s)
        if len(self._averages_s) > AVERAGES_MAX:
            self._averages_s.popitem(last=False)
        return average_s
