"""Open streams whose key has ended, or whose tenant has moved.

A call brings its key once, and a stream may stay open for days: without this, a revoked key would go on listening.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from holdsvc.engine import tasks
from holdsvc.errors import HoldError
from holdsvc.model import Caller

T = TypeVar("T")

CHECK_S = 0.5
"""Time between two checks of the keys of open streams; most are answered from the keyring's memory."""

CHECKS_MAX = 50
"""Keys that are checked at the same time."""

ENDINGS = {"UNAUTHENTICATED", "TENANT_MOVED"}

Reader = tuple[Caller, object]
"""Who reads a stream, and from which cell."""

Recheck = Callable[[], Awaitable[object]]
"""Finds a stream's caller again; raises what a new call would be refused with."""


class _Stream:
    """One open stream."""

    __slots__ = ("error", "recheck", "task", "told", "told_before", "waiting")

    def __init__(self, recheck: Recheck, task: "asyncio.Task[object]") -> None:
        self.recheck = recheck
        self.task = task
        self.waiting = False
        """Whether the task waits for the handler's next message: the only place where it may be cancelled. During a
        write of gRPC's a cancel would end the call without a status."""
        self.error: HoldError | None = None
        self.told = 0
        """Messages so far."""
        self.told_before = -1
        """As many as there were when the check before found that the stream is to end; -1: none has."""

    def is_told_all(self) -> bool:
        """Whether it waits and has told nothing since the check before this one."""
        before, self.told_before = self.told_before, self.told
        return self.waiting and self.told == before

    def end(self, error: HoldError) -> None:
        """Ends the stream with this error: at once, or when its message has been written."""
        if self.error is None:
            self.error = error
            if self.waiting:
                self.task.cancel()


class StreamGuard:
    """Ends streams that could not be opened again as they are. A key is checked once for all its streams in a cell."""

    def __init__(self) -> None:
        self._streams: dict[Reader, set[_Stream]] = {}
        self._checks: asyncio.Task[None] | None = None

    async def watch(self, messages: AsyncIterator[T], reader: Reader, recheck: Recheck) -> AsyncGenerator[T]:
        """Yields the messages until `recheck` raises one of ENDINGS, then raises it; a message costs nothing more.

        TENANT_MOVED ends a stream that has told nothing between two checks.
        """
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(recheck, task)
        self._streams.setdefault(reader, set()).add(stream)
        if self._checks is None:
            self._checks = asyncio.create_task(tasks.forever("stream_keys", self._check))
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
                stream.told += 1
                yield message
        finally:
            self._leave(reader, stream)

    def _leave(self, reader: Reader, stream: _Stream) -> None:
        streams = self._streams[reader]
        streams.discard(stream)
        if not streams:
            del self._streams[reader]
        if not self._streams and self._checks is not None:
            self._checks.cancel()
            self._checks = None

    async def _check(self) -> float:
        failures = []
        readers = list(self._streams)
        for start in range(0, len(readers), CHECKS_MAX):
            checks = (self._check_one(reader) for reader in readers[start : start + CHECKS_MAX])
            results = await asyncio.gather(*checks, return_exceptions=True)
            failures += [result for result in results if isinstance(result, Exception)]
        if failures:
            # The other keys have been checked; the loop logs and counts this one.
            raise failures[0]
        return CHECK_S

    async def _check_one(self, reader: Reader) -> None:
        streams = self._streams.get(reader)
        if not streams:
            return
        try:
            await next(iter(streams)).recheck()
        except HoldError as error:
            # What says nothing about the key or the tenant, as a silent database, does not end the stream.
            if error.reason in ENDINGS:
                for stream in streams:
                    # The cell that the tenant has left is read to its end: the new one does not tell its events.
                    if error.reason != "TENANT_MOVED" or stream.is_told_all():
                        stream.end(error)
