"""SIGTERM and rolling restarts under load: a caller with the shipped retry policy sees no failed call."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from holdsvc.client import RETRY_POLICY, AsyncClient, CallError
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.support import sessions
from tests.support.harness import StartService
from tests.support.polling import until
from tests.support.replica import Replica
from tests.support.sessions import sql_of

CALLERS = 8
IN_FLIGHT = 300


@asynccontextmanager
async def calling(work: Any, callers: int = CALLERS) -> AsyncIterator[dict[str, int]]:
    """Callers at work while the block runs; what they saw is in the dict."""
    seen = {"calls": 0}
    failures: list[str] = []
    stop = asyncio.Event()

    async def one() -> None:
        while not stop.is_set():
            try:
                await work()
            except (CallError, grpc.RpcError) as error:
                failures.append(f"{time.monotonic():.2f} {error} {error.__cause__}")
            seen["calls"] += 1

    tasks = [asyncio.create_task(one()) for _ in range(callers)]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert not failures, (len(failures), failures[:3])


async def progress(seen: dict[str, int], calls: int) -> None:
    wanted = seen["calls"] + calls
    await until(lambda: seen["calls"] >= wanted, timeout_s=100)


@pytest.fixture
def replicas(tmp_path: Path, migrated: str) -> Any:
    both = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        both.append(Replica(tmp_path / name, dsn=migrated))
        both[-1].start()
    yield both
    for replica in both:
        replica.terminate()


async def test_a_rolling_restart_of_two_replicas_under_300_callers_fails_no_call(
    replicas: list[Replica], migrated: str
) -> None:
    target = "ipv4:" + ",".join(replica.address for replica in replicas)
    async with AsyncClient(target) as client:
        item = item_pb2.Item(sku="seat", capacity=1_000_000)
        await client.inventory.CreateItem(ipb.CreateItemRequest(item=item))

        async def with_the_client() -> None:
            async with client.hold({"seat": 1}, ttl=timedelta(minutes=5)) as hold:
                await hold.confirm()

        options = [("grpc.service_config", RETRY_POLICY), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub: Any = ReservationServiceStub(channel)
            numbers = iter(range(10**9))

            async def with_a_plain_stub() -> None:
                lines = [item_pb2.ItemQuantity(sku="seat", quantity=1)]
                await stub.Reserve(pb.ReserveRequest(lines=lines, request_id=f"plain-{next(numbers)}"), timeout=30)

            async with calling(with_the_client, IN_FLIGHT) as seen, calling(with_a_plain_stub) as seen_plain:
                for replica in replicas:
                    await progress(seen, 400)
                    await asyncio.to_thread(replica.terminate)
                    await progress(seen, 400)
                    await asyncio.to_thread(replica.start)
                    await progress(seen_plain, 50)
    print(f"{seen['calls']} holds and {seen_plain['calls']} plain calls, none failed")  # noqa: T201
    [[sold]] = sql_of(migrated)("SELECT confirmed FROM holdsvc.item WHERE sku = 'seat'")
    assert sold == seen["calls"]
    # Each request_id took effect once, however often it was sent.
    assert sql_of(migrated)("SELECT 1 FROM holdsvc.event GROUP BY request_id, type HAVING count(*) > 1"
                                " AND request_id IS NOT NULL") == []  # fmt: skip


async def test_a_stopping_service_finishes_the_calls_that_it_accepted(
    start_service: StartService, ledger_dsn: str
) -> None:
    service = await start_service()
    await service.create_item("seat", 100)
    with sessions.transaction(ledger_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
        lines = [item_pb2.ItemQuantity(sku="seat", quantity=1)]
        request = pb.ReserveRequest(lines=lines)

        def call() -> asyncio.Future[Any]:
            return asyncio.ensure_future(service.reservations.Reserve(request, timeout=60))

        calls = [call()]
        await sessions.until_blocked(ledger_dsn)
        # What stands in the queue has been accepted; what was only sent may yet be refused.
        calls += [call() for _ in range(19)]
        await until(lambda: service.cell.engine.queue_depths()["reserve"] >= 19)
        stopping = asyncio.create_task(service.service.stop())
        await asyncio.sleep(0)
        other.rollback()
        assert len(await asyncio.gather(*calls)) == 20
        await stopping


async def test_a_restart_of_the_only_service_under_300_callers_fails_no_call(tmp_path: Path, migrated: str) -> None:
    service = Replica(tmp_path, dsn=migrated, workers=2)
    try:
        service.start()
        async with AsyncClient(service.address) as client:
            item = item_pb2.Item(sku="seat", capacity=1_000_000)
            await client.inventory.CreateItem(ipb.CreateItemRequest(item=item))

            async def work() -> None:
                await client.reserve({"seat": 1})

            async with calling(work, IN_FLIGHT) as seen:
                await progress(seen, 400)
                await asyncio.to_thread(service.terminate)
                await asyncio.to_thread(service.start)
                await progress(seen, 400)
        [[held]] = sql_of(migrated)("SELECT held FROM holdsvc.item WHERE sku = 'seat'")
        assert held == seen["calls"]
    finally:
        with suppress(Exception):
            service.terminate()
