"""The way to the database breaks around a commit, or goes silent without being closed."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.faults.callers import Callers
from tests.faults.proxy import Proxy
from tests.support.harness import Harness, StartService, refused
from tests.support.lag import Lag
from tests.support.polling import success, until
from tests.support.sessions import snapshot

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
async def proxy(ledger_dsn: str) -> AsyncIterator[Proxy]:
    async with Proxy(ledger_dsn) as proxy:
        yield proxy
        proxy.thaw()


def reserve_request(request_id: str, holder: str = "") -> pb.ReserveRequest:
    return pb.ReserveRequest(
        lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)], request_id=request_id, holder=holder
    )


async def health(service: Harness) -> int:
    async with service.new_channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)).status)


async def wait_health(service: Harness, wanted: int, timeout_s: float) -> float:
    async def reached() -> bool:
        return await health(service) == wanted

    return await until(reached, timeout_s=timeout_s, pause_s=0.05)


async def test_a_commit_whose_answer_is_lost_is_found_by_its_request_id(
    proxy: Proxy, start_service: StartService
) -> None:
    service = await start_service(dsn=proxy.dsn)
    await service.create_item("seat", 5)
    proxy.cut_after_commit(b"marked-holder")
    answer = await service.reservations.Reserve(reserve_request("r1", "marked-holder"), timeout=30)
    assert proxy.cuts == 1
    assert answer.replayed
    assert (await service.item("seat")).held == 1


async def test_a_commit_whose_answer_is_lost_without_a_request_id_is_an_unknown_outcome(
    proxy: Proxy, start_service: StartService
) -> None:
    service = await start_service(dsn=proxy.dsn)
    await service.create_item("seat", 5)
    proxy.cut_after_commit(b"marked-holder")
    refusal = await refused(service.reservations.Reserve(reserve_request("", "marked-holder"), timeout=30))
    assert proxy.cuts == 1
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN")
    assert (await service.item("seat")).held == 1


async def test_under_load_connections_cut_after_their_commits_lose_nothing(
    proxy: Proxy, start_service: StartService, ledger_dsn: str
) -> None:
    service = await start_service(dsn=proxy.dsn)
    async with Callers(service.address) as callers:
        for _ in range(8):
            proxy.cut_after_commit(callers.skus[0].encode())
            await proxy.cut.wait()
            await callers.progress(20)
    with snapshot(ledger_dsn) as sql:
        callers.history.check(sql)
    assert proxy.cuts == 8
    assert callers.history.summary()["unknown"] == 0
    await service.verify()


async def timed(call: Any) -> tuple[float, str]:
    start = time.monotonic()
    try:
        await call
    except grpc.RpcError as error:
        return time.monotonic() - start, error.code().name
    return time.monotonic() - start, "OK"


async def test_with_a_frozen_database_every_call_ends_by_its_deadline_and_health_tells(
    proxy: Proxy, start_service: StartService
) -> None:
    service = await start_service(dsn=proxy.dsn)
    await service.create_item("seat", 50)
    held = await service.reserve({"seat": 1})
    proxy.freeze()
    calls: dict[str, Callable[[float], Any]] = {
        "Reserve": lambda s: service.reservations.Reserve(reserve_request(f"r{s}"), timeout=s),
        "Reserve without a request_id": lambda s: service.reservations.Reserve(reserve_request(""), timeout=s),
        "Confirm": lambda s: service.reservations.Confirm(
            pb.ConfirmRequest(reservation_id=held.reservation_id), timeout=s
        ),
        "GetReservation": lambda s: service.reservations.GetReservation(
            pb.GetReservationRequest(reservation_id=held.reservation_id), timeout=s
        ),
        "CreateItem": lambda s: service.inventory.CreateItem(
            ipb.CreateItemRequest(item=item_pb2.Item(sku="new", capacity=1)), timeout=s
        ),
        "CheckAvailability": lambda s: service.inventory.CheckAvailability(
            ipb.CheckAvailabilityRequest(lines=[{"sku": "seat", "quantity": 1}]), timeout=s
        ),
    }
    deadlines = [0.3, 1.0, 2.0]
    asked = [(name, deadline, make(deadline)) for name, make in calls.items() for deadline in deadlines]
    async with Lag() as lag:
        ends = await asyncio.gather(*(timed(call) for _, _, call in asked))
    for (name, deadline, _), (took, code) in zip(asked, ends, strict=True):
        assert took <= deadline + 1.0 + lag.worst_s, (name, deadline, took, code)
        assert code != "OK", (name, code)
    await wait_health(service, NOT_SERVING, 60)
    proxy.thaw()
    recovered_s = await wait_health(service, SERVING, 60)
    late_s = max(took - deadline for (_, deadline, _), (took, _) in zip(asked, ends, strict=True))
    print(f"latest end {late_s:.2f} s after its deadline; SERVING {recovered_s:.2f} s after the thaw")  # noqa: T201
    await success(lambda: service.reservations.Reserve(reserve_request("after"), timeout=5), grpc.RpcError)
    await service.verify()


async def test_connections_that_stay_silent_are_given_up_and_replaced(
    proxy: Proxy, start_service: StartService
) -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    service = await start_service(dsn=proxy.dsn, statement_timeout="1s", lock_timeout="1s", pool_timeout="1s")
    await service.create_item("seat", 50)
    proxy.freeze()
    await asyncio.gather(
        *(timed(service.reservations.Reserve(reserve_request(f"f{n}"), timeout=0.5)) for n in range(20)),
        *(timed(service.inventory.GetItem(ipb.GetItemRequest(sku="seat"), timeout=0.5)) for n in range(20)),
    )
    proxy.heal_for_new_connections()

    async def served() -> bool:
        return (await timed(service.reservations.Reserve(reserve_request("after"), timeout=2)))[1] == "OK"

    print(f"recovered {await until(served, pause_s=0.1):.1f} s after the network did")  # noqa: T201
    await service.verify()
    gc.collect()
    assert not lost, "what ended after its caller had gone was not asked how"


async def test_backends_ended_by_the_database_under_load_lose_nothing(
    start_service: StartService, ledger_dsn: str
) -> None:
    service = await start_service()
    async with Callers(service.address) as callers:
        for _ in range(10):
            await callers.progress(10)
            with psycopg.connect(ledger_dsn, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'holdsvc'"
                )
        await callers.progress(50)
    with snapshot(ledger_dsn) as sql:
        callers.history.check(sql)
    assert callers.history.summary()["unknown"] == 0
