"""Measures what a call costs over gRPC and over HTTP: unary Reserve of one item, in turns of some hundred calls.

Two processes serve one ledger, one without HTTP and one with it, so that other load and the size of the ledger affect
all alike. Each turn is measured by the clock and by the processor time of the process that served it.

python loadtest/doors.py [--turns 40] [--calls 500] [--in-flight 100] [--only gRPC]
"""

import argparse
import asyncio
import multiprocessing
import random
import select
import socket
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import uvloop
from google.protobuf import json_format
from identity import ITEM, PATH, Caller

from benchmark import messages, stage
from benchmark.generator import SCRAMBLED
from benchmark.results import median
from holdsvc.cell_file import only
from holdsvc.commands.keys import create_key
from holdsvc.process.worker import Service
from holdsvc.settings import Settings
from holdsvc.telemetry import logs
from inventoryhold.v1 import reservation_service_pb2 as pb

WARM_UP_TURNS = 4
GOAL = 0.5


def serve(dsn: str, http_listen: str, pipe: Pipe) -> None:
    """A serving process: sends its ports, ends with the first message that it receives."""
    logs.configure("warning")
    uvloop.run(_serve(dsn, http_listen, pipe))


async def _serve(dsn: str, http_listen: str, pipe: Pipe) -> None:
    settings = Settings.load(dsn=dsn, listen="127.0.0.1:0", http_listen=http_listen, metrics_listen="")
    service = Service(settings, only(dsn))
    await service.start()
    pipe.send((service.port, service.http_port))
    await asyncio.to_thread(pipe.recv)
    await service.stop()


class Turns(Protocol):
    """Who makes calls."""

    def turn(self, count: int, in_flight: int) -> None:
        """Makes this many calls and waits for the last answer."""


class HttpCaller:
    """Makes concurrent calls over HTTP/1.1, one at a time on each connection."""

    def __init__(self, port: int, key: str, numbers: Iterator[int], *, is_json: bool) -> None:
        body = messages.reserve([messages.HOT])
        if is_json:
            body = json_format.MessageToJson(pb.ReserveRequest.FromString(body), indent=None).encode()
        kind = "json" if is_json else "proto"
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/{kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._message = head.encode() + body
        self._port = port
        self._numbers = numbers
        self._sockets: list[socket.socket] = []

    def turn(self, count: int, in_flight: int) -> None:
        """Makes this many calls and waits for the last answer."""
        while len(self._sockets) < in_flight:
            new = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(new)
        poll = select.epoll()
        by_number = {each.fileno(): each for each in self._sockets[:in_flight]}
        sent = ended = 0
        for each in self._sockets[: min(in_flight, count)]:
            poll.register(each, select.EPOLLIN)
            self._send(each)
            sent += 1
        while ended < count:
            for number, _ in poll.poll(10):
                _check(by_number[number].recv(65536))
                ended += 1
                if sent < count:
                    self._send(by_number[number])
                    sent += 1
        poll.close()

    def _send(self, to: socket.socket) -> None:
        to.sendall(self._message.replace(SCRAMBLED, b"%012x" % next(self._numbers)))


def _check(answer: bytes) -> None:
    # Answers are small and come in one piece.
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"a call was answered with {answer[:200]!r}")


def main() -> None:
    """Runs the turns and prints the medians."""
    parser = argparse.ArgumentParser(description="Measures what a call costs over gRPC and over HTTP.")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--only", default="", help="only the kinds that begin so: with gRPC, HTTP listens and is idle")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        postgres = stage.Postgres(Path(name) / "data")
        postgres.start()
        try:
            _measure(postgres.ledger(), arguments)
        finally:
            postgres.stop()


def _measure(dsn: str, arguments: argparse.Namespace) -> None:
    stage.run_sql(dsn, ITEM.format(sku=messages.HOT))
    key = create_key(dsn, "default", "dev", "all", "", None)
    started = [_start(dsn, ""), _start(dsn, "127.0.0.1:0")]
    (bare_pipe, bare_process), (pipe, process) = started
    bare_port, _ = bare_pipe.recv()
    port, http_port = pipe.recv()
    numbers = iter(range(2**40))
    metadata = {"authorization": f"Bearer {key}"}
    callers: dict[str, tuple[Turns, SpawnProcess]] = {
        "gRPC, no HTTP": (Caller(bare_port, metadata, numbers), bare_process),
        "gRPC": (Caller(port, metadata, numbers), process),
        "HTTP, JSON": (HttpCaller(http_port, key, numbers, is_json=True), process),
        "HTTP, binary": (HttpCaller(http_port, key, numbers, is_json=False), process),
    }
    callers = {kind: caller for kind, caller in callers.items() if kind.startswith(arguments.only)}
    try:
        _report(callers, arguments)
    finally:
        for each, _ in started:
            each.send("end")
        for _, each_process in started:
            each_process.join(20)


def _start(dsn: str, http_listen: str) -> tuple[Pipe, SpawnProcess]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(dsn, http_listen, theirs))
    process.start()
    return ours, process


def _report(callers: dict[str, tuple[Turns, SpawnProcess]], arguments: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {kind: [] for kind in callers}
    processor: dict[str, list[float]] = {kind: [] for kind in callers}
    for turn in range(WARM_UP_TURNS + arguments.turns):
        for kind in random.sample(sorted(callers), len(callers)):
            caller, process = callers[kind]
            assert process.pid is not None
            # Linux: the clock id of another process's processor time.
            clock = (~process.pid << 3) | 2
            used, begun = time.clock_gettime(clock), time.monotonic()
            caller.turn(arguments.calls, arguments.in_flight)
            if turn >= WARM_UP_TURNS:
                seconds[kind].append((time.monotonic() - begun) / arguments.calls)
                processor[kind].append((time.clock_gettime(clock) - used) / arguments.calls)
    base, with_http = processor["gRPC"], seconds["gRPC"]
    for kind in callers:
        rate = median([one / other for one, other in zip(with_http, seconds[kind], strict=True)])
        cost = median([one / other for one, other in zip(base, processor[kind], strict=True)])
        print(
            f"{kind}: {median(seconds[kind]) * 1e6:.0f} µs a call by the clock, rate {rate:.2f} of gRPC's;"
            f" {median(processor[kind]) * 1e6:.0f} µs of processor time, {cost:.2f}"
        )
    if "HTTP, JSON" not in callers:
        return
    ratio = median([one / other for one, other in zip(with_http, seconds["HTTP, JSON"], strict=True)])
    print(f"JSON at least {GOAL} of gRPC's rate: {'reached' if ratio >= GOAL else 'missed'}, {ratio:.2f}")


if __name__ == "__main__":
    main()
