"""The queue of a lane: entries in order of arrival, and the jobs that wait for their answers."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from holdsvc import outages
from holdsvc.change_requests import Request
from holdsvc.engine.job import Entry, Job
from holdsvc.engine.observer import Observer
from holdsvc.errors import HoldError
from holdsvc.model import Answer, Done, Refused

R = TypeVar("R", bound=Request)
V = TypeVar("V")


class Queue(Generic[R, V]):
    """Gives out batches and takes back what must run again; counts the answers for the metrics."""

    def __init__(self, lane: str, observer: Observer) -> None:
        self._lane = lane
        self._observer = observer
        self._entries: deque[Entry[R, V]] = deque()
        self._jobs: set[Job[V]] = set()
        self._outcomes: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._entries)

    def add(self, requests: Sequence[R], deadline: float) -> asyncio.Future[list[Answer[V]]]:
        """Queues requests of one job; the future brings the answer of each."""
        now = self._loop.time()
        retriable = all(request.request_id for request in requests)
        job: Job[V] = Job(len(requests), deadline, self._loop.create_future(), retriable=retriable)
        self._jobs.add(job)
        self._entries.extend([Entry(job, index, request, now) for index, request in enumerate(requests)])
        return job.future

    def collect(self, size_max: int) -> list[Entry[R, V]]:
        """Takes the next batch. Calls that were cancelled, or whose deadline has passed, are dropped."""
        batch: list[Entry[R, V]] = []
        leaders: dict[tuple[str, str], Entry[R, V]] = {}
        now = self._loop.time()
        while self._entries and len(batch) < size_max:
            if batch and (batch[0].alone or self._entries[0].alone):
                break
            entry = self._entries.popleft()
            job = entry.job
            if job.future.done() or job.deadline <= now:
                self._count("DEADLINE_EXCEEDED" if job.deadline <= now else "CANCELLED")
                self._drop(job)
                continue
            request_id = entry.request.request_id
            if request_id:
                leader = leaders.setdefault((entry.request.caller.client, request_id), entry)
                if leader is not entry:
                    if leader.twins is None:
                        leader.twins = []
                    leader.twins.append(entry)
                    continue
            entry.start()
            batch.append(entry)
        return batch

    def release(self, entry: Entry[R, V]) -> list[Entry[R, V]]:
        """Gives up an entry and its twins, for another queue to adopt."""
        entry.end()
        released = [entry, *(entry.twins or ())]
        entry.twins = None
        self._jobs.difference_update(each.job for each in released)
        return released

    def adopt(self, entries: Sequence[Entry[R, V]]) -> None:
        """Queues entries that another queue has released; each is the only one of its job."""
        self._jobs.update(entry.job for entry in entries)
        self._entries.extend(entries)

    def put_back(self, entries: Sequence[Entry[R, V]]) -> None:
        """Queues entries once more, in order of arrival, ahead of what came later."""
        for entry in reversed(entries):
            entry.end()
            self._entries.extendleft(reversed(entry.twins or ()))
            entry.twins = None
            self._entries.appendleft(entry)

    def settle(self, entry: Entry[R, V], answer: Answer[V]) -> None:
        """Answers an entry and its twins."""
        entry.end()
        twins = entry.twins
        self._count(_outcome(answer))
        if entry.job.answer(entry.index, answer):
            self._jobs.discard(entry.job)
        if twins:
            entry.twins = None
            for twin in twins:
                same_rights = twin.request.caller == entry.request.caller
                if not same_rights or twin.request.fingerprint != entry.request.fingerprint:
                    # Other content under the same id, or another key of the client: judged by itself, later.
                    self._entries.appendleft(twin)
                elif isinstance(answer, Refused):
                    self.settle(twin, answer)
                else:
                    self.settle(twin, Done(answer.value, replayed=True))

    def fail(self, entries: Sequence[Entry[R, V]], refused: Refused) -> None:
        """Answers all of these entries with the same refusal."""
        for entry in entries:
            self.settle(entry, refused)

    def expire(self) -> None:
        """Answers the jobs whose deadline has passed while the database keeps them waiting."""
        now = self._loop.time()
        for job in [job for job in self._jobs if job.deadline <= now]:
            self._drop(job)

    def _drop(self, job: Job[V]) -> None:
        self._jobs.discard(job)
        if not job.future.done():
            # Its batch may be under way: a retry is safe where every request has an id, or where none has run.
            job.future.set_exception(HoldError(outages.deadline_passed(safe=job.retriable or job.untouched)))

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def report(self) -> None:
        """Reports the answers since the last report."""
        if self._outcomes:
            self._observer.settled(self._lane, self._outcomes)
            self._outcomes = {}


def _outcome(answer: Answer[object]) -> str:
    if isinstance(answer, Refused):
        return answer.reason
    return "REPLAYED" if answer.replayed else "OK"
