"""Lanes whose batches run what a test wants."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from holdsvc.change_requests import Request
from holdsvc.engine.batch import LaneKind
from holdsvc.engine.identifiers import Uuid7
from holdsvc.engine.lane import Lane, LaneLimits
from holdsvc.engine.waitlists import Waitlists
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.locks import ItemLocks
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Caller, Cause, Done, Outcome
from tests.support.holds import CALLER


def done(value: str, *, replayed: bool = False) -> Done[str]:
    """What came of a request."""
    return Done(value, replayed)


class Observed:
    """Remembers what a lane tells."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.retries: list[str] = []
        self.causes: list[Cause] = []
        self.outcomes: Counter[str] = Counter()

    def batch(self, lane: str, size: int, wait_s: float, run_s: float) -> None:
        assert lane
        assert wait_s >= 0 <= run_s
        self.batches.append(size)

    def settled(self, lane: str, outcomes: Mapping[str, int]) -> None:
        assert lane
        self.outcomes.update(outcomes)

    def not_run(self, cause: Cause) -> None:
        self.causes.append(cause)

    def left(self, tenant: str, moved: Moved) -> None:
        raise AssertionError(f"{tenant} is not here: {moved}")

    def expired(self, expired_count: int) -> None:
        self.outcomes["EXPIRED"] += expired_count

    def offered(self, waited_us: list[int]) -> None:
        self.outcomes["OFFERED"] += len(waited_us)

    def taken(self, count: int) -> None:
        self.outcomes["TAKEN"] += count

    def serve_failed(self) -> None:
        self.outcomes["SERVE_FAILED"] += 1

    def retried(self, lane: str, why: str) -> None:
        assert lane
        self.retries.append(why)


def request(number: object, *, request_id: str = "", client: str = "dev") -> Request:
    caller = CALLER if client == "dev" else Caller("default", client, "", frozenset())
    return Request(caller, request_id, str(number).encode())


class Executor:
    """Runs batches: remembers them, waits at a gate, and answers by `answer` for each request."""

    def __init__(self, answer: Callable[[Request], Outcome[str]] | None = None) -> None:
        self.batches: list[list[str]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self._answer = answer or (lambda request: done(request.fingerprint.decode()))

    async def __call__(self, connection: Connection, tenant: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        assert tenant == "default"
        self.batches.append([request.fingerprint.decode() for request in requests])
        self.started.set()
        await self.gate.wait()
        await connection.fetch("SELECT 1")
        return [self._answer(request) for request in requests]


def lane_of(
    execute: Callable[[Connection, str, Sequence[Request]], Awaitable[list[Outcome[str]]]],
    database: Database,
    observed: Observed,
    *,
    batch_max: int = 500,
    queue_max: int = 1000,
) -> Lane[Request, str]:
    return Lane(
        LaneKind("test", execute, ItemLocks(lambda _: []), batch_max),
        "default",
        database,
        observed,
        LaneLimits(queue_max),
        asyncio.Semaphore(1),
        Waitlists(database, observed, Uuid7().many),
    )


class LoopClock:
    """The running loop's clock: it runs, and it can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead_s, raising=False)

    def advance(self, seconds: float) -> None:
        """Puts the clock forward."""
        self._ahead_s += seconds


def soon(seconds: float = 20.0) -> float:
    """A deadline on the loop's clock."""
    return asyncio.get_running_loop().time() + seconds
