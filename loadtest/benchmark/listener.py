"""One process of listeners: keeps many streams of one method open and stores every message with its arrival time.

A thousand streams on gRPC's own client use more processor time than the service that sends to them. This module only
cuts the received bytes into frames and stores them; messages are parsed after the measurement.
"""

import gc
import select
import socket
import time
from collections import defaultdict
from multiprocessing.connection import Connection as PipeEnd

from benchmark import wire

Heard = list[list[tuple[float, bytes]]]
"""For each stream its messages, each with its arrival time."""

_PREFIX = 5
"""Bytes before a message: whether it is compressed, and its length."""


class Listener:
    """One connection with several streams of one method."""

    def __init__(self, host: str, port: int, path: str, message: bytes, streams: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.heard = dict.fromkeys(range(1, 2 * streams, 2), 0)
        """Number of DATA frames received, by stream."""
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
        """Stores received frames; acknowledges PING and SETTINGS."""
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
    """The process: sends "ready" when every stream has received its snapshot, then answers each "tell"."""
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
