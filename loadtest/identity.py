"""Measures the cost of an API key: unary Reserve with a key and with AUTH=off, in turns of some hundred calls.

One process serves both, on two ports, from one engine and one ledger, so that other load and the size of the ledger
affect both. Each turn is measured by the clock and by the processor time of that process.

python loadtest/identity.py [--turns 200] [--calls 500] [--in-flight 100]
"""

import argparse
import asyncio
import multiprocessing
import random
import select
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import grpc
import uvloop

from benchmark import messages, stage
from benchmark.generator import SCRAMBLED
from benchmark.results import median
from benchmark.wire import Connection
from holdsvc.api.server import Server
from holdsvc.api.services import Services
from holdsvc.cell_file import only
from holdsvc.commands.keys import create_key
from holdsvc.process.worker import Service
from holdsvc.settings import Settings
from holdsvc.telemetry import logs

PATH = stage.SERVICE + "Reserve"
CONNECTIONS = 4
WARM_UP_TURNS = 10
GOAL = 0.95
_OK = grpc.StatusCode.OK.value[0]

ITEM = """
INSERT INTO holdsvc.item
  (tenant, sku, pool, display_name, capacity, remaining, oversell_limit, create_time, update_time)
VALUES ('default', '{sku}', '', '', 1e12, 1e12, 0, now(), now())
"""


def serve(dsn: str, pipe: Pipe) -> None:
    """The serving process: sends its two ports, ends with the first message that it receives."""
    logs.configure("warning")
    uvloop.run(_serve(dsn, pipe))


async def _serve(dsn: str, pipe: Pipe) -> None:
    settings = Settings.load(dsn=dsn, listen="127.0.0.1:0", metrics_listen="", auth="off")
    service = Service(settings, only(dsn))
    await service.start()
    # Two more servers of the same kind, which differ in AUTH only.
    servers = [_server(settings.model_copy(update={"auth": auth}), service) for auth in ("off", "api-key")]
    for server in servers:
        await server.start()
    pipe.send([server.port for server in servers])
    await asyncio.to_thread(pipe.recv)
    for server in servers:
        await server.stop(1.0)
    await service.stop()


def _server(settings: Settings, service: Service) -> Server:
    return Server(settings, Services(settings, service.places, service.observer))


class Caller:
    """Makes concurrent calls on one port."""

    def __init__(self, port: int, metadata: dict[str, str], numbers: Iterator[int]) -> None:
        self._connections = [Connection("127.0.0.1", port, PATH, metadata) for _ in range(CONNECTIONS)]
        body = messages.reserve([messages.HOT])
        self._message = b"\x00" + len(body).to_bytes(4) + body
        self._numbers = numbers

    def turn(self, count: int, in_flight: int) -> None:
        """Makes this many calls and waits for the last answer."""
        sent = ended = 0
        while ended < count:
            while sent < count and sent - ended < in_flight:
                message = self._message.replace(SCRAMBLED, b"%012x" % next(self._numbers))
                self._connections[sent % CONNECTIONS].call(0.0, message)
                sent += 1
            for connection in self._connections:
                connection.flush()
            readable, _, _ = select.select(self._connections, [], [], 10)
            for connection in readable:
                for _, status in connection.receive():
                    if status != _OK:
                        raise SystemExit(f"a call ended with status {status}")
                    ended += 1


def main() -> None:
    """Runs the turns and prints the medians."""
    parser = argparse.ArgumentParser(description="Measures the cost of an API key.")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--in-flight", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        postgres = stage.Postgres(Path(name) / "data")
        postgres.start()
        try:
            dsn = postgres.ledger()
            stage.run_sql(dsn, ITEM.format(sku=messages.HOT))
            secret = create_key(dsn, "default", "dev", "all", "", None)
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=serve, args=(dsn, theirs))
            process.start()
            assert process.pid is not None
            port_off, port_key = ours.recv()
            numbers = iter(range(2**40))
            callers = {
                "off": Caller(port_off, {}, numbers),
                "key": Caller(port_key, {"authorization": f"Bearer {secret}"}, numbers),
            }
            _report(callers, process.pid, arguments)
            ours.send("end")
            process.join(20)
        finally:
            postgres.stop()


def _report(callers: dict[str, Caller], pid: int, arguments: argparse.Namespace) -> None:
    # Linux: the clock id of another process's processor time.
    clock = (~pid << 3) | 2
    seconds: dict[str, list[float]] = {kind: [] for kind in callers}
    processor: dict[str, list[float]] = {kind: [] for kind in callers}
    for turn in range(WARM_UP_TURNS + arguments.turns):
        for kind in random.sample(sorted(callers), len(callers)):
            used, begun = time.clock_gettime(clock), time.monotonic()
            callers[kind].turn(arguments.calls, arguments.in_flight)
            if turn >= WARM_UP_TURNS:
                seconds[kind].append((time.monotonic() - begun) / arguments.calls)
                processor[kind].append((time.clock_gettime(clock) - used) / arguments.calls)
    for title, found in (("by the clock", seconds), ("processor time", processor)):
        off, key = found["off"], found["key"]
        ratio = median([without / with_key for without, with_key in zip(off, key, strict=True)])
        print(
            f"{title}: AUTH=off {median(off) * 1e6:.1f} µs a call, with a key {median(key) * 1e6:.1f} µs; median of"
            f" {arguments.turns} ratios {ratio:.3f}, at least {GOAL} {'reached' if ratio >= GOAL else 'missed'};"
            f" the fastest tenth of the turns is below {_tenth(off) * 1e6:.1f} and {_tenth(key) * 1e6:.1f} µs,"
            f" {_tenth(off) / _tenth(key):.3f}"
        )


def _tenth(values: list[float]) -> float:
    return sorted(values)[len(values) // 10]


if __name__ == "__main__":
    main()
