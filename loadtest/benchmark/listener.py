"""One process of listeners: keeps many streams of one method open, and every message with the time of its coming.

A thousand streams on gRPC's own client cost more than the service that sends them, and would measure themselves. Here
what a socket gives is cut into frames and kept; what the messages say is looked at when nobody is measuring.
"""

import gc
import select
import socket
import time
from collections import defaultdict
from multiprocessing.connection import Connection as PipeEnd

from benchmark import wire

Heard = list[list[tuple[float, bytes]]]
"""By stream: its messages, each with the time at which it came."""

_PREFIX = 5
"""Bytes before a message: whether it is compressed, and its length."""


class Listener:
    """One connection with several streams of one method."""

    def __init__(self, host: str, port: int, path: str, message: bytes, streams: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.heard = dict.fromkeys(range(1, 2 * streams, 2), 0)
        """By stream: how many pieces have come."""
        self._pieces: list[tuple[float, int, bytes]] = []
        self._rest = b""
        out = bytearray(wire.OPENING)
        blocks = wire.header_blocks(f"{host}:{port}", path, {})
        for stream in self.heard:
            out += wire.frame(wire.HEADERS, wire.END_HEADERS, stream, blocks[stream > 1])
            out += wire.frame(wire.DATA, wire.END_STREAM, stream, message)
        self.socket.sendall(out)

    def fileno(self) -> int:
        """For epoll."""
        return self.socket.fileno()

    def receive(self) -> None:
        """Keeps what has come and answers what HTTP/2 wants answered."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise wire.WireError("the service closed the connection")
        now = time.time()
        buffer = self._rest + data
        offset, end = 0, len(buffer)
        while end - offset >= wire.FRAME_HEADER:
            length_type, flags, stream = wire.frame_header.unpack_from(buffer, offset)
            start = offset + wire.FRAME_HEADER
            after = start + (length_type >> 8)
            if after > end:
                break
            kind = length_type & 0xFF
            if kind == wire.DATA:
                self._pieces.append((now, stream, buffer[start:after]))
                self.heard[stream] += 1
            elif kind in (wire.PING, wire.SETTINGS) and not flags & wire.ACK:
                self.socket.sendall(wire.frame(kind, wire.ACK, 0, buffer[start:after] if kind == wire.PING else b""))
            elif kind in (wire.RST_STREAM, wire.GOAWAY) or (kind == wire.HEADERS and flags & wire.END_STREAM):
                raise wire.WireError(f"a stream ended: {buffer[start:after]!r}")
            offset = after
        self._rest = buffer[offset:]

    def take(self) -> Heard:
        """The messages since the last call."""
        heard: dict[int, list[tuple[float, bytes]]] = {stream: [] for stream in self.heard}
        rest: defaultdict[int, bytes] = defaultdict(bytes)
        for when, stream, piece in self._pieces:
            data = rest[stream] + piece
            while len(data) >= _PREFIX and len(data) >= (size := _PREFIX + int.from_bytes(data[1:_PREFIX])):
                heard[stream].append((when, data[_PREFIX:size]))
                data = data[size:]
            rest[stream] = data
        self._pieces = [(time.time(), stream, piece) for stream, piece in rest.items() if piece]
        return list(heard.values())


def listen(host: str, port: int, path: str, message: bytes, streams: int, connections: int, pipe: PipeEnd) -> None:
    """What the process does: says "ready" once every stream has told its first state, then answers "tell"."""
    gc.disable()
    listeners = [Listener(host, port, path, message, streams // connections) for _ in range(connections)]
    by_fd = {listener.fileno(): listener for listener in listeners}
    epoll = select.epoll()
    for fd in (*by_fd, pipe.fileno()):
        epoll.register(fd, select.EPOLLIN)
    waiting = True
    while True:
        for fd, _ in epoll.poll():
            if fd != pipe.fileno():
                by_fd[fd].receive()
            elif pipe.recv() == "tell":
                pipe.send(([stream for listener in listeners for stream in listener.take()], time.process_time()))
            else:
                return
        if waiting and all(count >= 2 for listener in listeners for count in listener.heard.values()):
            waiting = False
            pipe.send("ready")
