"""Connections of limited age: their callers move to other workers; no call fails and streams resume."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil

from holdsvc.client import RETRY_POLICY, AsyncClient, Client
from inventoryhold.v1 import event_service_pb2 as epb
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.support.harness import StartService
from tests.support.polling import until
from tests.support.replica import Replica
from tests.support.sessions import sql_of

ROLLS = int(os.environ.get("HOLDSVC_TEST_ROLLS", "1"))
"""How often each worker is replaced."""

SKU = "seat"
LINES = [item_pb2.ItemQuantity(sku=SKU, quantity=1)]


class Readers:
    """A consumer of events and a watcher: what they were told."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.held = 0
        self.snapshots = 0

    async def consume(self, client: AsyncClient) -> None:
        request = epb.StreamEventsRequest(from_oldest=True)
        async for message in client.stream_events(request):
            self.created += [event.reservation.reservation_id for event in message.events if event.reservation.lines]

    async def watch(self, client: AsyncClient) -> None:
        async for message in client.watch_inventory(ipb.WatchInventoryRequest()):
            self.snapshots += message.snapshot_complete
            for item in message.items:
                self.held = item.held


@asynccontextmanager
async def callers_and_readers(address: str) -> AsyncIterator[tuple[list[int], Readers]]:
    """Every kind of caller of the service, and readers of both streams; the first error of one ends the test.

    Counts the calls.
    """
    readers, calls, stop = Readers(), [0], asyncio.Event()

    async def repeat(call: Callable[[], Any]) -> None:
        while not stop.is_set():
            await call()
            calls[0] += 1

    options = [("grpc.service_config", RETRY_POLICY), ("grpc.use_local_subchannel_pool", 1)]
    async with (
        AsyncClient(address) as shared,
        AsyncClient(address, coalesce=False) as single,
        grpc.aio.insecure_channel(address, options) as channel,
    ):
        item = item_pb2.Item(sku=SKU, capacity=1_000_000)
        await single.inventory.CreateItem(ipb.CreateItemRequest(item=item))
        stub: Any = ReservationServiceStub(channel)
        numbers = iter(range(10**9))
        with Client(address) as blocking:

            async def with_a_thread() -> None:
                await asyncio.to_thread(blocking.reserve, {SKU: 1})

            async def with_a_plain_stub() -> None:
                await stub.Reserve(pb.ReserveRequest(lines=LINES, request_id=f"plain-{next(numbers)}"), timeout=30)

            async with asyncio.TaskGroup() as group:
                reading = [group.create_task(read(shared)) for read in (readers.consume, readers.watch)]
                async with asyncio.TaskGroup() as callers:
                    for call, count in (
                        (lambda: shared.reserve({SKU: 1}), 20),
                        (lambda: single.reserve({SKU: 1}), 3),
                        (with_a_thread, 3),
                        (with_a_plain_stub, 3),
                    ):
                        for _ in range(count):
                            callers.create_task(repeat(call))
                    yield calls, readers
                    stop.set()
                await until(lambda: readers.held == calls[0] and len(readers.created) >= calls[0])
                for task in reading:
                    task.cancel()
    assert len(readers.created) == len(set(readers.created)) == calls[0]


def connections_to(port: int) -> set[int]:
    """The ports of this process from which it is connected to a service."""
    found = psutil.Process().net_connections("tcp")
    return {one.laddr.port for one in found if one.raddr and one.raddr.port == port}


async def test_callers_and_streams_outlive_their_connections(start_service: StartService) -> None:
    service = await start_service(connection_age="200ms", connection_age_grace="300ms")
    seen: set[int] = set()

    def have_moved(readers: Readers) -> bool:
        seen.update(connections_to(service.service.port))
        return len(seen) >= 20 and readers.snapshots >= 3

    async with callers_and_readers(service.address) as (_, readers):
        await until(lambda: have_moved(readers), pause_s=0.05)
    await service.verify()


async def test_an_age_of_zero_keeps_connections(start_service: StartService) -> None:
    aged = await start_service(connection_age="100ms")
    kept = await start_service(connection_age="0")
    async with aged.new_channel() as channel, kept.new_channel() as other:
        stubs: list[Any] = [ReservationServiceStub(channel), ReservationServiceStub(other)]
        seen: list[set[int]] = [set(), set()]

        async def aged_has_moved() -> bool:
            for stub, ports, service in zip(stubs, seen, (aged, kept), strict=True):
                await stub.ListReservations(pb.ListReservationsRequest())
                ports.update(connections_to(service.service.port))
            return len(seen[0]) >= 4

        # The harness has a connection of its own to each.
        await until(aged_has_moved)
        assert len(seen[1]) <= 2


async def test_workers_replaced_under_load_fail_no_call_and_get_their_share(tmp_path: Path, migrated: str) -> None:
    service = Replica(tmp_path, dsn=migrated, workers=2, connection_age="500ms", connection_age_grace="1s")
    service.start()
    try:
        async with callers_and_readers(service.address) as (calls, readers):
            for _ in range(ROLLS):
                for worker in service.workers():
                    await replace(service, worker, calls, readers)
        [[held]] = sql_of(migrated)("SELECT held FROM holdsvc.item")
        assert held == calls[0]
    finally:
        service.terminate()


async def replace(service: Replica, worker: psutil.Process, calls: list[int], readers: Readers) -> None:
    """Lets a worker end, until its successor has callers and the streams have moved once more."""
    before = {one.pid for one in service.workers()}
    snapshots, wanted = readers.snapshots, calls[0] + 200
    worker.send_signal(signal.SIGTERM)
    await until(lambda: successor_has_callers(service, before), pause_s=0.05)
    await until(lambda: calls[0] >= wanted and readers.snapshots > snapshots)


def successor_has_callers(service: Replica, before: set[int]) -> bool:
    """Whether a worker that was not there before is connected to callers."""
    for worker in service.workers():
        if worker.pid not in before:
            found = worker.net_connections("tcp")
            return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == service.port for one in found)
    return False
