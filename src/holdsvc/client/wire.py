"""How the calls of a lane are sent and answered: with futures of an event loop, or of threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

from holdsvc.client import errors
from holdsvc.client.coalescing import Done
from holdsvc.client.errors import CallError


class AsyncWire:
    """For asyncio: everything runs on the loop of the callers."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def soon(self, work: Callable[[], None]) -> None:
        """Runs work when the tasks that are ready have run: so their calls are in the next batch."""
        asyncio.get_running_loop().call_soon(work)

    def promise(self) -> "asyncio.Future[Any]":
        """What `answer` waits for."""
        return asyncio.get_running_loop().create_future()

    def deliver(self, promise: "asyncio.Future[Any]", outcome: Any) -> None:
        """Hands an answer, or an error, to a caller that still waits."""
        if promise.done():
            return
        if isinstance(outcome, CallError):
            promise.set_exception(outcome)
        else:
            promise.set_result(outcome)

    async def answer(self, promise: "asyncio.Future[Any]", timeout_s: float) -> Any:
        """Waits for an outcome, by the caller's own deadline."""
        timer = promise.get_loop().call_later(timeout_s, _expire, promise)
        try:
            return await promise
        finally:
            timer.cancel()

    def send(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Calls a method and tells what came of it."""
        task = asyncio.get_running_loop().create_task(self._call(method, request, timeout_s, metadata, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        try:
            answer = await method(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            done(None, errors.from_rpc(error))
        except BaseException as error:
            done(None, errors.interrupted(error))
            raise
        else:
            done(answer, None)


def _expire(promise: "asyncio.Future[Any]") -> None:
    if not promise.done():
        promise.set_exception(errors.deadline_exceeded())


class Wire:
    """For threads: callers wait, gRPC's own thread hands out the answers and sends the next batch."""

    def soon(self, work: Callable[[], None]) -> None:
        """Runs work now: no order of threads could be waited for."""
        work()

    def promise(self) -> "Future[Any]":
        """What `answer` waits for."""
        return Future()

    def deliver(self, promise: "Future[Any]", outcome: Any) -> None:
        """Hands an answer, or an error, to a caller that still waits."""
        if not promise.set_running_or_notify_cancel():
            return
        if isinstance(outcome, CallError):
            promise.set_exception(outcome)
        else:
            promise.set_result(outcome)

    def answer(self, promise: "Future[Any]", timeout_s: float) -> Any:
        """Waits for an outcome, by the caller's own deadline."""
        try:
            return promise.result(timeout_s)
        except TimeoutError:
            if promise.cancel():
                raise errors.deadline_exceeded() from None
            # It was being handed over.
            return promise.result()
        except BaseException:
            promise.cancel()
            raise

    def send(self, method: Any, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Calls a method and tells what came of it."""
        try:
            call = method.future(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # What gRPC raises on a closed channel.
            done(None, errors.interrupted(error))
            return
        call.add_done_callback(lambda call: self._ended(call, done))

    def _ended(self, call: Any, done: Done) -> None:
        try:
            answer = call.result()
        except grpc.RpcError as error:
            done(None, errors.from_rpc(error))
        except grpc.FutureCancelledError as error:
            done(None, errors.interrupted(error))
        else:
            done(answer, None)
