"""Streams over HTTP: Connect and gRPC-Web with their own clients, server-sent events with curl."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

from holdsvc.api.services import SERVICES
from inventoryhold.v1 import event_service_pb2, inventory_service_pb2, item_pb2, reservation_service_pb2
from tests.support.harness import Harness, StartService
from tests.support.http import request
from tests.support.partners import new_caller
from tests.support.polling import until

METHODS: dict[str, MethodInfo[Any, Any]] = {
    method.name: MethodInfo(
        name=method.name,
        service_name=service.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY,
    )
    for service in SERVICES
    for method in service.methods
}

CODECS = {"json": google_protobuf_json_codec, "binary": google_protobuf_binary_codec}


@asynccontextmanager
async def connected(service: Harness, codec: str, protocol: ProtocolType) -> AsyncIterator[ConnectClient]:
    """Connect's own client for Python, which compresses what it sends unless told otherwise."""
    async with ConnectClient(f"http://{service.http_address}", codec=CODECS[codec](), protocol=protocol) as client:
        yield client


def _reason(error: ConnectError) -> str:
    [info] = [each for each in error.details if each.type_name == "google.rpc.ErrorInfo"]
    return str(error_details_pb2.ErrorInfo.FromString(info.message_bytes).reason)


CLIENTS = [("json", ProtocolType.CONNECT), ("binary", ProtocolType.CONNECT), ("binary", ProtocolType.GRPC_WEB)]


@pytest.mark.parametrize(("codec", "protocol"), CLIENTS)
async def test_a_connect_client_calls_and_watches(service: Harness, codec: str, protocol: ProtocolType) -> None:
    await service.create_item("seat", 5)
    async with connected(service, codec, protocol) as client:
        wanted = inventory_service_pb2.WatchInventoryRequest(items=[item_pb2.ItemKey(sku="seat")])
        messages: Any = client.execute_server_stream(request=wanted, method=METHODS["WatchInventory"])
        assert [item.remaining for item in (await anext(messages)).items] == [5]
        assert (await anext(messages)).snapshot_complete
        line = item_pb2.ItemQuantity(sku="seat", quantity=2)
        reserve = METHODS["Reserve"]
        made = await client.execute_unary(
            request=reservation_service_pb2.ReserveRequest(lines=[line]), method=reserve, timeout_ms=20_000
        )
        assert made.reservation.lines[0].quantity == 2
        while [item.remaining for item in (await anext(messages)).items] != [3]:
            pass
        with pytest.raises(ConnectError) as caught:
            await client.execute_unary(request=reservation_service_pb2.ReserveRequest(), method=reserve)
        assert (caught.value.code, _reason(caught.value)) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        bad = inventory_service_pb2.WatchInventoryRequest(items=[item_pb2.ItemKey(sku="")])
        with pytest.raises(ConnectError) as caught:
            await anext(client.execute_server_stream(request=bad, method=METHODS["WatchInventory"]))
        assert (caught.value.code, _reason(caught.value)) == (Code.INVALID_ARGUMENT, "INVALID_FIELD")
        await messages.aclose()
    await until(lambda: service.cell.streams.watch.watchers == 0)


async def test_a_stream_ends_with_a_status_when_the_service_stops(service: Harness) -> None:
    async with connected(service, "json", ProtocolType.CONNECT) as client:
        request_ = event_service_pb2.StreamEventsRequest()
        messages = client.execute_server_stream(request=request_, method=METHODS["StreamEvents"])
        assert (await anext(messages)).resume_token
        stopping = asyncio.create_task(service.stop())
        with pytest.raises(ConnectError) as caught:
            await _drained(messages)
        assert (caught.value.code, _reason(caught.value)) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping


async def test_a_stream_ends_when_its_key_is_revoked(guarded: Harness) -> None:
    [(_, secret)] = new_caller(guarded, "web", scopes=("events.read",))
    async with connected(guarded, "json", ProtocolType.CONNECT) as client:
        messages = client.execute_server_stream(
            request=event_service_pb2.StreamEventsRequest(),
            method=METHODS["StreamEvents"],
            headers={"x-api-key": secret},
        )
        assert (await anext(messages)).resume_token
        guarded.sql("UPDATE holdsvc.api_key SET revoke_time = now()")
        with pytest.raises(ConnectError) as caught:
            await _drained(messages)
        assert (caught.value.code, _reason(caught.value)) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")


async def _drained(messages: AsyncIterator[Any]) -> None:
    async for _ in messages:
        pass


class EventSource:
    """curl as a reader of server-sent events."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.last_id = ""

    async def message(self) -> Any:
        """The next message with data, as JSON."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while True:
                line = (await self._process.stdout.readline()).decode()
                assert line, "the stream has ended"
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    return json.loads(value)


@asynccontextmanager
async def listening(service: Harness, path: str, *arguments: str) -> AsyncIterator[EventSource]:
    """Opens a stream with curl."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", *arguments, f"http://{service.http_address}{path}", stdout=asyncio.subprocess.PIPE
    )
    try:
        yield EventSource(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_items_are_watched_as_server_sent_events(service: Harness) -> None:
    await service.create_item("seat", 5)
    await service.create_item("other", 5)
    async with listening(service, "/watch?sku=seat&min_interval=0.05s") as stream:
        assert [item["remaining"] for item in (await stream.message())["items"]] == ["5"]
        assert (await stream.message())["snapshotComplete"]
        await service.reserve({"other": 1})
        await service.reserve({"seat": 2})
        remaining = ""
        while remaining != "3":
            # A state that is known may be told again.
            [changed] = (await stream.message())["items"]
            assert changed["sku"] == "seat"
            remaining = changed["remaining"]
    await until(lambda: service.cell.streams.watch.watchers == 0)


async def test_an_event_source_goes_on_where_it_was(service: Harness) -> None:
    await service.create_item("seat", 9)
    async with listening(service, "/events?from_oldest=true") as stream:
        [created] = (await stream.message())["events"]
        assert created["type"] == "EVENT_TYPE_ITEM_CREATED"
    missed = [(await service.reserve({"seat": 1})).reservation_id for _ in range(3)]
    found: list[str] = []
    header = f"Last-Event-ID: {stream.last_id}"
    async with listening(service, "/events?from_oldest=true&types=RESERVED", "-H", header) as stream:
        while len(found) < 3:
            found += [event["reservation"]["reservationId"] for event in (await stream.message())["events"]]
    assert found == missed


async def test_what_no_stream_can_begin_with_is_an_http_status(service: Harness) -> None:
    for path in ("/watch?suk=seat", "/watch?pool=web", "/events?types=NOTHING", "/events?resume_token=nonsense"):
        reply = await request(service, path)
        assert (reply.status, reply.json["code"]) == (400, "invalid_argument"), path
    assert (await request(service, "/events", {})).status in (404, 405)
    for path in ("/watch", "/events"):
        reply = await request(service, path, method="HEAD")
        assert (reply.status, reply.headers["allow"]) == (405, "GET"), path


async def test_heartbeats_keep_a_quiet_stream_open(start_service: StartService) -> None:
    service = await start_service(http_listen="127.0.0.1:0", heartbeat_interval="50ms")
    async with listening(service, "/watch") as stream:
        assert (await stream.message())["snapshotComplete"]
        assert stream._process.stdout is not None
        assert b": heartbeat\n" in [await stream._process.stdout.readline() for _ in range(3)]


async def test_a_stream_that_is_old_ends_with_a_status(start_service: StartService) -> None:
    service = await start_service(http_listen="127.0.0.1:0", connection_age="100ms", connection_age_grace="200ms")
    async with connected(service, "json", ProtocolType.CONNECT) as client:
        request_ = event_service_pb2.StreamEventsRequest()
        messages = client.execute_server_stream(request=request_, method=METHODS["StreamEvents"])
        assert (await anext(messages)).resume_token
        with pytest.raises(ConnectError) as caught:
            await _drained(messages)
        assert caught.value.code == Code.UNAVAILABLE
        messages = client.execute_server_stream(request=request_, method=METHODS["StreamEvents"], timeout_ms=50)
        with pytest.raises(ConnectError) as caught:
            await _drained(messages)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
