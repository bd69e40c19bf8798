"""Rpcs over HTTP: the same calls as over gRPC, by the same identity, rules and refusals."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import urlencode

import grpc
import psycopg
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from holdsvc.api.json_text import REQUEST_BYTES_MAX
from holdsvc.api.rpcs import RPCS, Effect
from holdsvc.api.services import SERVICES
from holdsvc.http.connect import HTTP_STATUS
from holdsvc.telemetry import metrics
from inventoryhold.v1 import inventory_service_pb2, item_pb2, reservation_service_pb2
from tests.support.harness import Harness, refusal_of
from tests.support.http import GET_ITEM, JSON, PROTO, RESERVE, Wire, post, request
from tests.support.partners import new_caller
from tests.support.polling import until

RESERVATIONS = "/inventoryhold.v1.ReservationService"

UNARY = [
    (f"/{service.full_name}/{method.name}", method)
    for service in SERVICES
    for method in service.methods
    if not method.server_streaming
]


async def test_a_hold_made_with_json_is_the_one_that_grpc_reads(service: Harness) -> None:
    await service.create_item("seat", 5)
    wanted = {"requestId": "r1", "lines": [{"sku": "seat", "quantity": 2}], "metadata": {"a": "ä"}, "ttl": "600s"}
    reply = await request(service, RESERVE, wanted)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    held = await service.get(reply.json["reservation"]["reservationId"])
    assert json_format.ParseDict(reply.json["reservation"], type(held)()) == held
    assert (held.lines[0].quantity, held.metadata["a"]) == (2, "ä")
    again = await request(service, RESERVE, wanted)
    assert again.json["replayed"]
    assert again.json["reservation"] == reply.json["reservation"]


async def test_an_empty_request_of_every_rpc_is_answered_as_over_grpc(guarded: Harness) -> None:
    key = new_caller(guarded, "web")
    for path, method in UNARY:
        answer_class = GetMessageClass(method.output_type)
        call: Any = guarded.channel.unary_unary(path, response_deserializer=answer_class.FromString)
        try:
            expected, code, reason = await call(b"", metadata=key), "OK", ""
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            expected, code, reason = None, refusal.code.name, refusal.reason
        as_json = await request(guarded, path, {}, dict(key))
        binary = await request(guarded, path, b"", {**PROTO, **dict(key)})
        if code == "OK":
            assert (as_json.status, binary.status) == (200, 200), path
            assert json_format.Parse(as_json.body, answer_class()) == expected
            assert answer_class.FromString(binary.body) == expected
        else:
            for reply in (as_json, binary):
                assert (reply.status, reply.json["code"], reply.reason) == (HTTP_STATUS[code], code.lower(), reason)


async def test_a_refusal_has_its_details_in_binary_form_and_readable(service: Harness) -> None:
    await service.create_item("seat", 1)
    reply = await request(service, RESERVE, {"lines": [{"sku": "seat", "quantity": 3}]})
    assert (reply.status, reply.json["code"], reply.reason) == (400, "failed_precondition", "CAPACITY_EXCEEDED")
    [shortfall] = [each for each in reply.json["details"] if each["type"] == "inventoryhold.v1.CapacityShortfall"]
    assert shortfall["debug"]["lines"] == [{"sku": "seat", "requested": "3", "available": "1", "shortfall": "2"}]
    assert base64.b64decode(shortfall["value"] + "==")


async def test_a_misspelt_field_is_refused_and_takes_nothing(service: Harness) -> None:
    await service.create_item("seat", 5)
    for wanted, field in (
        ({"requestid": "r1", "lines": [{"sku": "seat", "quantity": 1}]}, "requestid"),
        ({"lines": [{"sku": "seat", "quantty": 1}]}, "lines[0].quantty"),
    ):
        reply = await request(service, RESERVE, wanted)
        assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
        [bad] = [each for each in reply.json["details"] if each["type"] == "google.rpc.BadRequest"]
        assert [each["field"] for each in bad["debug"]["fieldViolations"]] == [field]
    assert (await service.item("seat")).held == 0


NO_REQUESTS = [
    b"",
    b"[]",
    b"null",
    b"{",
    b"\xff",
    b"[" * 100_000,
    b'{"requestId":"a","requestId":"b","lines":[{"sku":"seat","quantity":1}]}',
    b'{"requestId":"a","request_id":"b","lines":[{"sku":"seat","quantity":1}]}',
    b'{"lines":[null]}',
    b'{"lines":[7]}',
    b'{"lines":[{"sku":"seat","quantity":1e400}]}',
    b'{"lines":[{"sku":"seat","quantity":' + b"1" * 5000 + b"}]}",
    b'{"lines":[{"sku":"\\ud800","quantity":1}]}',
    b'{"\\ud800":1}',
    b'{"lines":"seat"}',
    b'{"ttl":"' + b"9" * 1000 + b's"}',
    b'{"metadata":[]}',
    b'{"lines":[' + b"{}," * 80_000 + b"{}]}",
]


async def test_what_is_no_request_is_refused_as_an_invalid_field(service: Harness) -> None:
    for body in NO_REQUESTS:
        reply = await request(service, RESERVE, body, JSON)
        found = (reply.status, reply.json["code"], reply.reason)
        assert found == (400, "invalid_argument", "INVALID_FIELD"), body[:100]


async def test_one_bad_entry_of_a_batch_is_refused_by_itself(service: Harness) -> None:
    await service.create_item("seat", 500)
    good = {"lines": [{"sku": "seat", "quantity": 1}]}
    entries = [good, {"lines": [{"sku": "seat", "quantity": 1}] * 101}, {"lines": []}, *[good] * 60]
    reply = await request(service, f"{RESERVATIONS}/BatchReserve", {"requests": entries})
    results = reply.json["results"]
    assert len(results) == 63
    assert ["reservation" in each for each in results] == [True, False, False, *[True] * 60]
    [info, *_] = results[1]["error"]["details"]
    assert info["reason"] == "INVALID_FIELD"
    assert (await service.item("seat")).held == 61


async def test_more_than_json_may_be_is_taken_in_binary_form(service: Harness) -> None:
    await service.create_item("seat", 5000)
    batch = reservation_service_pb2.BatchReserveRequest()
    for number in range(1000):
        entry = batch.requests.add(reference=f"cart-{number}", metadata={"note": "x" * 300})
        entry.lines.add(sku="seat", quantity=1)
    path = f"{RESERVATIONS}/BatchReserve"
    body = json_format.MessageToJson(batch).encode()
    assert len(body) > REQUEST_BYTES_MAX
    reply = await request(service, path, body, JSON)
    assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
    assert "send a larger one as application/proto" in reply.body.decode()
    assert (await service.item("seat")).held == 0
    reply = await request(service, path, batch.SerializeToString(), PROTO)
    answer = reservation_service_pb2.BatchReserveResponse.FromString(reply.body)
    assert len(answer.results) == 1000
    assert (await service.item("seat")).held == 1000


@pytest.mark.parametrize("headers", [JSON, PROTO])
async def test_a_gzip_request_is_read_and_a_bomb_is_not(service: Harness, headers: dict[str, str]) -> None:
    await service.create_item("seat", 5)
    message = inventory_service_pb2.GetItemRequest(sku="seat")
    plain = json_format.MessageToJson(message).encode() if headers is JSON else message.SerializeToString()
    packed = {**headers, "content-encoding": "gzip"}
    reply = await request(service, GET_ITEM, gzip.compress(plain), packed)
    assert reply.status == 200
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    reply = await request(service, GET_ITEM, bomb, packed)
    assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
    reply = await request(service, GET_ITEM, plain, {**headers, "content-encoding": "br"})
    assert (reply.status, reply.json["code"]) == (501, "unimplemented")


async def test_reads_are_answered_by_get_and_changes_are_not(service: Harness) -> None:
    await service.create_item("seat", 5)
    wanted = '{"sku":"seat"}'
    for query in (
        {"message": wanted},
        {"connect": "v1", "encoding": "json", "message": wanted},
        {"encoding": "json", "base64": "1", "message": base64.urlsafe_b64encode(wanted.encode()).decode().rstrip("=")},
    ):
        reply = await request(service, f"{GET_ITEM}?{urlencode(query)}")
        assert (reply.status, reply.json["item"]["capacity"]) == (200, "5"), query
    binary = base64.urlsafe_b64encode(inventory_service_pb2.GetItemRequest(sku="seat").SerializeToString()).decode()
    reply = await request(service, f"{GET_ITEM}?{urlencode({'encoding': 'proto', 'base64': '1', 'message': binary})}")
    assert inventory_service_pb2.GetItemResponse.FromString(reply.body).item.capacity == 5
    reply = await request(service, f"{GET_ITEM}?message=%7B%22skuu%22:1%7D")
    assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
    for path, rpc in RPCS.items():
        if rpc.effect not in (Effect.READ, Effect.STREAM):
            reply = await request(service, f"{path}?message=%7B%7D")
            assert (reply.status, reply.headers["allow"]) == (405, "POST"), path


async def test_the_callers_deadline_ends_a_call_and_a_default_one_too(service: Harness) -> None:
    await service.create_item("seat", 5)
    with psycopg.connect(service.owner_dsn) as connection:
        connection.execute("SELECT FROM holdsvc.item FOR UPDATE")
        wanted = {"lines": [{"sku": "seat", "quantity": 1}]}
        reply = await request(service, RESERVE, wanted, {"connect-timeout-ms": "100"})
    assert (reply.status, reply.json["code"]) == (504, "deadline_exceeded")
    for bad in ("-1", "1.5", "x", "1" * 11):
        reply = await request(service, RESERVE, wanted, {"connect-timeout-ms": bad})
        assert (reply.status, reply.json["code"]) == (400, "invalid_argument")


async def test_a_caller_that_leaves_ends_its_read(service: Harness) -> None:
    await service.create_item("seat", 5)
    with psycopg.connect(service.owner_dsn) as connection:
        connection.execute("LOCK TABLE holdsvc.item IN ACCESS EXCLUSIVE MODE")
        wire = await Wire.open(service)
        wire.send(post(GET_ITEM, b'{"sku":"seat"}'))
        await until(lambda: _waiting(service) == 1)
        await wire.close()
        await until(lambda: _waiting(service) == 0)


def _waiting(service: Harness) -> int:
    [(count,)] = service.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return int(count)


async def test_who_may_not_call_is_refused_as_over_grpc(guarded: Harness) -> None:
    reader = dict(new_caller(guarded, "reader", scopes=("inventory.read",)))
    wanted = {"lines": [{"sku": "seat", "quantity": 1}]}
    for headers, status, reason in (
        ({}, 401, "UNAUTHENTICATED"),
        ({"x-api-key": "holdsvc_0"}, 401, "UNAUTHENTICATED"),
        (reader, 403, "PERMISSION_DENIED"),
        ({"authorization": f"Bearer {reader['x-api-key']}"}, 403, "PERMISSION_DENIED"),
    ):
        reply = await request(guarded, RESERVE, wanted, headers)
        assert (reply.status, reply.reason) == (status, reason)
    assert "www-authenticate" in (await request(guarded, RESERVE, wanted)).headers


async def test_a_limit_says_when_to_come_again(start_service: Any) -> None:
    service = await start_service(http_listen="127.0.0.1:0", client_calls_per_second=0.5)
    await request(service, GET_ITEM, {"sku": "seat"})
    reply = await request(service, GET_ITEM, {"sku": "seat"})
    assert (reply.status, reply.reason) == (429, "RATE_LIMITED")
    assert 1 <= int(reply.headers["retry-after"]) <= 2
    [delay] = [each["debug"] for each in reply.json["details"] if each["type"] == "google.rpc.RetryInfo"]
    assert delay["retryDelay"].endswith("s")


async def test_what_is_no_rpc_is_named_as_such(service: Harness) -> None:
    reply = await request(service, "/inventoryhold.v1.ReservationService/Nothing", {})
    assert (reply.status, reply.json["code"]) == (404, "unimplemented")
    reply = await request(service, RESERVE, b"{}", {"content-type": "text/plain"})
    assert reply.status == 415
    assert "application/json" in reply.headers["accept-post"]
    reply = await request(service, RESERVE, {}, {"connect-protocol-version": "2"})
    assert (reply.status, reply.json["code"]) == (400, "invalid_argument")


async def test_calls_count_in_the_metrics_as_those_over_grpc_do(service: Harness) -> None:
    counted = metrics.CALLS_HANDLED.labels("unary", "inventoryhold.v1.InventoryService", "GetItem", "NotFound")._value
    before = counted.get()
    assert (await request(service, GET_ITEM, {"sku": "nothing"})).reason == "ITEM_NOT_FOUND"
    assert counted.get() == before + 1


async def test_large_pages_come_whole_and_as_over_grpc(service: Harness) -> None:
    items = [item_pb2.Item(sku=f"seat-{number:04}", capacity=number + 1) for number in range(300)]
    await service.inventory.BatchCreateItems(inventory_service_pb2.BatchCreateItemsRequest(items=items))
    reply = await request(service, "/inventoryhold.v1.InventoryService/ListItems", {"pageSize": 250})
    expected = await service.inventory.ListItems(inventory_service_pb2.ListItemsRequest(page_size=250))
    assert json_format.Parse(reply.body, inventory_service_pb2.ListItemsResponse()) == expected
    assert json.loads(reply.body)["nextPageToken"]
