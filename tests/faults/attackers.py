"""Callers without a key that mean harm, each in a process of its own: see `main`.

They speak HTTP/2 by hand: a library would keep the rules.
"""

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress

from tests.faults import beside

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
RESERVE = "/inventoryhold.v1.ReservationService/Reserve"
BODY = 4_000_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(path: str, stream: int, *more: tuple[str, str]) -> bytes:
    """A request's header block, nothing compressed."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def message(size: int, sent: int) -> bytes:
    """The beginning of a gRPC message of a size: its length and so many bytes."""
    return b"\x00" + size.to_bytes(4, "big") + b"\x0a" * sent


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def connect(port: int, values: Mapping[int, int] | None = None) -> socket.socket:
    """A connection that has said what HTTP/2 begins with."""
    line = socket.create_connection(("127.0.0.1", port), timeout=10)
    line.sendall(PREFACE + settings(values or {}))
    return line


def unread_watches(port: int) -> Iterator[None]:
    """Watches of health whose answers find no window."""
    lines = []
    for _ in range(20):
        line = connect(port, {INITIAL_WINDOW_SIZE: 0})
        for stream in range(1, 41, 2):
            line.sendall(headers(HEALTH_WATCH, stream) + frame(DATA, END_STREAM, stream, message(0, 0)))
        lines.append(line)
    while True:
        yield
        time.sleep(0.1)


class Half:
    """A call that sends its body as fast as it may, and never all of it."""

    def __init__(self, port: int, path: str) -> None:
        self.line = connect(port)
        self.line.sendall(headers(path, 1) + frame(DATA, 0, 1, message(BODY, 1000)))
        self.line.setblocking(False)
        self.window = {0: 65535 - 1005, 1: 65535 - 1005}
        self.sent = 1000
        self._initial = 65535
        self._in = b""
        self._out = b""

    def go_on(self) -> None:
        with suppress(BlockingIOError):
            self._in += self.line.recv(65536)
        while len(self._in) >= 9 and len(self._in) >= 9 + int.from_bytes(self._in[:3], "big"):
            size = int.from_bytes(self._in[:3], "big")
            kind, stream = self._in[3], int.from_bytes(self._in[5:9], "big")
            if kind == WINDOW_UPDATE:
                self.window[stream] = self.window.get(stream, 0) + int.from_bytes(self._in[9:13], "big")
            elif kind in (HEADERS, RST_STREAM):
                raise ConnectionError("the call has ended")
            elif kind == SETTINGS and not self._in[4] & ACK:
                for name, value in struct.iter_unpack(">HI", self._in[9 : 9 + size]):
                    if name == INITIAL_WINDOW_SIZE:
                        self.window[1] += value - self._initial
                        self._initial = value
            self._in = self._in[9 + size :]
        room = min(self.window[0], self.window[1], BODY - 1 - self.sent, 16000)
        if not self._out and room > 0:
            self._out = frame(DATA, 0, 1, b"\x0a" * room)
            self.sent += room
            self.window[0] -= room
            self.window[1] -= room
        if self._out:
            with suppress(BlockingIOError):
                self._out = self._out[self.line.send(self._out) :]


def half_bodies(port: int, path: str = RESERVE) -> Iterator[None]:
    """150 calls that hold all but the last byte of their bodies; one that is cut off comes again half a second on."""
    calls = [Half(port, path) for _ in range(150)]
    again: dict[int, float] = {}
    while True:
        for number, call in enumerate(calls):
            if number in again:
                continue
            try:
                call.go_on()
            except OSError:
                call.line.close()
                again[number] = time.monotonic() + 0.5
        for number in [number for number, at in again.items() if at < time.monotonic()]:
            del again[number]
            calls[number] = Half(port, path)
        yield


def half_bodies_of_health(port: int) -> Iterator[None]:
    return half_bodies(port, HEALTH_CHECK)


def half_bodies_of_reflection(port: int) -> Iterator[None]:
    return half_bodies(port, REFLECT)


def flood(port: int, data: bytes, *, reads: bool) -> Iterator[None]:
    """Three connections that say the same again and again."""
    lines: list[socket.socket] = []
    while True:
        while len(lines) < 3:
            lines.append(connect(port))
            lines[-1].sendall(headers(HEALTH_WATCH, 1) + frame(DATA, END_STREAM, 1, message(0, 0)))
            lines[-1].setblocking(False)
        for line in list(lines):
            try:
                with suppress(BlockingIOError):
                    line.send(data)
                if reads:
                    with suppress(BlockingIOError):
                        while line.recv(65536):
                            pass
            except OSError:
                line.close()
                lines.remove(line)
        yield


def window_updates(port: int) -> Iterator[None]:
    return flood(port, frame(WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x01") * 1000, reads=True)


def settings_frames(port: int) -> Iterator[None]:
    return flood(port, settings({INITIAL_WINDOW_SIZE: 65535}) * 1000, reads=True)


def unread_settings(port: int) -> Iterator[None]:
    """Each is to be acknowledged, and the acknowledgements are never read."""
    return flood(port, settings({}) * 1000, reads=False)


def unread_pings(port: int) -> Iterator[None]:
    return flood(port, frame(PING, 0, 0, bytes(8)) * 1000, reads=False)


def calls_without_key(port: int) -> Iterator[None]:
    """As many calls as go through, whose refusals are not read."""
    lines: list[tuple[socket.socket, list[int]]] = []
    while True:
        while len(lines) < 3:
            line = connect(port)
            line.setblocking(False)
            lines.append((line, [1]))
        for entry in list(lines):
            line, [stream] = entry
            data = b"".join(
                headers(RESERVE, number) + frame(DATA, END_STREAM, number, message(0, 0))
                for number in range(stream, stream + 200, 2)
            )
            try:
                with suppress(BlockingIOError):
                    # Only whole: a part of a frame would end the connection.
                    sent = line.send(data)
                    if sent < len(data):
                        line.setblocking(True)
                        line.settimeout(1)
                        line.sendall(data[sent:])
                        line.setblocking(False)
                    entry[1][0] = stream + 200
            except OSError:
                line.close()
                lines.remove(entry)
        yield


def header_blocks(port: int) -> Iterator[None]:
    """Header blocks that never end."""
    first = frame(HEADERS, 0, 3, b"\x00\x01a\x7f\x80\x03" + b"b" * 500)
    return flood(port, first + frame(CONTINUATION, 0, 3, b"c" * 16000) * 50, reads=True)


def idle_connections(port: int) -> Iterator[None]:
    """As many as this process may have, which say nothing."""
    return _kept(lambda: socket.create_connection(("127.0.0.1", port), timeout=1))


def idle_after_the_preface(port: int) -> Iterator[None]:
    """As many as this process may have, which are complete and have no call."""
    return _kept(lambda: connect(port))


def _kept(opened: Callable[[], socket.socket]) -> Iterator[None]:
    """Thousands of connections; those that the service closes are opened again."""
    lines: list[socket.socket] = []
    while True:
        with suppress(OSError):
            while len(lines) < 5000:
                lines.append(opened())
        time.sleep(0.1)
        yield
        for line in list(lines):
            line.setblocking(False)
            with suppress(BlockingIOError):
                try:
                    gone = not line.recv(65536)
                except ConnectionError:
                    gone = True
                if gone:
                    line.close()
                    lines.remove(line)


def slow_heads(port: int) -> Iterator[None]:
    """Requests of HTTP/1.1 that send a byte now and then."""
    lines: list[socket.socket] = []
    while True:
        with suppress(OSError):
            while len(lines) < 1500:
                line = socket.create_connection(("127.0.0.1", port), timeout=1)
                line.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
                lines.append(line)
        for line in list(lines):
            try:
                line.send(b"a")
            except OSError:
                line.close()
                lines.remove(line)
        time.sleep(0.5)
        yield


def endless_heads(port: int) -> Iterator[None]:
    """Requests of HTTP/1.1 whose head never ends."""
    return flood_plain(port, b"GET /metrics HTTP/1.1\r\n", b"X: " + b"a" * 60_000 + b"\r\n")


def pages(port: int) -> Iterator[None]:
    """As many requests for the page as go through, never read."""
    return flood_plain(port, b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")


def flood_plain(port: int, first: bytes, more: bytes) -> Iterator[None]:
    lines: list[socket.socket] = []
    while True:
        with suppress(OSError):
            while len(lines) < 20:
                line = socket.create_connection(("127.0.0.1", port), timeout=1)
                line.sendall(first)
                line.setblocking(False)
                lines.append(line)
        for line in list(lines):
            try:
                with suppress(BlockingIOError):
                    line.send(more)
            except OSError:
                line.close()
                lines.remove(line)
        yield


GRPC: Mapping[str, Callable[[int], Iterator[None]]] = {
    attack.__name__: attack
    for attack in (
        unread_watches,
        half_bodies,
        half_bodies_of_health,
        half_bodies_of_reflection,
        window_updates,
        settings_frames,
        unread_settings,
        unread_pings,
        calls_without_key,
        header_blocks,
        idle_connections,
        idle_after_the_preface,
    )
}
METRICS: Mapping[str, Callable[[int], Iterator[None]]] = {
    attack.__name__: attack for attack in (idle_connections, slow_heads, endless_heads, pages)
}


def attacking(name: str, port: int, seconds: float = 300) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Runs an attack in a process of its own while the block runs, which begins when all of it is at work."""
    return beside.running("tests.faults.attackers", name, port, seconds)


def main() -> None:
    """`python -m tests.faults.attackers NAME PORT SECONDS`."""
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    end = time.monotonic() + seconds
    attack = {**GRPC, **METRICS}[name](port)
    told = False
    while time.monotonic() < end:
        try:
            next(attack)
            if not told:
                told = True
                beside.tell_at_work()
        except OSError:
            attack = {**GRPC, **METRICS}[name](port)
            time.sleep(0.01)
    # Its sockets end with it, all at once.
    os._exit(0)


if __name__ == "__main__":
    main()
