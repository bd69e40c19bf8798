"""Limits: a token bucket each key, on the loop's clock, and what is open at once."""

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from holdsvc import outages
from holdsvc.errors import HoldError

BUCKETS_MAX = 100_000

STREAM_RETRY_S = 5.0
"""When a caller with too many streams open may try again: a guess, for their end is not known."""


GIVEN_UP_REST_S = 1.0
"""How long a call that was given up takes a place: of a client that gives up all its calls few are read."""


class Bucket:
    """A token bucket: `rate` tokens a second, at most those of one second (one at least)."""

    __slots__ = ("_burst", "_rate", "_since", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._since = 0.0

    def take(self, now: float) -> float:
        """Takes a token and returns 0, or returns the seconds until there is one; `now` is of one monotonic clock."""
        tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if tokens < 1.0:
            self._tokens = tokens
            return (1.0 - tokens) / self._rate
        self._tokens = tokens - 1.0
        return 0.0


class RateLimit:
    """Lets through `rate` calls per second of each key, with bursts of one second's worth (one call at least)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[Hashable, Bucket] = {}
        """The one that was used last stands last."""

    def take(self, key: Hashable, limit: str) -> None:
        """Takes one call; raises RATE_LIMITED, naming the limit, when there is none left."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = Bucket(self._rate)
            if len(self._buckets) >= BUCKETS_MAX:
                # The longest unused is full again: forgetting it changes nothing.
                self._buckets.pop(next(iter(self._buckets)))
        self._buckets[key] = bucket
        wait_s = bucket.take(asyncio.get_running_loop().time())
        if wait_s > 0:
            raise HoldError(outages.rate_limited(limit, wait_s))


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
    """The calls of one key: how many go on, and those that wait."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: dict[asyncio.Future[None], None] = {}


class Place:
    """The part of a call that goes on."""

    __slots__ = ("_at_once", "_key", "_taken")

    def __init__(self, at_once: "AtOnce", key: Hashable) -> None:
        self._at_once = at_once
        self._key = key
        self._taken = True

    def leave(self) -> None:
        """The next one goes on. Called again, it does nothing."""
        if self._taken:
            self._taken = False
            self._at_once.free(self._key)

    def give_up(self) -> None:
        """The caller has gone: a place is taken for a while, also when the call has left its own."""
        if not self._taken:
            self._at_once.take(self._key)
        self._taken = False
        asyncio.get_running_loop().call_later(GIVEN_UP_REST_S, self._at_once.free, self._key)


class AtOnce:
    """Lets `most` calls of each key go on at once; the next ones, `waiting_max` of them, wait in order of arrival."""

    def __init__(self, most: int, waiting_max: int) -> None:
        self._most = most
        self._waiting_max = waiting_max
        self._lines: dict[Hashable, _Line] = {}
        self._loop = asyncio.get_running_loop()

    async def enter(self, key: Hashable, end: float) -> Place:
        """Returns when a call may go on, with its place.

        Raises OVERLOADED when too many wait, and DATABASE_UNAVAILABLE at `end`, on the loop's clock.
        """
        line = self._lines.get(key)
        if line is None or line.running < self._most:
            self.take(key)
            return Place(self, key)
        if len(line.waiting) >= self._waiting_max:
            raise HoldError(outages.overloaded())
        turn: asyncio.Future[None] = self._loop.create_future()
        line.waiting[turn] = None
        timer = self._loop.call_at(end, _give_up, turn)
        try:
            await turn
        except BaseException:
            line.waiting.pop(turn, None)
            if not turn.cancelled() and turn.exception() is None:
                # The turn was given and its taker cancelled in the same round.
                self.free(key)
            raise
        finally:
            timer.cancel()
        return Place(self, key)

    def take(self, key: Hashable) -> None:
        """Takes a place, which it then must `free`; there may be none left."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        line.running += 1

    def free(self, key: Hashable) -> None:
        """Gives a place to the next one."""
        line = self._lines[key]
        while line.waiting and line.running <= self._most:
            turn = next(iter(line.waiting))
            del line.waiting[turn]
            if not turn.done():
                turn.set_result(None)
                return
        line.running -= 1
        if not line.running:
            del self._lines[key]


class Entrances(NamedTuple):
    """What goes on at once, of each client."""

    calls: AtOnce
    """Calls without a lane: one client with very many costs little until they are read."""
    streams: AtOnce
    """Streams until their first message."""


def _give_up(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(HoldError(outages.deadline_passed(safe=True)))


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
