"""The metrics page: a small HTTP server on which nothing is unbounded.

It answers GET and HEAD of /metrics and of /, one request a connection. Connections, the size of a request and its time
are limited. Pages are made one at a time, with pauses between them, so that requests use a sixth of a processor at
most.
"""

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from holdsvc.addresses import split_address

log = structlog.get_logger(__name__)

PATHS = {"/", "/metrics"}

CONNECTIONS_MAX = 64
"""Connections whose request is not complete: the oldest is closed for the next one. As many again are answered at once;
the next request gets 503."""

ACCEPTED_AT_ONCE = 16
"""Connections that are accepted in one round of the loop; a closed one is gone a few rounds later."""

REQUEST_BYTES_MAX = 16 * 1024
REQUEST_MAX_S = 5.0
"""The longest until a request is complete."""

ANSWER_MAX_S = 10.0
"""The longest until an answer has been read."""

PAUSE_FACTOR = 5.0
"""The pause after a page is so many times as long as the page took."""


class _Request(NamedTuple):
    method: str
    path: str
    accept: str


class MetricsPage:
    """Serves a registry. Construct it where a taken address is to be reported, then `serve` it on a loop."""

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        """Binds the address; raises OSError."""
        host, port = split_address(address)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        self._socket = socket.create_server((host, port), family=family)
        self.port = int(self._socket.getsockname()[1])
        self._registry = registry
        self._asking: dict[asyncio.StreamWriter, None] = {}
        self._answering: set[asyncio.StreamWriter] = set()
        self._coming: dict[str, asyncio.Task[bytes]] = {}
        self._making = asyncio.Lock()
        self._next_s = 0.0

    async def serve(self) -> None:
        """Serves until it is cancelled."""
        # To asyncio the backlog is also how many connections it accepts before it looks at one of them.
        server = await asyncio.start_server(
            self._connected, sock=self._socket, limit=REQUEST_BYTES_MAX, backlog=ACCEPTED_AT_ONCE
        )
        self._socket.listen(CONNECTIONS_MAX)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for writer in (*self._asking, *self._answering):
                writer.transport.abort()

    def close(self) -> None:
        """Frees the address where it is not served."""
        self._socket.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._asking[writer] = None
        if len(self._asking) > CONNECTIONS_MAX:
            # Taken out at once: its own task takes some rounds, in which it would be the oldest for others too.
            oldest = next(iter(self._asking))
            del self._asking[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(REQUEST_MAX_S):
                head = await reader.readuntil(b"\r\n\r\n")
            # A connection that has asked is not closed for those that only connect.
            self._asking.pop(writer, None)
            full = len(self._answering) >= CONNECTIONS_MAX
            self._answering.add(writer)
            answer = _response(HTTPStatus.SERVICE_UNAVAILABLE) if full else await self._answer(head)
            async with asyncio.timeout(ANSWER_MAX_S):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except asyncio.LimitOverrunError:
            writer.write(_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            writer.transport.abort()
        finally:
            self._asking.pop(writer, None)
            self._answering.discard(writer)

    async def _answer(self, head: bytes) -> bytes:
        request = _parse(head)
        if request is None:
            return _response(HTTPStatus.BAD_REQUEST)
        if request.path not in PATHS:
            return _response(HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", "GET, HEAD")])
        encode, kind = choose_encoder(request.accept)
        try:
            page = await self._page(kind, encode)
        except Exception:
            log.exception("metrics.page_failed")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(HTTPStatus.OK, [("Content-Type", kind)], page, body=request.method == "GET")

    async def _page(self, kind: str, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        """A page that is made from now on; who asks meanwhile gets the same one."""
        page = self._coming.get(kind)
        if page is None:
            page = self._coming[kind] = asyncio.create_task(self._make(kind, encode))
        return await asyncio.shield(page)

    async def _make(self, kind: str, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._making:
            await asyncio.sleep(max(0.0, self._next_s - loop.time()))
            del self._coming[kind]
            start = loop.time()
            try:
                # Reading the files of the workers takes a while, and this loop counts the census too.
                return await asyncio.to_thread(encode, self._registry)
            finally:
                self._next_s = loop.time() + PAUSE_FACTOR * (loop.time() - start)


def _parse(head: bytes) -> _Request | None:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    accept = next((value for name, value in fields.items() if name.lower() == "accept"), "")
    return _Request(words[0], words[1].partition("?")[0], accept)


def _response(
    status: HTTPStatus, fields: list[tuple[str, str]] | None = None, content: bytes | None = None, *, body: bool = True
) -> bytes:
    content = f"{status.phrase}\n".encode() if content is None else content
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in fields or []),
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (content if body else b"")
