"""One request and its answer on an HTTP connection."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs

from holdsvc import errors
from holdsvc.errors import HoldError

Header = tuple[str, str]

QUERY_FIELDS_MAX = 200

NO_BODY = {204, 304}
"""Answers that have neither a body nor its length."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_STATUS_LINES[499] = "HTTP/1.1 499 Client Closed Request\r\n"

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Peer(Protocol):
    """The connection of an exchange, as far as the exchange knows it."""

    @property
    def closing(self) -> bool:
        """Whether each answer is to be the connection's last."""

    @property
    def date(self) -> str:
        """The time as a `date` header has it."""

    @property
    def stream_max_s(self) -> float:
        """How long a stream may last."""

    def resume(self) -> None:
        """Goes on reading the request."""

    def write(self, data: bytes) -> None:
        """Sends bytes."""

    async def drained(self) -> None:
        """Returns when the peer has taken most of what was sent."""

    def ended(self, exchange: "Exchange", *, keep: bool) -> None:
        """The answer is complete; `keep`: the connection may serve another request."""


class Exchange:
    """A request as far as its head has arrived, and the way to its body and its answer."""

    __slots__ = (
        "_asked",
        "_body",
        "_broken",
        "_chunked",
        "_continue",
        "_keep",
        "_peer",
        "_read_max",
        "_size",
        "_waiter",
        "complete",
        "ended",
        "extra",
        "headers",
        "method",
        "path",
        "query",
        "started",
        "task",
    )

    def __init__(self, peer: Peer, method: str, target: str, headers: list[Header], *, keep: bool, old: bool) -> None:
        self._peer = peer
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        """As the caller sent them, names in lower case; they may hold a key, so they are never logged or passed on."""
        self.extra: tuple[Header, ...] = ()
        """Headers of every answer."""
        self.complete = False
        """Whether the whole request has arrived."""
        self.started = False
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self._keep = keep
        # HTTP/1.0 has no chunks: the end of the connection ends the answer.
        self._chunked = not old
        self._continue = False
        self._body: list[bytes] = []
        self._size = 0
        self._read_max = 0
        self._asked = False
        self._broken = False
        self._waiter: asyncio.Future[None] | None = None
        for name, value in headers:
            if name == "expect" and value.lower() == "100-continue":
                self._continue = True

    @property
    def stream_max_s(self) -> float:
        """How long its answer may last as a stream."""
        return self._peer.stream_max_s

    def header(self, name: str) -> str:
        """The header's value, the last one where it stands several times; empty without one."""
        for found, value in reversed(self.headers):
            if found == name:
                return value
        return ""

    def parameters(self) -> dict[str, list[str]]:
        """The fields of the query; raises INVALID_FIELD."""
        try:
            return parse_qs(
                self.query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX, encoding="utf-8"
            )
        except ValueError:
            raise HoldError(errors.invalid_field("request", "has a query that cannot be read", "MALFORMED")) from None

    # The request's body; the connection calls the first three.

    def take(self, data: bytes) -> None:
        """Takes a part of the body."""
        self._size += len(data)
        if self._asked and self._size > self._read_max:
            self._body.clear()
            self._wake()
        elif not self.ended:
            self._body.append(data)

    def finish(self) -> None:
        """The whole request is there."""
        self.complete = True
        self._wake()

    def break_off(self) -> None:
        """What has arrived of the body is not HTTP: the rest never comes."""
        self._broken = True
        self._wake()

    @property
    def wants_more(self) -> bool:
        """Whether the rest of the body has been asked for."""
        return self._asked and self._size <= self._read_max

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, size_max: int, advice: str = "") -> bytes:
        """Reads the body, once; raises INVALID_FIELD where it is larger than `size_max` bytes or broken off."""
        declared = self.header("content-length")
        if (declared and int(declared) > size_max) or self._size > size_max:
            raise too_large(size_max, advice)
        self._asked = True
        self._read_max = size_max
        if not self.complete:
            if self._continue:
                self._peer.write(_CONTINUE)
            self._waiter = asyncio.get_running_loop().create_future()
            self._peer.resume()
            if not self._broken:
                await self._waiter
            if self._size > size_max:
                raise too_large(size_max, advice)
            if not self.complete:
                raise HoldError(errors.invalid_field("request", "has a body that is no HTTP", "MALFORMED"))
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body

    # The answer.

    def answer(self, status: int, headers: Iterable[Header] = (), body: bytes = b"") -> None:
        """Sends a whole answer."""
        keep = self._keep and self.complete and not self._peer.closing
        length = () if status in NO_BODY else (("content-length", str(len(body))),)
        head = self._head(status, (*headers, *length), keep=keep)
        self.started = self.ended = True
        self._peer.write(head if self.method == "HEAD" else head + body)
        self._peer.ended(self, keep=keep)

    def start(self, status: int, headers: Iterable[Header]) -> None:
        """Begins an answer of unknown length; such a one ends its connection."""
        coding = (("transfer-encoding", "chunked"),) if self._chunked else ()
        self.started = True
        self._peer.write(self._head(status, (*headers, *coding), keep=False))

    async def send(self, data: bytes) -> None:
        """Sends a part, and returns when the peer has taken most of what was sent."""
        if data:
            self._peer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._peer.drained()

    def end(self, data: bytes = b"") -> None:
        """Ends such an answer, with a last part."""
        last = b"%x\r\n%b\r\n" % (len(data), data) if data and self._chunked else data
        self.ended = True
        self._peer.write(last + b"0\r\n\r\n" if self._chunked else last)
        self._peer.ended(self, keep=False)

    def _head(self, status: int, headers: Iterable[Header], *, keep: bool) -> bytes:
        lines = [f"{name}: {value}\r\n" for name, value in (*headers, *self.extra)]
        close = "" if keep else "connection: close\r\n"
        date = self._peer.date
        return f"{_STATUS_LINES[status]}date: {date}\r\n{''.join(lines)}{close}\r\n".encode("latin-1", "replace")


def too_large(size_max: int, advice: str) -> HoldError:
    """What is said of a body of more bytes."""
    return HoldError(errors.invalid_field("request", f"is larger than {size_max} bytes{advice}", "TOO_LARGE"))
