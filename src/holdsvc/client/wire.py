"""How the calls of a lane are sent and answered: with futures of an event loop, or of threads."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from holdsvc.client import errors, statuses
from holdsvc.client.coalescing import Done
from holdsvc.client.errors import CallError

WAKING_MAX_S = 0.005
"""The longest that a call waits for other threads to wake: one switch of the interpreter between threads."""


class AsyncWire:
    """For asyncio: everything runs on the loop of the callers."""

    closed = (asyncio.CancelledError, grpc.aio.UsageError)
    """What gRPC raises where this client has closed the channel of a call."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadlines = _Deadlines()

    def reset(self) -> None:
        """Forgets what belonged to an event loop that has ended."""
        self._tasks = set()
        self._deadlines = _Deadlines()

    def cancelled(self) -> bool:
        """Whether the caller's task is being cancelled."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def soon(self, work: Callable[[], None]) -> None:
        """Runs work when the tasks that are ready have run: so their calls are in the next batch."""
        asyncio.get_running_loop().call_soon(work)

    def promise(self) -> "asyncio.Future[Any]":
        """What `answer` waits for."""
        return asyncio.get_running_loop().create_future()

    def deliver(
        self, promises: "Sequence[asyncio.Future[Any]]", outcomes: Sequence[Any], then: Callable[[], None]
    ) -> None:
        """Hands answers, or errors, to the callers that still wait; `then` runs after them."""
        for promise, outcome in zip(promises, outcomes, strict=True):
            if promise.done():
                continue
            if isinstance(outcome, CallError):
                promise.set_exception(outcome)
            else:
                promise.set_result(outcome)
        self.soon(then)

    async def answer(self, promise: "asyncio.Future[Any]", timeout_s: float) -> Any:
        """Waits for an outcome, by the caller's own deadline."""
        self._deadlines.add(promise, timeout_s)
        try:
            return await promise
        finally:
            self._deadlines.discard(promise)

    def send(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Calls a method and tells what came of it."""
        task = asyncio.get_running_loop().create_task(self._call(method, request, timeout_s, metadata, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        try:
            answer = await method(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            done(None, statuses.from_rpc(error))
        except Exception as error:  # noqa: BLE001 - callers wait for an answer
            done(None, errors.interrupted(error))
        except BaseException as error:
            done(None, errors.interrupted(error))
            raise
        else:
            done(answer, None)


class _Deadlines:
    """Ends promises by their deadlines, with one timer, set for the earliest.

    A timer of the loop for each takes a fifth of what a shared call costs.
    """

    def __init__(self) -> None:
        self._due_s: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, promise: "asyncio.Future[Any]", timeout_s: float) -> None:
        """Ends a promise after so long, unless it is kept before."""
        due_s = self._due_s[promise] = promise.get_loop().time() + timeout_s
        if self._timer is None or due_s < self._timer.when():
            self._set_timer(promise.get_loop(), due_s)

    def discard(self, promise: "asyncio.Future[Any]") -> None:
        """Forgets a promise. The timer stays: the next promises will need it."""
        self._due_s.pop(promise, None)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        later = []
        for promise, due_s in self._due_s.items():
            if due_s > loop.time():
                later.append(due_s)
            elif not promise.done():
                promise.set_exception(errors.deadline_exceeded())
        if later:
            self._set_timer(loop, min(later))


class Promise:
    """What a thread waits for: an outcome, once, unless the thread has given it up before."""

    __slots__ = ("_claimed", "_kept", "outcome", "waking")

    def __init__(self) -> None:
        self._claimed = threading.Lock()
        self._kept = threading.Lock()
        self._kept.acquire()
        self.outcome: Any = None
        self.waking: Waking | None = None
        """The batch whose answers it was among."""

    def done(self) -> bool:
        """Whether it was kept or given up."""
        return self._claimed.locked()

    def keep(self, outcome: Any, waking: "Waking") -> bool:
        """Wakes its thread with an outcome; False where that has given up."""
        if not self._claimed.acquire(blocking=False):
            return False
        self.outcome, self.waking = outcome, waking
        self._kept.release()
        return True

    def give_up(self) -> bool:
        """Tells that no caller waits any more; False where it was kept before."""
        return self._claimed.acquire(blocking=False)

    def wait(self, timeout_s: float = -1) -> bool:
        """Waits until it is kept, and tells whether it was in time."""
        return self._kept.acquire(timeout=timeout_s)


class Waking:
    """The threads that a batch has answered: when the last one is awake, or before by `end`, `then` runs, once."""

    def __init__(self, count: int, then: Callable[[], None]) -> None:
        self._asleep = count
        self._then = then
        self._lock = threading.Lock()
        self._ended = threading.Lock()

    def woke(self) -> None:
        """Counts a thread that is awake."""
        with self._lock:
            self._asleep -= 1
            last = self._asleep == 0
        if last:
            self.end()

    def end(self) -> None:
        """Waits for no other thread."""
        if self._ended.acquire(blocking=False):
            self._then()


class Wire:
    """For threads: callers wait, and gRPC's own thread hands out the answers.

    The last of the answered callers to wake sends the next batch. Sent at once it would be empty: the callers need the
    interpreter's lock, which is taken, to call again, and each would then go alone or nearly so.
    """

    closed = (ValueError,)
    """What gRPC raises where this client has closed the channel of a call."""

    def __init__(self) -> None:
        self._waking: set[Waking] = set()

    def reset(self) -> None:
        """Forgets the threads of a forked process's parent."""
        self._waking = set()

    def cancelled(self) -> bool:
        """Whether the caller is being cancelled: no thread is."""
        return False

    def soon(self, work: Callable[[], None]) -> None:
        """Runs work now."""
        work()

    def promise(self) -> Promise:
        """What `answer` waits for."""
        return Promise()

    def deliver(self, promises: Sequence[Promise], outcomes: Sequence[Any], then: Callable[[], None]) -> None:
        """Hands answers, or errors, to the callers that still wait; `then` runs when all are awake."""

        def ended() -> None:
            self._waking.discard(waking)
            then()

        # One more than there are callers: the last may be awake before all have been answered.
        waking = Waking(len(promises) + 1, ended)
        self._waking.add(waking)
        for promise, outcome in zip(promises, outcomes, strict=True):
            if not promise.keep(outcome, waking):
                waking.woke()
        waking.woke()

    def answer(self, promise: Promise, timeout_s: float) -> Any:
        """Waits for an outcome, by the caller's own deadline."""
        try:
            kept = self._waits(promise, timeout_s)
            if not kept and promise.give_up():
                raise errors.deadline_exceeded()
            if not kept:
                # It was being handed over.
                promise.wait()
        except BaseException:
            promise.give_up()
            raise
        finally:
            if promise.waking is not None:
                promise.waking.woke()
        if isinstance(promise.outcome, CallError):
            raise promise.outcome
        return promise.outcome

    def _waits(self, promise: Promise, timeout_s: float) -> bool:
        if self._waking and timeout_s > WAKING_MAX_S:
            if promise.wait(WAKING_MAX_S):
                return True
            for waking in tuple(self._waking):
                waking.end()
            timeout_s -= WAKING_MAX_S
        return promise.wait(timeout_s)

    def send(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Calls a method and tells what came of it."""
        try:
            call = method.future(request, timeout=timeout_s, metadata=metadata)
        except Exception as error:  # noqa: BLE001 - callers wait for an answer; the thread may be another one's
            done(None, errors.interrupted(error))
            return
        call.add_done_callback(lambda call: self._ended(call, done))

    def _ended(self, call: Any, done: Done) -> None:
        try:
            answer = call.result()
        except grpc.RpcError as error:
            done(None, statuses.from_rpc(error))
        except grpc.FutureCancelledError as error:
            done(None, errors.interrupted(error))
        else:
            done(answer, None)
