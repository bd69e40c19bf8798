"""Measures tenants over several cells: what a hold costs the databases and the worker, and what a dead cell does.

One worker serves TENANTS tenants, spread over the cells, each a server of its own on this machine. Callers make Reserve
calls at a steady rate, so that what is compared is processor time and latency, not how much this machine can bear. At
the end one cell is stopped: its tenants are refused, the others are measured again.

python loadtest/cells.py [--cells 1 2 4] [--rate 300] [--seconds 10]
"""

import argparse
import asyncio
import multiprocessing
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
                await stub.Reserve(request, metadata=(("x-api-key", tenant.secret),), timeout=20)
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


def measure(count: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Measures with so many cells and prints a row of the table."""
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
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(addresses, theirs))
        process.start()
        assert process.pid is not None
        port = ours.recv()
        _report(servers, process.pid, port, callers, arguments)
        ours.send("end")
        process.join(20)
    finally:
        for server in servers:
            server.stop()


def _report(
    servers: list[stage.Postgres], pid: int, port: int, callers: list[Tenant], arguments: argparse.Namespace
) -> None:
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
    database_s, worker_s = (after - earlier for after, earlier in zip(used(), before, strict=True))
    holds = seen.outcomes["OK"]
    print(
        f"{len(servers)} cells: {holds} holds; database {1e6 * (database_s - idle[0]) / holds:.0f} µs a hold"
        f" ({100 * idle[0] / seconds:.1f} % of a core when idle), worker {1e6 * (worker_s - idle[1]) / holds:.0f} µs"
        f" ({100 * idle[1] / seconds:.1f} %); p50 {seen.at(0.5):.1f} ms, p99 {seen.at(0.99):.1f} ms",
        flush=True,
    )
    if len(servers) == 1:
        return
    dead = len(servers) - 1
    living, mourning = ([each for each in callers if (each.cell == dead) is is_dead] for is_dead in (False, True))
    share = len(living) / len(callers)
    alone = asyncio.run(call(port, living, rate * share, seconds))
    servers[dead].stop()

    async def both(seconds: float) -> tuple[Seen, Seen]:
        return await asyncio.gather(
            call(port, living, rate * share, seconds), call(port, mourning, rate * (1 - share), seconds)
        )

    for title, lasting in (("its first 5 s", 5.0), ("later", seconds)):
        others, own = asyncio.run(both(lasting))
        print(
            f"  one dead, {title}: the others p99 {others.at(0.99):.1f} ms (alone {alone.at(0.99):.1f}),"
            f" {dict(others.outcomes)}; its own {dict(own.outcomes)}, p50 {own.at(0.5):.1f} ms,"
            f" p99 {own.at(0.99):.1f} ms",
            flush=True,
        )


def main() -> None:
    """Measures each number of cells."""
    parser = argparse.ArgumentParser(description="Measures tenants over several cells.")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=300.0, help="Reserve calls per second of all tenants together")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for count in arguments.cells:
            measure(count, Path(name), arguments)


if __name__ == "__main__":
    main()
