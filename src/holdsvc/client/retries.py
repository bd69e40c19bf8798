"""Which calls are made again, when, and how often; the numbers are those of `retry_policy.json`.

A call is made again only where that cannot do harm: it reads, or it bears a request_id (the client makes one), or the
service itself said that nothing ran. UNAVAILABLE is the code for that; CANCELLED is what gRPC's server says, in the
service's place, to a call that arrives while it closes (a cancel of the caller's own never gets here). A call ends by
its deadline, all tries included. A budget shared by all calls keeps
retries from drowning a service that is down, as gRPC's own throttling does (gRFC A6).
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
from tenacity import RetryCallState

from holdsvc.client.errors import CallError, DatabaseUnavailable, ShuttingDown

RETRY_POLICY: str = (files("holdsvc.client") / "retry_policy.json").read_text()
"""A gRPC service config, JSON: pass it as the channel option `grpc.service_config`. Only for callers that send a
`request_id` with every change: without one a repeated Reserve holds twice."""

_Config = Mapping[str, Any]


class RetryBudget:
    """Tokens that failures take and successes slowly give back; below half of them nothing is retried."""

    def __init__(self, tokens_max: float, token_ratio: float) -> None:
        self._tokens_max = tokens_max
        self._token_ratio = token_ratio
        self._tokens = tokens_max
        self._lock = threading.Lock()

    def failed(self) -> bool:
        """Counts a failure; tells whether it may be retried."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._tokens_max / 2

    def succeeded(self) -> None:
        """Counts a success."""
        with self._lock:
            self._tokens = min(self._tokens_max, self._tokens + self._token_ratio)


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed call is made again. `RetryPolicy()` has the shipped numbers.

    `attempts_max` bounds one call's tries; the default leaves it to the deadline, which suits a failover of some
    seconds (gRPC itself allows 5).
    """

    attempts_max: int = 1000
    backoff_initial_s: float = 0.1
    backoff_max_s: float = 2.0
    backoff_multiplier: float = 2.0
    budget_tokens_max: float = 100.0
    budget_token_ratio: float = 0.1
    safe_methods: frozenset[str] = frozenset()
    """`service` or `service/method` whose calls may be made again though they may have run."""

    def pause_max_s(self, attempt: int) -> float:
        """The longest pause after the given failed try, counted from 1."""
        return min(self.backoff_max_s, self.backoff_initial_s * self.backoff_multiplier ** min(attempt - 1, 32))

    def is_safe(self, method: str) -> bool:
        """Whether a call of `/service/method` may be repeated though it may have run."""
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
    """The tries of one call: what tenacity's `Retrying` and `AsyncRetrying` ask, and what is left of the deadline."""

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        method: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._safe = policy.is_safe(method)
        self._clock = clock
        self._end = clock() + timeout_s

    @property
    def remaining_s(self) -> float:
        """What is left of the deadline; every try gets this and no more."""
        return max(0.0, self._end - self._clock())

    def retrying(self) -> dict[str, Any]:
        """The arguments of `Retrying` and `AsyncRetrying`."""
        return {"retry": self._may_retry, "wait": self._pause_s, "stop": self._is_over, "reraise": True}

    def _may_retry(self, state: RetryCallState) -> bool:
        assert state.outcome is not None
        error = state.outcome.exception()
        if error is None:
            self._budget.succeeded()
            return False
        if not isinstance(error, CallError) or error.code not in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED):
            # The service works: a refusal is an answer.
            return False
        return self._budget.failed() and (self._safe or isinstance(error, DatabaseUnavailable | ShuttingDown))

    def _pause_s(self, state: RetryCallState) -> float:
        """Full jitter, after what the service asked for."""
        assert state.outcome is not None
        error = state.outcome.exception()
        asked_s = error.retry_after_s if isinstance(error, CallError) else None
        jitter_s = random.uniform(0, self._policy.pause_max_s(state.attempt_number))
        return (asked_s or 0.0) + jitter_s

    def _is_over(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._policy.attempts_max or state.upcoming_sleep >= self.remaining_s
