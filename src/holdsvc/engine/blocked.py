"""Calls on items that another transaction keeps locked: they wait in lanes of their own, and the other items go on."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from holdsvc import outages
from holdsvc.change_requests import Request
from holdsvc.engine.job import Entry
from holdsvc.engine.queue import Queue
from holdsvc.model import Cause, ItemKey

R = TypeVar("R", bound=Request)
V = TypeVar("V")

LANES_MAX = 100
"""Locked items of a tenant and kind of change for which calls may wait."""

SEEN_S = 1.0
"""How long an item that was found locked counts as such."""


class WaitingLane(Protocol[R, V]):
    """A lane whose calls wait for locks for as long as LOCK_TIMEOUT allows."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""

    @property
    def depth(self) -> int:
        """Calls that wait."""

    @property
    def stuck(self) -> bool:
        """Whether it waits for a lock now, as far as it can tell."""

    def adopt(self, entries: Sequence[Entry[R, V]]) -> None:
        """Queues entries of another lane."""

    def expire(self) -> None:
        """Answers the calls whose deadline has passed."""


class BlockedLanes(Generic[R, V]):
    """The lanes for the locked items of one lane."""

    def __init__(self, queue: Queue[R, V], make: Callable[[], WaitingLane[R, V]], depth_max: int) -> None:
        self._queue = queue
        self._make = make
        self._depth_max = depth_max
        self._lanes: dict[ItemKey, WaitingLane[R, V]] = {}
        self._seen_s: dict[ItemKey, tuple[float, float]] = {}
        """When each item was first and last found locked."""
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        """Whether no call waits for a lock."""
        return all(lane.idle for lane in self._lanes.values())

    @property
    def depth(self) -> int:
        """Calls that wait."""
        return sum(lane.depth for lane in self._lanes.values())

    def stuck(self) -> set[ItemKey]:
        """The items whose lock is being waited for: no batch should wait for it again."""
        return {key for key, lane in self._lanes.items() if lane.stuck} if self._lanes else set()

    def divert(self, entries: Iterable[Entry[R, V]], key: ItemKey) -> list[Entry[R, V]]:
        """Lets entries wait for the lock of this item; returns those that must run again instead.

        An entry of a batch request is refused when the item is found locked once more: the answers to the other entries
        do not wait for the lock. Once may be a busy item.
        """
        now = self._loop.time()
        first, _ = self._seen_s.get(key, (now, now))
        self._seen_s[key] = (first, now)
        again: list[Entry[R, V]] = []
        for entry in entries:
            if not all(each.job.single for each in (entry, *(entry.twins or ()))):
                if now > first:
                    self._queue.settle(entry, outages.overloaded(Cause.LOCK_WAIT))
                else:
                    again.append(entry)
                continue
            lane = self._lane(key)
            if lane is None or lane.depth >= self._depth_max:
                self._queue.settle(entry, outages.overloaded(Cause.LOCK_WAIT))
            else:
                lane.adopt(self._queue.release(entry))
        return again

    def _lane(self, key: ItemKey) -> WaitingLane[R, V] | None:
        lane = self._lanes.get(key)
        if lane is None and len(self._lanes) < LANES_MAX:
            lane = self._lanes[key] = self._make()
        return lane

    def expire(self) -> None:
        """Answers the calls whose deadline has passed, and drops the lanes that are idle."""
        for key, lane in list(self._lanes.items()):
            if lane.idle:
                del self._lanes[key]
            else:
                lane.expire()
        oldest = self._loop.time() - SEEN_S
        self._seen_s = {key: times for key, times in self._seen_s.items() if times[1] >= oldest}
