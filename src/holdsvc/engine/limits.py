"""Limits: a token bucket each key, on the loop's clock, and what is open at once."""

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from holdsvc import outages
from holdsvc.errors import HoldError

BUCKETS_MAX = 100_000

STREAM_RETRY_S = 5.0
"""When a caller with too many streams open may try again: a guess, for their end is not known."""


class RateLimit:
    """Lets through `rate` calls per second of each key, with bursts of one second's worth (one call at least)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def take(self, key: Hashable, limit: str) -> None:
        """Takes one call; raises RATE_LIMITED, naming the limit, when there is none left."""
        now = asyncio.get_running_loop().time()
        tokens, since = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        if tokens < 1.0:
            raise HoldError(outages.rate_limited(limit, (1.0 - tokens) / self._rate))
        if key not in self._buckets and len(self._buckets) >= BUCKETS_MAX:
            # The longest unused is full again: forgetting it changes nothing.
            self._buckets.pop(next(iter(self._buckets)))
        self._buckets.pop(key, None)
        self._buckets[key] = (tokens - 1.0, now)


class OpenLimit:
    """Limits how many things of each key are open at once to `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[Hashable, int] = {}

    @contextmanager
    def one(self, key: Hashable, limit: str) -> Iterator[None]:
        """Counts one while the block runs; raises RATE_LIMITED, naming the limit, when there are too many."""
        count = self._open.get(key, 0)
        if count >= self._most:
            raise HoldError(outages.rate_limited(limit, STREAM_RETRY_S))
        self._open[key] = count + 1
        try:
            yield
        finally:
            if self._open[key] == 1:
                del self._open[key]
            else:
                self._open[key] -= 1


class _Line:
    """Of one key."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: dict[asyncio.Future[None], None] = {}


class AtOnce:
    """Lets `most` calls of each key go on at once; the next ones, `waiting_max` of them, wait in order of arrival."""

    def __init__(self, most: int, waiting_max: int) -> None:
        self._most = most
        self._waiting_max = waiting_max
        self._lines: dict[Hashable, _Line] = {}
        self._loop = asyncio.get_running_loop()

    async def enter(self, key: Hashable, end: float) -> None:
        """Returns when a call may go on, which must `leave` then.

        Raises OVERLOADED when too many wait, and DATABASE_UNAVAILABLE at `end`, on the loop's clock.
        """
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        if line.running < self._most:
            line.running += 1
            return
        if len(line.waiting) >= self._waiting_max:
            raise HoldError(outages.overloaded())
        place: asyncio.Future[None] = self._loop.create_future()
        line.waiting[place] = None
        timer = self._loop.call_at(end, _give_up, place)
        try:
            await place
        except BaseException:
            line.waiting.pop(place, None)
            if not place.cancelled() and place.exception() is None:
                # The place was given and its taker cancelled in the same round.
                self.leave(key)
            raise
        finally:
            timer.cancel()

    def leave(self, key: Hashable) -> None:
        """Ends a call's part: the next one goes on."""
        line = self._lines[key]
        while line.waiting:
            place = next(iter(line.waiting))
            del line.waiting[place]
            if not place.done():
                place.set_result(None)
                return
        line.running -= 1
        if not line.running:
            del self._lines[key]


def _give_up(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(HoldError(outages.deadline_passed(safe=True)))


class ClientLimits:
    """What each client of each tenant may do in this process; 0 is no limit."""

    def __init__(self, calls_per_second: float, streams_max: int) -> None:
        self._calls = RateLimit(calls_per_second) if calls_per_second else None
        self._streams = OpenLimit(streams_max) if streams_max else None

    def call(self, tenant: str, client: str) -> None:
        """Takes one call, of whatever rpc; raises RATE_LIMITED."""
        if self._calls is not None:
            self._calls.take((tenant, client), "calls per second of a client")

    @contextmanager
    def stream(self, tenant: str, client: str) -> Iterator[None]:
        """Counts a stream while the block runs; raises RATE_LIMITED."""
        if self._streams is None:
            yield
        else:
            with self._streams.one((tenant, client), "open streams of a client"):
                yield
