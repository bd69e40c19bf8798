"""Which calls are made again, when, and how often; the numbers are those of `retry_policy.json`.

A call is repeated only where that is safe: it reads, or it has a request_id (the client makes one), or the service said
that nothing ran. UNAVAILABLE says so; CANCELLED is what gRPC's server answers, instead of the service, to a call that
arrives while it closes. A call ends by its deadline, all attempts included.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from grpc import StatusCode

from holdsvc.client.errors import CallError, DatabaseUnavailable, ShuttingDown

RETRY_POLICY: str = (files("inventoryhold.v1") / "retry_policy.json").read_text()
"""A gRPC service config, JSON: pass it as the channel option `grpc.service_config`. Only for callers that send a
`request_id` with every change: without one a repeated Reserve holds twice."""

_Config = Mapping[str, Any]

TIMEOUT_MAX_S = 365 * 86_400.0
"""The longest deadline, for a caller that wants none: gRPC takes what is much longer for one that has passed."""

RETRYABLE = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
"""Codes after which a call may be made again, and a stream opened again, where this process has not cancelled it."""


class RetryBudget:
    """Tokens that failures take and successes slowly give back; below half of them nothing is retried (gRFC A6)."""

    def __init__(self, tokens_max: float, token_ratio: float) -> None:
        self._tokens_max = tokens_max
        self._token_ratio = token_ratio
        self._tokens = tokens_max
        self._lock = threading.Lock()

    def failed(self) -> bool:
        """Counts a failure and tells whether it may be retried."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._tokens_max / 2

    def succeeded(self) -> None:
        """Counts a success."""
        if self._tokens < self._tokens_max:
            with self._lock:
                self._tokens = min(self._tokens_max, self._tokens + self._token_ratio)

    def renew(self) -> None:
        """Takes a new lock in a forked child: a thread of the parent may have had the old one."""
        self._lock = threading.Lock()


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed call is made again. `RetryPolicy()` has the shipped numbers.

    `attempts_max` bounds the attempts of one call; the default leaves the end to the deadline, which suits a failover
    of some seconds (gRPC itself allows 5).
    """

    attempts_max: int = 1000
    backoff_initial_s: float = 0.1
    backoff_max_s: float = 2.0
    backoff_multiplier: float = 2.0
    budget_tokens_max: float = 100.0
    budget_token_ratio: float = 0.1
    safe_methods: frozenset[str] = frozenset()
    """`service` or `service/method` whose calls may be made again although they may have run."""

    def pause_max_s(self, attempt: int) -> float:
        """The longest pause after the given failed attempt, counted from 1."""
        return min(self.backoff_max_s, self.backoff_initial_s * self.backoff_multiplier ** min(attempt - 1, 32))

    def is_safe(self, method: str) -> bool:
        """Whether a call of `/service/method` may be repeated although it may have run."""
        path = method.removeprefix("/")
        return path in self.safe_methods or path.partition("/")[0] in self.safe_methods


def shipped_policy() -> RetryPolicy:
    """The policy in `retry_policy.json`."""
    config: _Config = json.loads(RETRY_POLICY)
    [method_config] = config["methodConfig"]
    retry = method_config["retryPolicy"]
    throttling = config["retryThrottling"]
    return RetryPolicy(
        backoff_initial_s=_seconds(retry["initialBackoff"]),
        backoff_max_s=_seconds(retry["maxBackoff"]),
        backoff_multiplier=retry["backoffMultiplier"],
        budget_tokens_max=throttling["maxTokens"],
        budget_token_ratio=throttling["tokenRatio"],
        safe_methods=frozenset(
            f"{name['service']}/{name['method']}" if "method" in name else name["service"]
            for name in method_config["name"]
        ),
    )


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


class Attempts:
    """The attempts of one call: what is left of its deadline, and the pause before the next one."""

    __slots__ = ("_attempt", "_budget", "_clock", "_connection_lost", "_end", "_policy", "_safe", "sent")

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        safe: bool,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._safe = safe
        self._clock = clock
        self._end = clock() + min(timeout_s, TIMEOUT_MAX_S)
        self._attempt = 0
        self.sent = False
        """Whether the request may have reached the service."""
        self._connection_lost = False

    @property
    def remaining_s(self) -> float:
        """What is left of the deadline; every attempt gets this and no more."""
        return max(0.0, self._end - self._clock())

    def succeeded(self) -> None:
        """Counts an answer other than a failure of the service."""
        self._budget.succeeded()

    def pause_s(self, error: CallError) -> float | None:
        """How long to wait before the next attempt; None where there is none.

        Full jitter, after what the service asked for. A server that stops asks for the sake of gRPC's own retries, of
        which there are four; here the next attempt goes to another connection and need not wait.
        """
        self._attempt += 1
        if error.code not in RETRYABLE or not self._affordable(error):
            return None
        if not self._safe and not isinstance(error, DatabaseUnavailable | ShuttingDown):
            return None
        asked_s = 0.0 if isinstance(error, ShuttingDown) else error.retry_after_s or 0.0
        pause_s = asked_s + random.uniform(0, self._policy.pause_max_s(self._attempt))
        return None if self._attempt >= self._policy.attempts_max or pause_s >= self.remaining_s else pause_s

    def _affordable(self, error: CallError) -> bool:
        """Takes the failure from the budget.

        A server that stops costs nothing, and neither does the first connection that a call loses: a restart breaks
        all calls in flight at once, and each waits for the next connection.
        """
        if isinstance(error, ShuttingDown):
            return True
        if not error.reason and not self._connection_lost:
            self._connection_lost = True
            return True
        return self._budget.failed()
