"""One HTTP/2 connection that makes unary gRPC calls, in as little Python as the protocol allows.

A load generator on gRPC's own client costs 60 to 80 µs a call, as much as the service under test, and would measure
itself. Here a call is four byte strings joined, and an answer is three frame headers read. HPACK stays small by two
announcements: the first call puts its headers into the peer's table and later ones name them by number, and a table of
size 0 for the other direction means that the trailers' `grpc-status` always arrives spelled out.
"""

import socket
import struct
from collections import deque

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK, _PADDED = 1, 4, 1, 8
_MAX_FRAME = 16_384
_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
# Bytes received after which the connection's window is opened again.
_REFILL = 2**29

# Length and type in one number, flags, stream.
frame_header = struct.Struct(">IBI")
FRAME_HEADER = 9
_number = struct.Struct(">I")

STATUS_NONE = -1
"""Status of a call that ended without a grpc-status, because the stream was reset."""

Ended = list[tuple[float, int]]
"""Calls that have ended: the time at which each was due, and its grpc-status."""


class WireError(Exception):
    """The peer sent something unexpected or closed the connection."""


class Connection:
    """A connection to one method of one service. `call`, then `flush`; `receive` when readable."""

    def __init__(self, host: str, port: int, path: str, metadata: dict[str, str]) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out = bytearray(OPENING)
        self._first_block, self._next_block = header_blocks(f"{host}:{port}", path, metadata)
        self._block: bytes | None = None
        self._stream = -1
        self._window = _FIRST_WINDOW
        self._stream_window = _FIRST_WINDOW
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._due: dict[int, float] = {}
        self._buffer = b""
        self._unacknowledged = 0
        self.socket.settimeout(5)
        self.flush()
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """For epoll."""
        return self.socket.fileno()

    @property
    def in_flight(self) -> int:
        """Calls that have not ended, unsent ones included."""
        return len(self._due) + len(self._waiting)

    @property
    def blocked(self) -> bool:
        """Whether the socket's send buffer is full."""
        return bool(self._out)

    def call(self, due: float, message: bytes) -> None:
        """Queues a call; `message` includes its gRPC prefix of five bytes."""
        self._waiting.append((due, message))

    def flush(self) -> None:
        """Sends as much as the peer's window and the socket accept."""
        waiting = self._waiting
        while waiting and len(waiting[0][1]) <= self._window:
            due, message = waiting.popleft()
            self._window -= len(message)
            self._stream += 2
            self._due[self._stream] = due
            self._append(message)
        if self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return
            del self._out[:sent]

    def _append(self, message: bytes) -> None:
        if len(message) > self._stream_window:
            raise WireError(f"a message of {len(message)} bytes does not fit into the peer's window")
        if self._block is None:
            block, self._block = self._first_block, self._next_block
        else:
            block = self._block
        self._out += frame_header.pack(len(block) << 8 | HEADERS, END_HEADERS, self._stream)
        self._out += block
        rest = len(message)
        for start in range(0, len(message), _MAX_FRAME):
            size = min(rest, _MAX_FRAME)
            rest -= size
            self._out += frame_header.pack(size << 8 | DATA, 0 if rest else END_STREAM, self._stream)
            self._out += message[start : start + size]

    def receive(self) -> Ended:
        """Reads available bytes; returns the calls that have ended."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return []
        if not data:
            raise WireError("the peer closed the connection")
        buffer = self._buffer + data if self._buffer else data
        ended: Ended = []
        offset, end = 0, len(buffer)
        while end - offset >= 9:
            length_type, flags, stream = frame_header.unpack_from(buffer, offset)
            after = offset + 9 + (length_type >> 8)
            if after > end:
                break
            kind = length_type & 0xFF
            if kind == HEADERS:
                if flags & END_STREAM:
                    ended.append((self._due.pop(stream), _status(buffer, offset + 9, after)))
            elif kind == DATA:
                self._unacknowledged += length_type >> 8
            else:
                self._control(kind, flags, stream, buffer[offset + 9 : after], ended)
            offset = after
        self._buffer = buffer[offset:]
        if self._unacknowledged > _REFILL:
            self._out += frame(WINDOW_UPDATE, 0, 0, _number.pack(self._unacknowledged))
            self._unacknowledged = 0
        return ended

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, ended: Ended) -> None:
        if kind == WINDOW_UPDATE:
            if stream == 0:
                self._window += _number.unpack(payload)[0]
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == SETTINGS and not flags & ACK:
            for identifier, value in struct.iter_unpack(">HI", payload):
                if identifier == 4:
                    self._stream_window = value
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == RST_STREAM:
            due = self._due.pop(stream, None)
            if due is not None:
                ended.append((due, STATUS_NONE))
        elif kind == GOAWAY:
            raise WireError(f"the peer goes away: {payload[8:]!r}")

    def close(self) -> None:
        """Closes the connection, also with calls in flight."""
        self.socket.close()


def _status(buffer: bytes, start: int, end: int) -> int:
    """Reads the grpc-status of a header block encoded without a table: name and value as plain text with lengths."""
    at = buffer.find(b"\x0bgrpc-status", start, end)
    if at < 0:
        raise WireError("trailers without a grpc-status in clear")
    at += 12
    size = buffer[at]
    if size & 0x80:
        raise WireError("a Huffman-coded grpc-status")
    return int(buffer[at + 1 : at + 1 + size])


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Returns a frame."""
    return frame_header.pack(len(payload) << 8 | kind, flags, stream) + payload


def _settings(*, header_table_size: int, initial_window_size: int) -> bytes:
    pairs = ((1, header_table_size), (2, 0), (4, initial_window_size))
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


OPENING = (
    _PREFACE
    + _settings(header_table_size=0, initial_window_size=_WINDOW)
    + frame(WINDOW_UPDATE, 0, 0, _number.pack(_WINDOW - _FIRST_WINDOW))
)
"""First bytes of a connection: settings with the largest windows and without a header table."""


def header_blocks(authority: str, path: str, metadata: dict[str, str]) -> tuple[bytes, bytes]:
    """Returns the first call's header block and that of all later ones (RFC 7541)."""
    headers = {
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "holdsvc-bench",
        **metadata,
    }
    # 0x83: ":method: POST", 0x86: ":scheme: http", of the static table of 61 entries.
    first, later = bytearray(b"\x83\x86"), bytearray(b"\x83\x86")
    for number, (name, value) in enumerate(headers.items()):
        first += b"\x40" + _text(name) + _text(value)
        # The newest entry has number 62.
        later.append(0x80 | 62 + len(headers) - 1 - number)
    return bytes(first), bytes(later)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    # A length of seven bits' prefix and one or two more bytes.
    rest = len(data) - 127
    assert rest < 128 * 128
    return bytes([127, rest]) + data if rest < 128 else bytes([127, rest & 0x7F | 0x80, rest >> 7]) + data
