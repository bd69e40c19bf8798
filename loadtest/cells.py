"""Measures tenants over several cells: what a hold costs the databases and the worker, and what a dead cell does.

One worker serves TENANTS tenants, spread over the cells, each a server of its own on this machine. Callers make Reserve
calls at a steady rate, so that what is compared is processor time and latency, not how much this machine can bear. Then
one cell is killed and started again, TURNS times: its tenants are refused, and the p99 of the others is compared with
that while all cells live. What else the machine does only adds to a turn, so the best one of each kind counts.

python loadtest/cells.py [--cells 1 2 4] [--rate 200] [--seconds 8]
"""

import argparse
import asyncio
import logging
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple

import grpc
import uvloop
from pydantic import SecretStr

from benchmark import stage
from holdsvc.cell_file import CellAddress
from holdsvc.commands import target
from holdsvc.commands.keys import create_key
from holdsvc.ledger import joining, tenants
from holdsvc.process.worker import Service
from holdsvc.settings import Settings
from holdsvc.telemetry import logs
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2_grpc as pb_grpc

TENANTS = 8
WARM_UP_S = 3.0

TURNS = 3
"""With all cells alive and with a dead one, one after the other."""

TURN_S = 4.0

NOTICE_S = 20.0
"""The longest until the worker has noticed that a cell has died, or lives again."""

NOTICED_MS = 1000.0

CALL_S = 20.0

ITEM = """
INSERT INTO holdsvc.item
  (tenant, sku, pool, display_name, capacity, remaining, oversell_limit, create_time, update_time)
VALUES ('{tenant}', 'seat', '', '', 1e12, 1e12, 0, now(), now())
"""


class Tenant(NamedTuple):
    """One of those who call."""

    cell: int
    secret: str


class Seen(NamedTuple):
    """What came of some seconds of calls."""

    latencies: list[float]
    outcomes: Counter[str]

    def at(self, share: float) -> float:
        """A quantile of the latencies, ms."""
        found = sorted(self.latencies)
        return 1000 * found[min(len(found) - 1, int(len(found) * share))] if found else float("nan")


def serve(addresses: Sequence[CellAddress], pipe: Pipe) -> None:
    """The serving process: sends its port, ends with the first message that it receives."""
    logs.configure("error")
    # What the pool says of each attempt to reach the dead cell.
    logging.disable(logging.WARNING)
    uvloop.run(_serve(addresses, pipe))


async def _serve(addresses: Sequence[CellAddress], pipe: Pipe) -> None:
    service = Service(Settings.load(listen="127.0.0.1:0", metrics_listen=""), addresses)
    await service.start()
    pipe.send(service.port)
    await asyncio.to_thread(pipe.recv)
    await service.stop()


async def call(port: int, callers: Sequence[Tenant], rate: float, seconds: float) -> Seen:
    """Makes calls at a rate, of the tenants in turn, whatever becomes of those before."""
    seen = Seen([], Counter())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.ReservationServiceStub(channel)
        request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)])

        async def one(tenant: Tenant) -> None:
            began = time.monotonic()
            try:
                await stub.Reserve(request, metadata=(("x-api-key", tenant.secret),), timeout=CALL_S)
                seen.outcomes["OK"] += 1
            except grpc.RpcError as error:
                seen.outcomes[str(error.code().name)] += 1
            seen.latencies.append(time.monotonic() - began)

        began, pending = time.monotonic(), set()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            pending.add(asyncio.create_task(one(callers[number % len(callers)])))
        await asyncio.wait(pending)
    return seen


class Row(NamedTuple):
    """What one number of cells has shown."""

    cells: int
    database_us: float
    database_idle: float
    worker_us: float
    worker_idle: float
    all_alive: Seen
    before: list[Seen]
    """Of the tenants of the cells that live on, while all live."""
    beside: list[Seen]
    """Of the same, while one is dead."""
    dead: list[Seen]
    """Of the tenants of the dead cell."""


def measure(count: int, folder: Path, arguments: argparse.Namespace) -> Row:
    """Measures with so many cells."""
    servers = [stage.Postgres(folder / f"{count}-{number}") for number in range(count)]
    try:
        for server in servers:
            server.start()
        dsns = [server.ledger() for server in servers]
        # One cell is today's single database, without a name.
        names = [""] if count == 1 else [f"cell-{number}" for number in range(count)]
        addresses = [CellAddress(name, SecretStr(dsn)) for name, dsn in zip(names, dsns, strict=True)]
        callers = []
        for number in range(TENANTS):
            address = addresses[number % count]
            name = f"tenant-{number}"
            if address.name:
                joining.join(address.owner, address.name, addresses[0].owner)
                target.run(address.owner, lambda connection, name=name: tenants.place(connection, name))  # type: ignore[misc]
            stage.run_sql(address.owner, ITEM.format(tenant=name))
            callers.append(Tenant(number % count, create_key(address.owner, name, "shop", "all", "", None)))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(addresses, theirs), daemon=True)
        process.start()
        assert process.pid is not None
        port = ours.recv()
        row = _steady(servers, process.pid, port, callers, arguments)
        if count > 1:
            for _ in range(TURNS):
                _outage(servers[-1], port, callers, arguments.rate, row)
        ours.send("end")
        process.join(CALL_S)
        return row
    finally:
        for server in servers:
            server.stop()


def _steady(
    servers: list[stage.Postgres], pid: int, port: int, callers: list[Tenant], arguments: argparse.Namespace
) -> Row:
    # Linux: the clock id of another process's processor time.
    clock = (~pid << 3) | 2

    def used() -> tuple[float, float]:
        return sum(server.processor_s() for server in servers), time.clock_gettime(clock)

    rate, seconds = arguments.rate, arguments.seconds
    asyncio.run(call(port, callers, rate, WARM_UP_S))
    before = used()
    time.sleep(seconds / 2)
    idle = [2 * (after - earlier) for after, earlier in zip(used(), before, strict=True)]
    before = used()
    seen = asyncio.run(call(port, callers, rate, seconds))
    database_us, worker_us = (
        1e6 * (after - earlier - at_rest) / max(1, seen.outcomes["OK"])
        for after, earlier, at_rest in zip(used(), before, idle, strict=True)
    )
    shares = [100 * each / seconds for each in idle]
    return Row(len(servers), database_us, shares[0], worker_us, shares[1], seen, [], [], [])


def _outage(server: stage.Postgres, port: int, callers: list[Tenant], rate: float, row: Row) -> None:
    """One turn: all cells alive, then the last one dead, then alive again."""
    last = row.cells - 1
    living, dying = ([each for each in callers if (each.cell == last) is is_last] for is_last in (False, True))
    share = len(living) / len(callers)

    async def both(seconds: float) -> tuple[Seen, Seen]:
        return await asyncio.gather(
            call(port, living, rate * share, seconds), call(port, dying, rate * (1 - share), seconds)
        )

    async def until(code: str) -> None:
        """Waits until the calls of the dying cell are answered so, at once."""
        async with asyncio.timeout(NOTICE_S):
            while True:
                seen = await call(port, dying, 10, 0.5)
                if seen.outcomes.keys() == {code} and seen.at(0.5) < NOTICED_MS:
                    return

    row.before.append(asyncio.run(both(TURN_S))[0])
    server.stop()
    asyncio.run(until("UNAVAILABLE"))
    others, own = asyncio.run(both(TURN_S))
    row.beside.append(others)
    row.dead.append(own)
    server.start()
    asyncio.run(until("OK"))


def _shown(row: Row) -> list[str]:
    cells = [
        f"{row.database_us:.0f} µs",
        f"{row.database_idle:.1f} %",
        f"{row.worker_us:.0f} µs",
        f"{row.worker_idle:.1f} %",
        f"{row.all_alive.at(0.5):.1f}, {row.all_alive.at(0.99):.1f} ms",
    ]
    if not row.beside:
        return [*cells, "", "", ""]
    before, beside = (min(seen.at(0.99) for seen in turns) for turns in (row.before, row.beside))
    refused = sum((seen.outcomes for seen in row.dead), Counter[str]())
    failed = sum(seen.outcomes.total() - seen.outcomes["OK"] for seen in (*row.before, *row.beside))
    return [
        *cells,
        f"{before:.1f} → {beside:.1f} ms, {beside / before:.2f} times",
        f"{failed} failed",
        f"p50 {min(seen.at(0.5) for seen in row.dead):.1f} ms, "
        + ", ".join(f"{count} {code}" for code, count in refused.items()),
    ]


TITLES = (
    "databases, processor time a hold",
    "databases at rest, of a core",
    "worker, processor time a hold",
    "worker at rest, of a core",
    "p50, p99",
    "p99 of the others, one cell dead",
    "calls of the others",
    "calls of the dead cell",
)


def main() -> None:
    """Measures each number of cells and prints a table."""
    parser = argparse.ArgumentParser(description="Measures tenants over several cells.")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=200.0, help="Reserve calls per second of all tenants together")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for count in arguments.cells:
            print(f"{count} cells …", file=sys.stderr, flush=True)
            rows.append(measure(count, Path(name), arguments))
    print(f"{TENANTS} tenants, {arguments.rate:.0f} calls a second, one worker\n")
    print("| | " + " | ".join("1 database" if row.cells == 1 else f"{row.cells} cells" for row in rows) + " |")
    print("|---|" + "---|" * len(rows))
    for title, *values in zip(TITLES, *map(_shown, rows), strict=True):
        print(f"| {title} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()
