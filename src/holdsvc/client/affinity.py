"""The addresses of a service, and which of them a request goes to.

Calls of an item that meet in one process become one batch; in two processes the batches wait for each other's row lock.
So each item has an order of the addresses (rendezvous hashing: all clients with the same addresses agree, and one more
address moves only its share of the items). Its calls go to the first of them that is up.
"""

import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor

DOWN_S = 1.0
"""How long an address without an answer is passed over, before one call tries it."""

ORDERS_MAX = 10_000
"""Orders that are remembered."""

PAUSE_MAX_S = 0.2
"""The longest pause before a call looks again, while no address is up."""

_NAMES = ("lines", "sku", "reservation_id", "reference")
"""What a request may name, in the order in which it decides."""


class Places:
    """The addresses, by their number."""

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses = addresses
        self._clock = clock
        self._down_until_s = [0.0] * len(addresses)
        self._orders: dict[str, Sequence[int]] = {}
        self._turns = itertools.count()
        self.several = len(addresses) > 1

    def choose(self, request: Any) -> int | None:
        """The first address, in the order of a request, that is up; None where none is."""
        if not self.several:
            return 0
        now_s = self._clock()
        for place in self._order(key_of(request)):
            until_s = self._down_until_s[place]
            if until_s <= now_s:
                if until_s:
                    # This call tries it; the others pass it over until there is an answer.
                    self._down_until_s[place] = now_s + DOWN_S
                return place
        return None

    def failed(self, place: int) -> None:
        """Passes over an address that has stopped, or cannot be reached."""
        self._down_until_s[place] = self._clock() + DOWN_S

    def answered(self, place: int) -> None:
        """Takes an address as up."""
        if self._down_until_s[place]:
            self._down_until_s[place] = 0.0

    def _order(self, key: str) -> Sequence[int]:
        count = len(self._addresses)
        if not key:
            first = next(self._turns)
            return [(first + place) % count for place in range(count)]
        order = self._orders.get(key)
        if order is None:
            if len(self._orders) >= ORDERS_MAX:
                self._orders.clear()
            scores = [_score(address, key) for address in self._addresses]
            order = self._orders[key] = sorted(range(count), key=scores.__getitem__, reverse=True)
        return order


def key_of(request: Any) -> str:
    """What a request's place depends on: the lowest of its skus, or its reservation; empty: any place will do."""
    names, holds_requests = _names_of(request.DESCRIPTOR)
    if holds_requests:
        return key_of(request.requests[0]) if request.requests else ""
    for name in names:
        value = getattr(request, name)
        if value:
            return value if isinstance(value, str) else min(line.sku for line in value)
    return ""


@functools.cache
def _names_of(kind: Descriptor) -> tuple[tuple[str, ...], bool]:
    """Which of _NAMES a request has, and whether it has other requests in it."""
    return tuple(name for name in _NAMES if name in kind.fields_by_name), "requests" in kind.fields_by_name


def _score(address: str, key: str) -> bytes:
    return hashlib.blake2b(f"{address} {key}".encode(), digest_size=8).digest()
