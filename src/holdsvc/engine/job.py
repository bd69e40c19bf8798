"""What a lane keeps of a caller's requests until they are answered."""

import asyncio
from typing import Generic, TypeVar, cast

from holdsvc.change_requests import Request
from holdsvc.model import Answer
from holdsvc.telemetry import tracing

R = TypeVar("R", bound=Request)
V = TypeVar("V")


class Job(Generic[V]):
    """Requests that were submitted together and are answered together."""

    __slots__ = ("_answers", "_pending", "deadline", "future", "place", "retriable", "running")

    def __init__(self, size: int, deadline: float, future: asyncio.Future[list[Answer[V]]], *, retriable: bool) -> None:
        self.deadline = deadline
        """On the loop's clock."""
        self.future = future
        self.retriable = retriable
        """Whether every request has a request_id."""
        self.running = 0
        """Entries that are in a batch now."""
        self.place: object = tracing.active.place() if tracing.active is not None else None
        """The call's place in a trace."""
        self._answers: list[Answer[V] | None] = [None] * size
        self._pending = size

    @property
    def single(self) -> bool:
        """Whether it is one request: nothing else waits for its answer."""
        return len(self._answers) == 1

    @property
    def untouched(self) -> bool:
        """Whether nothing of it has taken effect, and nothing is about to."""
        return self.running == 0 and self._pending == len(self._answers)

    def answer(self, index: int, answer: Answer[V]) -> bool:
        """Takes the answer of one request; returns whether it was the last one, which answers the caller."""
        self._answers[index] = answer
        self._pending -= 1
        if self._pending:
            return False
        if not self.future.done():
            self.future.set_result(cast("list[Answer[V]]", self._answers))
        return True


class Entry(Generic[R, V]):
    """One request of a job on its way through the lane."""

    __slots__ = ("alone", "entered", "index", "job", "lock_waits", "request", "running", "twins")

    def __init__(self, job: Job[V], index: int, request: R, entered: float) -> None:
        self.job = job
        self.index = index
        self.request = request
        self.running = False
        self.entered = entered
        """When it was queued, on the loop's clock."""
        self.alone = False
        """Whether it must run in a batch of its own: one that it was part of ran too long."""
        self.lock_waits = 0
        """Batches that waited for a lock in vain while none of their items was locked."""
        self.twins: list[Entry[R, V]] | None = None
        """Entries with the same client and request_id that its batch left out: they get the same answer."""

    def start(self) -> None:
        """Marks it as part of a batch."""
        self.running = True
        self.job.running += 1

    def end(self) -> None:
        """Marks it as part of no batch."""
        if self.running:
            self.running = False
            self.job.running -= 1

    def places(self) -> list[object]:
        """Where in their traces the calls are that this entry answers."""
        return [entry.job.place for entry in (self, *(self.twins or ()))]
