"""A client that gives up its calls beside another tenant's changes: its next ones wait, and nobody else's."""

import asyncio

import grpc
import grpc.aio
import psycopg
import pytest

from holdsvc.api import services
from holdsvc.engine import fairness, limits
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService
from tests.support.partners import Partner, new_partner

LIST = inventory.ListItemsRequest()
WATCH = inventory.WatchInventoryRequest(sku_prefix="none")
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
WAIT_S = 30.0
SHORT_S = 0.3


@pytest.fixture
async def guarded(start_service: StartService, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A service with a tenant that has made a change, where what was given up rests until the end of the test."""
    monkeypatch.setattr(fairness, "BUSY_S", 3600.0)
    monkeypatch.setattr(limits, "GIVEN_UP_REST_S", 3600.0)
    monkeypatch.setattr(services, "STREAMS_OPENING_MAX", 1)
    service = await start_service(auth="api-key")
    seller = await new_partner(service, "seller", tenant="seller")
    await seller.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat", "capacity": 1}))
    await seller.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}]))
    return service


async def listed(partner: Partner, timeout_s: float) -> grpc.StatusCode:
    try:
        await partner.inventory.ListItems(LIST, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def opened(partner: Partner, timeout_s: float) -> bool:
    """Whether a watch is told something in time; then it ends."""
    watch = partner.inventory.WatchInventory(WATCH, timeout=timeout_s)
    try:
        await watch.read()
    except grpc.aio.AioRpcError as error:
        assert error.code() is LATE
        return False
    watch.cancel()
    return True


async def test_reads_that_were_given_up_keep_their_clients_next_ones_waiting(guarded: Harness, ledger_dsn: str) -> None:
    hasty, other = await new_partner(guarded, "hasty"), await new_partner(guarded, "other")
    assert await listed(hasty, WAIT_S) is grpc.StatusCode.OK
    with psycopg.connect(ledger_dsn) as connection:
        connection.execute("LOCK TABLE holdsvc.item IN ACCESS EXCLUSIVE MODE")
        # Until no call is read any more: then none waits for the lock, and so none is refused for it.
        async with asyncio.timeout(WAIT_S):
            while set(await asyncio.gather(*(listed(hasty, SHORT_S) for _ in range(60)))) != {LATE}:
                pass
    assert await listed(other, WAIT_S) is grpc.StatusCode.OK
    assert await listed(hasty, SHORT_S) is LATE


async def test_watches_that_end_at_once_keep_their_clients_next_ones_waiting(guarded: Harness) -> None:
    hasty, other = await new_partner(guarded, "hasty"), await new_partner(guarded, "other")
    async with asyncio.timeout(WAIT_S):
        while await opened(hasty, SHORT_S):
            pass
    assert await opened(other, WAIT_S)
    assert await listed(hasty, WAIT_S) is grpc.StatusCode.OK
