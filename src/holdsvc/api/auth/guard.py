"""Open streams whose key has ended.

A call brings its key once and a stream may stay open for days: without this a revoked key would go on listening.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from holdsvc.errors import HoldError
from holdsvc.model import Caller

T = TypeVar("T")

CHECK_S = 0.5
"""How often the keys of open streams are looked at, in the keyring's memory."""

Recheck = Callable[[], Awaitable[object]]
"""Finds a stream's caller anew; raises what a new call would be refused with."""


class _Stream:
    """One open stream."""

    __slots__ = ("error", "recheck", "task", "waiting")

    def __init__(self, recheck: Recheck, task: "asyncio.Task[Any]") -> None:
        self.recheck = recheck
        self.task = task
        self.waiting = False
        """Whether the task waits for the handler's next message: the only place where it may be cancelled. In a write
        of gRPC's a cancel would end the call without a status."""
        self.error: HoldError | None = None

    def end(self, error: HoldError) -> None:
        """Ends it with this error: at once, or when its message has been written."""
        if self.error is None:
            self.error = error
            if self.waiting:
                self.task.cancel()


class StreamGuard:
    """Ends streams when their key does. A key is looked at once for all of its streams: it may have thousands."""

    def __init__(self) -> None:
        self._streams: dict[Caller, set[_Stream]] = {}
        self._checks: asyncio.Task[None] | None = None

    async def watch(self, messages: AsyncIterator[T], caller: Caller, recheck: Recheck) -> AsyncGenerator[T]:
        """Yields the messages until the key has ended, then raises UNAUTHENTICATED; a message pays nothing for it."""
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(recheck, task)
        streams = self._streams.setdefault(caller, set())
        streams.add(stream)
        if self._checks is None:
            self._checks = asyncio.ensure_future(self._check())
        try:
            while True:
                stream.waiting = True
                try:
                    message = await anext(messages)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if stream.error is None or task.uncancel() > 0:
                        raise
                    raise stream.error.with_traceback(None) from None
                finally:
                    stream.waiting = False
                if stream.error is not None:
                    raise stream.error.with_traceback(None)
                yield message
        finally:
            streams.discard(stream)
            if not streams:
                self._streams.pop(caller, None)

    async def _check(self) -> None:
        while self._streams:
            for streams in list(self._streams.values()):
                await self._check_one(streams)
            await asyncio.sleep(CHECK_S)
        self._checks = None

    async def _check_one(self, streams: set[_Stream]) -> None:
        """Looks at the key of these streams."""
        stream = next(iter(streams), None)
        if stream is None:
            return
        try:
            await stream.recheck()
        except HoldError as error:
            # Anything else than a bad key, such as a database that does not answer, is the stream's own business.
            if error.reason == "UNAUTHENTICATED":
                for each in streams:
                    each.end(error)
