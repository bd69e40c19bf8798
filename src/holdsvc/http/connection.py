"""An HTTP/1.1 connection: what a peer may send and hold, before anything knows who it is and after.

httptools reads the requests; the bounds are here. Times are counted in looks (see server.py), so that a stall of this
machine does not count as the peer's delay.
"""

import asyncio
from collections import deque
from random import uniform
from typing import Protocol

import httptools
import structlog

from holdsvc.http.exchange import Exchange, Header

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""Pause between two looks at the connections."""

HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
HEAD_S = 5.0
"""How long the head of a request may be on its way."""

IDLE_S = 75.0
"""How long a connection may wait for its next request: longer than the usual gateway keeps one."""

UNREAD_S = 30.0
UNREAD_BYTES_MIN = 64 * 1024
"""A peer that does not take that many bytes, or all there are, within that time is cut off."""

LINGER_S = 2.0
"""How long a connection stays open after its last answer while the peer is still sending: closed at once, it would be
reset, and the peer would not see the answer."""

WRITE_BUFFER_BYTES = 64 * 1024
FRAMING = {"content-length", "transfer-encoding"}
"""Headers that say where a body ends."""

PENDING_MAX = 16
"""Requests of one connection that wait while an earlier one is answered."""

WIRE_FACTOR = 2
WIRE_SPARE_BYTES = 64 * 1024
"""A body in chunks may take that many times its size on the wire, and some."""


class Keeper(Protocol):
    """The server of a connection, as far as the connection knows it."""

    draining: bool
    age_max_s: float
    stream_max_s: float
    date: str
    body_bytes_max: int

    def opened(self, connection: "Connection") -> None:
        """A connection was accepted."""

    def lost(self, connection: "Connection") -> None:
        """It has ended."""

    def idle(self, connection: "Connection", *, idle: bool) -> None:
        """It waits for a request, or no longer."""

    async def serve(self, exchange: Exchange) -> None:
        """Answers a request."""


class _Refused(Exception):
    """A request that no answer of the service is made for."""

    def __init__(self, status: int) -> None:
        self.status = status


class Connection(asyncio.Protocol):
    """Reads requests one after the other and has each served in a task of its own."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._looks_left = round(HEAD_S / LOOK_S)
        # Not all at the same time that were opened at the same time.
        self._old_from = self._loop.time() + keeper.age_max_s * uniform(0.9, 1.1)
        self._lingering = False
        self._reading: Exchange | None = None
        self._serving: Exchange | None = None
        self._pending: deque[Exchange] = deque()
        self._fresh = True
        self._in_head = False
        self._all_head = False
        self._resuming = False
        self._head_bytes = 0
        self._head_wire_bytes = 0
        self._wire_bytes = 0
        self._target = b""
        self._headers: list[Header] = []
        self._drain: asyncio.Future[None] | None = None
        self._unread = 0
        self._paused = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._keeper.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended: so does what is under way."""
        del exc
        self._keeper.lost(self)
        self._transport = None
        self._pending.clear()
        if self._drain is not None and not self._drain.done():
            self._drain.set_exception(ConnectionResetError())
            # Where no call waits any more, it is no error.
            self._drain.exception()
        if self._serving is not None and self._serving.task is not None:
            self._serving.task.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._lingering:
            return
        between = self._serving is None and self._reading is None
        self._all_head = self._in_head or between
        if self._fresh and between:
            self._fresh = False
            self._wait(HEAD_S)
        try:
            self._wire_bytes += len(data)
            self._feed(data)
            if self._in_head and self._all_head:
                # httptools keeps a header that is not complete.
                self._head_wire_bytes += len(data)
            if self._head_wire_bytes > HEAD_BYTES_MAX:
                raise _Refused(431)
            if self._wire_bytes > WIRE_FACTOR * self._keeper.body_bytes_max + WIRE_SPARE_BYTES:
                raise _Refused(413)
        except httptools.HttpParserCallbackError as error:
            self._refuse(error.__context__.status if isinstance(error.__context__, _Refused) else 400)
        except httptools.HttpParserError:
            self._refuse(400)
        except _Refused as error:
            self._refuse(error.status)
        unasked = self._reading is not None and not self._reading.wants_more
        if (unasked or self._pending or self._drain is not None) and not self._lingering:
            self._pause()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # An offer to speak another protocol, as Java's client makes with each request, may be ignored. But the
            # parser has stopped after the head: another one reads the body, and what comes after it.
            if self._reading is None or self._reading.method == "CONNECT":
                raise _Refused(400) from None
            length = [f"{name}: {value}\r\n" for name, value in self._reading.headers if name in FRAMING]
            self._parser = httptools.HttpRequestParser(self)
            self._resuming = True
            self._parser.feed_data(f"POST / HTTP/1.1\r\n{''.join(length)}\r\n".encode("latin-1"))
            self._feed(data[offer.args[0] :])

    def eof_received(self) -> None:
        """A peer that stops sending has gone: the transport closes."""

    def pause_writing(self) -> None:
        """The peer reads more slowly than answers are made."""
        assert self._transport is not None
        self._drain = self._loop.create_future()
        self._unread = self._transport.get_write_buffer_size()
        self._looks_left = round(UNREAD_S / LOOK_S)

    def resume_writing(self) -> None:
        """The peer has taken most of what was sent."""
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._drain = None
        if self._serving is None:
            self._next()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._resuming:
            return
        if len(self._pending) >= PENDING_MAX:
            raise _Refused(400)
        self._in_head = True
        self._head_bytes = self._head_wire_bytes = self._wire_bytes = 0
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        if self._resuming:
            return
        self._count(len(url))
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body, one of its trailers."""
        self._count(len(name) + len(value))
        if self._in_head:
            self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))
            if len(self._headers) > HEADERS_MAX:
                raise _Refused(431)

    def on_headers_complete(self) -> None:
        """The head is there: the request begins to be served."""
        if self._resuming:
            self._resuming = False
            return
        self._in_head = self._all_head = False
        # What a gateway in front may read in another way; lengths that contradict are refused by the parser.
        if sum(name == "host" for name, _ in self._headers) > 1:
            raise _Refused(400)
        if any(name == "transfer-encoding" and value.lower() != "chunked" for name, value in self._headers):
            raise _Refused(501)
        old = self._parser.get_http_version() == "1.0"
        keep = not old and self._parser.should_keep_alive()
        method = self._parser.get_method().decode("latin-1")
        exchange = Exchange(self, method, self._target.decode("latin-1"), self._headers, keep=keep, old=old)
        self._reading = exchange
        if self._serving is None and self._drain is None:
            self._serve(exchange)
        else:
            # Also while the peer does not take its last answer: it would have one more made.
            self._pending.append(exchange)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._reading is not None:
            self._reading.take(body)

    def on_message_complete(self) -> None:
        """The whole request is there."""
        if self._parser.should_upgrade():
            return
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.finish()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise _Refused(431)

    # What an exchange calls.

    @property
    def closing(self) -> bool:
        """Whether each answer is to be the connection's last."""
        return self._keeper.draining or self._lingering or self._loop.time() >= self._old_from

    @property
    def date(self) -> str:
        """The time as a `date` header has it."""
        return self._keeper.date

    @property
    def stream_max_s(self) -> float:
        """How long a stream may last."""
        return self._keeper.stream_max_s

    def resume(self) -> None:
        """Goes on reading."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Sends bytes; nothing when the connection has ended."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the peer has taken most of what was sent."""
        if self._transport is None:
            raise ConnectionResetError
        if self._drain is not None:
            await self._drain

    def ended(self, exchange: Exchange, *, keep: bool) -> None:
        """Goes on with the next request, or closes."""
        self._serving = None
        self._fresh = True
        if not keep:
            self._close(linger=not exchange.complete)
        elif self._drain is None:
            self._next()

    # Serving, waiting, closing.

    def _next(self) -> None:
        if self._lingering:
            self._wait(LINGER_S)
        elif self._pending:
            self._serve(self._pending.popleft())
        else:
            self._wait(HEAD_S if self._in_head else IDLE_S)
        if not self._pending:
            self.resume()

    def _serve(self, exchange: Exchange) -> None:
        self._keeper.idle(self, idle=False)
        self._serving = exchange
        exchange.task = self._loop.create_task(self._run(exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._keeper.serve(exchange)
            assert exchange.ended
        except ConnectionResetError:
            pass
        except Exception:
            log.exception("http.failed", path=exchange.path[:100])
            if exchange.started:
                self.abort()
            else:
                exchange.answer(500)
        finally:
            # A cancelled task leaves an answer that ends nowhere.
            if not exchange.ended:
                self.abort()

    def _wait(self, seconds: float) -> None:
        if self._drain is None:
            self._looks_left = round(seconds / LOOK_S)
        self._keeper.idle(self, idle=True)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _refuse(self, status: int) -> None:
        """Answers what is no request, or ends one that breaks off, after the answers to those before it."""
        broken, self._reading = self._reading, None
        if broken is not None:
            broken.break_off()
        if self._serving is None and not self._pending:
            Exchange(self, "", "", [], keep=False, old=False).answer(status)
        else:
            self._lingering = True

    def _close(self, *, linger: bool) -> None:
        if self._transport is None:
            return
        self._lingering = True
        self._pending.clear()
        if linger:
            self.resume()
        else:
            self._transport.close()
        self._wait(LINGER_S)

    def abort(self) -> None:
        """Ends the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def hurry(self) -> None:
        """The server drains: an idle connection gets the rest of a short time for one last request."""
        if self._serving is None:
            self._looks_left = min(self._looks_left, round(LINGER_S / LOOK_S))

    def look(self) -> None:
        """Counts down while it is the peer's turn, and ends the connection when its time is over."""
        if self._transport is None:
            return
        if self._drain is not None:
            size = self._transport.get_write_buffer_size()
            if self._unread - size >= UNREAD_BYTES_MIN:
                self._unread = size
                self._looks_left = round(UNREAD_S / LOOK_S)
        elif self._serving is not None:
            return
        self._looks_left -= 1
        if self._looks_left > 0:
            return
        if self._in_head and self._drain is None and not self._lingering:
            self._refuse(408)
        elif self._drain is None and not self._lingering:
            self._transport.close()
            self._looks_left = round(LINGER_S / LOOK_S)
            self._lingering = True
        else:
            self._transport.abort()
