"""Rates: a token bucket each key, on the loop's clock."""

import asyncio

from holdsvc import errors

BUCKETS_MAX = 100_000


class RateLimit:
    """Lets through `rate` calls per second of each key, with bursts of one second's worth (one call at least)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, limit: str) -> None:
        """Takes one call; raises RATE_LIMITED, naming the limit, when there is none left."""
        now = asyncio.get_running_loop().time()
        tokens, since = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        if tokens < 1.0:
            raise errors.rate_limited(limit, (1.0 - tokens) / self._rate)
        if key not in self._buckets and len(self._buckets) >= BUCKETS_MAX:
            # The longest unused is full again: forgetting it changes nothing.
            self._buckets.pop(next(iter(self._buckets)))
        self._buckets.pop(key, None)
        self._buckets[key] = (tokens - 1.0, now)
