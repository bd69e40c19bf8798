"""Calls that end early or start elsewhere: cancelled, without a connection, on a closed client, on another loop."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

from holdsvc.client import AsyncClient, Client, errors, messages
from inventoryhold.v1 import event_service_pb2, reservation_pb2
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support import sessions
from tests.support.harness import Harness, StartService
from tests.support.ports import free_port


@pytest.fixture
async def client(service: Harness) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


async def waiting_reserve(ledger_dsn: str, start: Callable[[], Any]) -> None:
    """Starts a call that reserves while its item is locked, cancels it, and unlocks the item."""
    with sessions.transaction(ledger_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
        task = asyncio.create_task(start())
        await sessions.until_blocked(ledger_dsn)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.rollback()


@pytest.mark.parametrize("request_id", ["", "mine"])
async def test_a_hold_that_is_cancelled_while_it_reserves_leaves_nothing_held(
    service: Harness, ledger_dsn: str, request_id: str
) -> None:
    await service.create_item("seat", 1)
    async with AsyncClient(service.address) as client:

        async def work() -> None:
            async with client.hold({"seat": 1}, request_id=request_id):
                raise AssertionError("the block must not begin")

        await waiting_reserve(ledger_dsn, work)
    # Closing the client waits for the cancel behind the call.
    assert (await service.item("seat")).remaining == 1


async def test_a_reserve_that_is_cancelled_leaves_nothing_held(service: Harness, ledger_dsn: str) -> None:
    await service.create_item("seat", 1)
    async with AsyncClient(service.address) as client:
        await waiting_reserve(ledger_dsn, lambda: client.reserve({"seat": 1}))
    assert (await service.item("seat")).remaining == 1


async def test_a_cancelled_reserve_with_the_callers_own_request_id_is_the_callers_to_resolve(
    service: Harness, ledger_dsn: str
) -> None:
    await service.create_item("seat", 1)
    async with AsyncClient(service.address) as client:
        await waiting_reserve(ledger_dsn, lambda: client.reserve({"seat": 1}, request_id="mine"))
        again = await client.reserve({"seat": 1}, request_id="mine")
    assert (await service.get(again.reservation_id)).state == reservation_pb2.Reservation.STATE_HELD


async def test_a_reserve_that_passes_its_deadline_leaves_nothing_held(service: Harness, ledger_dsn: str) -> None:
    await service.create_item("seat", 1)
    async with AsyncClient(service.address, timeout_s=0.5) as client:
        with sessions.transaction(ledger_dsn) as other:
            other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
            with pytest.raises(errors.CallError) as caught:
                await client.reserve({"seat": 1})
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "connection" not in caught.value.message
            other.rollback()
    assert (await service.item("seat")).remaining == 1


async def test_a_closed_client_never_hides_the_error_of_a_hold_block(service: Harness, client: AsyncClient) -> None:
    await service.create_item("seat", 2)

    async def work() -> None:
        async with client.hold({"seat": 1}):
            await client.close()
            raise KeyError("payment")

    with pytest.raises(KeyError, match="payment"):
        await work()

    def block() -> None:
        blocking = Client(service.address)
        with blocking.hold({"seat": 1}):
            blocking.close()
            raise KeyError("payment")

    with pytest.raises(KeyError, match="payment"):
        await asyncio.to_thread(block)


async def test_a_client_that_is_closed_ends_its_calls_with_an_error_and_cancels_no_task(
    service: Harness, client: AsyncClient, ledger_dsn: str
) -> None:
    await service.create_item("seat", 10)
    with sessions.transaction(ledger_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
        stream: Any = client.events.StreamEvents(event_service_pb2.StreamEventsRequest())
        reading = asyncio.ensure_future(anext(stream))
        calls = [asyncio.create_task(client.reserve({"seat": 1}, request_id=f"{n}")) for n in range(3)]
        await sessions.until_blocked(ledger_dsn)
        await client.close()
        outcomes = await asyncio.gather(reading, *calls, return_exceptions=True)
        other.rollback()
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [grpc.StatusCode.CANCELLED] * 4


@pytest.mark.parametrize("far", [math.inf, 1e12])
async def test_a_caller_may_ask_for_no_deadline(service: Harness, client: AsyncClient, far: float) -> None:
    await service.create_item("seat", 100)
    await asyncio.gather(*(client.reservations.Reserve(messages.reserve({"seat": 1}), timeout=far) for _ in range(10)))

    def block() -> None:
        with Client(service.address) as blocking, ThreadPoolExecutor(5) as threads:
            reserve = blocking.reservations.Reserve
            list(threads.map(lambda _: reserve(messages.reserve({"seat": 1}), timeout=far), range(10)))

    await asyncio.to_thread(block)
    assert (await service.item("seat")).held == 20


async def test_a_call_on_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.close()
    with pytest.raises(errors.CallError, match="this client is closed"):
        await client.reserve({"seat": 1})


@pytest.mark.parametrize("method", ["reserve", "item", "watch"])
async def test_a_dead_server_is_reported_as_no_connection(method: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    request = ipb.GetItemRequest(sku="seat")

    async def calls(client: AsyncClient) -> None:
        if method == "reserve":
            await client.reserve({"seat": 1})
        elif method == "item":
            await client.inventory.GetItem(request)
        else:
            async for _ in client.inventory.WatchInventory(ipb.WatchInventoryRequest(), timeout=0.5):
                pass

    async with AsyncClient(address, timeout_s=0.5) as client:
        with pytest.raises(errors.NoConnection, match=f"no connection to {address} could be made.*Connection refused"):
            await calls(client)

    with (
        Client(address, timeout_s=0.5) as blocking,
        pytest.raises(errors.NoConnection, match=f"no connection to {address}"),
    ):
        await asyncio.to_thread(blocking.inventory.GetItem, request)


async def test_a_client_moves_to_another_event_loop_when_its_own_has_ended(service: Harness) -> None:
    await service.create_item("seat", 10)
    client = AsyncClient(service.address)

    async def work() -> str:
        return (await client.reserve({"seat": 1})).reservation_id

    ids = [await asyncio.to_thread(asyncio.run, work()) for _ in range(3)]
    assert len(set(ids)) == 3
    await client.close()


async def test_a_client_in_use_on_another_running_loop_says_so(service: Harness, client: AsyncClient) -> None:
    await service.create_item("seat", 1)
    await client.reserve({"seat": 1})
    with pytest.raises(RuntimeError, match="make one for each loop"):
        await asyncio.to_thread(asyncio.run, client.reserve({"seat": 1}))


async def test_an_interrupted_hold_of_the_blocking_client_leaves_nothing_held(
    service: Harness, ledger_dsn: str
) -> None:
    await service.create_item("seat", 1)
    script = f"""
from holdsvc.client import Client
with Client({service.address!r}) as client:
    try:
        with client.hold({{"seat": 1}}):
            raise SystemExit(2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    with sessions.transaction(ledger_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [sys.executable, "-c", script], stdout=subprocess.PIPE
        )
        await sessions.until_blocked(ledger_dsn)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"interrupted\n"
        other.rollback()
    assert await asyncio.to_thread(process.wait, 30) == 0
    process.stdout.close()
    assert (await service.item("seat")).remaining == 1


async def test_a_forked_child_calls_on_a_connection_of_its_own(service: Harness) -> None:
    await service.create_item("seat", 10)
    script = f"""
import os, sys
from holdsvc.client import Client
client = Client({service.address!r})
client.reserve({{"seat": 1}})
child = os.fork()
if not child:
    client.reserve({{"seat": 1}})
    os._exit(0)
client.reserve({{"seat": 1}})
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], env=environment, timeout=60, check=False, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert (await service.item("seat")).held == 3


async def test_answers_larger_than_grpcs_default_are_read() -> None:
    large = pb.ListReservationsResponse(next_page_token="x" * (5 * 1024 * 1024))
    service = pb.DESCRIPTOR.services_by_name["ReservationService"].full_name

    async def list_reservations(_request: bytes, _context: Any) -> bytes:
        return large.SerializeToString()

    server = grpc.aio.server()
    handlers: Any = {"ListReservations": grpc.unary_unary_rpc_method_handler(list_reservations)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        assert await client.reservations.ListReservations(pb.ListReservationsRequest()) == large
    await server.stop(0)


@pytest.mark.parametrize("separate", [True, False], ids=["two addresses", "one address"])
async def test_a_connection_is_left_while_its_server_still_listens(start_service: StartService, separate: bool) -> None:
    old = await start_service()
    await old.create_item("seat", 10)
    new = await start_service(listen="127.0.0.1:0" if separate else old.address)
    async with AsyncClient(f"ipv4:{old.address},{new.address}" if separate else old.address) as client:
        await client.reserve({"seat": 1})
        # It refuses every call and does not end: only another connection helps.
        await old.cell.engine.drain()
        for _ in range(5):
            await client.reserve({"seat": 1})
    assert new.sql("SELECT held FROM holdsvc.item WHERE sku = 'seat'") == [(6,)]
