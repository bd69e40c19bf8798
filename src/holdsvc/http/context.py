"""What a call over HTTP is to the code that runs it: a context that behaves like gRPC's."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2

from holdsvc.api.statuses import status
from holdsvc.errors import HoldError

DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass
class Failed(Exception):
    """A call that ends with a status."""

    status: status_pb2.Status
    retry_after_s: float | None = None
    """When the caller may try again."""

    @property
    def code(self) -> str:
        """The name of its code."""
        return _CODES[self.status.code]

    @property
    def retry_header(self) -> tuple[tuple[str, str], ...]:
        """The header that says so, in whole seconds."""
        if self.retry_after_s is None:
            return ()
        return (("retry-after", str(max(1, math.ceil(self.retry_after_s)))),)


class Context:
    """The context of one call."""

    __slots__ = ("_loop", "_metadata", "_read", "deadline")

    system = "connectrpc"
    """The name that traces know it by."""

    def __init__(
        self, metadata: Sequence[tuple[str, str]], timeout_s: float | None, read: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata = metadata
        self._read = read
        self.deadline = None if timeout_s is None else self._loop.time() + timeout_s
        """The caller's own, on the loop's clock."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._loop.time())

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The request's headers."""
        return self._metadata

    def read(self) -> Awaitable[bytes]:
        """The request's message."""
        return self._read()

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, Any]] = ()) -> NoReturn:
        """Ends the call."""
        found = dict(trailing)
        packed = found.get(DETAILS)
        if packed is None:
            ended = status_pb2.Status(code=code.value[0], message=details)
        else:
            ended = status_pb2.Status.FromString(packed)
        pushback = found.get(PUSHBACK)
        raise Failed(ended, None if pushback is None else int(pushback) / 1000)

    async def abort_with_status(self, ended: Any) -> NoReturn:
        """Ends the call with a grpc.Status."""
        await self.abort(ended.code, ended.details, ended.trailing_metadata)


def failed(code: grpc.StatusCode, message: str) -> Failed:
    """A failure of the protocol, before any call: without a reason of the service."""
    return Failed(status_pb2.Status(code=code.value[0], message=message))


def deadline_exceeded() -> Failed:
    """The caller's deadline has passed."""
    return failed(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


def of_refusal(error: HoldError) -> Failed:
    """A refusal outside of a call, as a failure."""
    return Failed(status(error.refused), error.refused.retry_after_s)
