"""What pages may do: origins, hosts, gRPC-Web as it lies on the wire, and the headers of files."""

import base64
import json

import pytest
from google.rpc import error_details_pb2, status_pb2

from holdsvc.http.envelopes import envelope
from holdsvc.settings import Settings, SettingsError
from inventoryhold.v1 import inventory_service_pb2
from tests.support.harness import Harness, StartService
from tests.support.http import GET_ITEM, JSON, RESERVE, WATCH, request
from tests.support.partners import new_caller

SHOP = "https://shop.example.com"
ELSEWHERE = "https://elsewhere.example.com"


async def test_without_keys_only_names_of_this_machine_are_served(service: Harness) -> None:
    await service.create_item("seat", 1)
    port = service.service.http_port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost", "LOCALHOST"):
        assert (await request(service, GET_ITEM, {"sku": "seat"}, {"host": host})).status == 200, host
    # A page of that name, whose name came to mean this machine.
    for host in (
        "elsewhere.example.com",
        f"elsewhere.example.com:{port}",
        "localhost.example.com",
        "10.0.0.1",
        "[",
        "",
    ):
        for path in (GET_ITEM, "/watch", "/openapi.json", "/livez"):
            body = {"sku": "seat"} if path == GET_ITEM else None
            reply = await request(service, path, body, {"host": host})
            assert (reply.status, reply.json["code"]) == (403, "permission_denied"), (host, path)


async def test_without_keys_pages_of_other_origins_are_refused(service: Harness) -> None:
    await service.create_item("seat", 1)
    own = f"http://{service.http_address}"
    assert (await request(service, GET_ITEM, {"sku": "seat"}, {"origin": own})).status == 200
    for origin in (ELSEWHERE, "null", "http://localhost:1"):
        reply = await request(service, GET_ITEM, {"sku": "seat"}, {"origin": origin})
        assert (reply.status, reply.json["code"]) == (403, "permission_denied")
        assert "access-control-allow-origin" not in reply.headers


async def test_only_origins_that_are_named_may_read_answers(start_service: StartService) -> None:
    service = await start_service(
        http_listen="127.0.0.1:0", auth="api-key", http_origins=f"{SHOP}, http://localhost:3000"
    )
    key = dict(new_caller(service, "page"))
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
    reply = await request(service, RESERVE, headers={"origin": SHOP, **asked}, method="OPTIONS")
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (204, SHOP)
    assert {"x-api-key", "content-type", "connect-protocol-version"} <= {
        name.strip() for name in reply.headers["access-control-allow-headers"].split(",")
    }
    reply = await request(service, GET_ITEM, {"sku": "none"}, {"origin": SHOP, **key})
    assert (reply.status, reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (404, SHOP, "origin")
    # A refusal is readable, too.
    assert (await request(service, GET_ITEM, {"sku": "none"}, {"origin": SHOP})).headers["access-control-allow-origin"]
    for headers in ({"origin": ELSEWHERE, **asked}, asked):
        reply = await request(service, RESERVE, headers=headers, method="OPTIONS")
        assert reply.status == 405
        assert "access-control-allow-origin" not in reply.headers
    reply = await request(service, GET_ITEM, {"sku": "none"}, {"origin": ELSEWHERE, **key})
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("origins", ["*", "shop.example.com", f"{SHOP}/", "https://Shop.example.com", "null"])
def test_what_is_no_origin_is_refused_at_the_start(origins: str) -> None:
    with pytest.raises(SettingsError, match="is not an origin"):
        Settings.load(http_origins=origins)


def _frames(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5 : 5 + length]))
        body = body[5 + length :]
    return found


def _trailers(frame: tuple[int, bytes]) -> dict[str, str]:
    flags, text = frame
    assert flags == 0x80
    return {name: value for name, _, value in (line.partition(": ") for line in text.decode().splitlines())}


@pytest.mark.parametrize("kind", ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"])
async def test_a_call_of_grpc_web_is_answered_by_a_message_and_trailers(service: Harness, kind: str) -> None:
    await service.create_item("seat", 5)
    text = "text" in kind

    async def call(path: str, message: bytes) -> list[tuple[int, bytes]]:
        body = envelope(message)
        headers = {"content-type": kind, "x-grpc-web": "1", "grpc-timeout": "10S"}
        reply = await request(service, path, base64.b64encode(body) if text else body, headers)
        assert (reply.status, reply.headers["content-type"]) == (200, kind)
        if not text:
            return _frames(reply.body)
        # Each frame is base64 of its own.
        parts = reply.body.replace(b"=A", b"=\nA").replace(b"=g", b"=\ng").split(b"\n")
        return _frames(b"".join(base64.b64decode(part) for part in parts))

    wanted = inventory_service_pb2.GetItemRequest(sku="seat").SerializeToString()
    (flags, message), last = await call(GET_ITEM, wanted)
    assert flags == 0
    assert inventory_service_pb2.GetItemResponse.FromString(message).item.capacity == 5
    assert _trailers(last) == {"grpc-status": "0"}
    [last] = await call(GET_ITEM, inventory_service_pb2.GetItemRequest(sku="none").SerializeToString())
    found = _trailers(last)
    assert found["grpc-status"] == "5"
    details = found["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "ITEM_NOT_FOUND"
    [last] = await call(GET_ITEM, b"\xff\xff")
    assert _trailers(last)["grpc-status"] == "3"


async def test_envelopes_that_lie_are_refused(service: Harness) -> None:
    stream = {"content-type": "application/connect+json"}
    good = envelope(b"{}")
    for body in (
        b"",
        good[:-1],
        good + b"x",
        good * 2,
        b"\x02" + good[1:],
        b"\x01" + good[1:],
        b"\x00\xff\xff\xff\xff{}",
    ):
        reply = await request(service, WATCH, body, stream)
        assert reply.status == 200
        [(flags, end)] = _frames(reply.body)
        assert (flags, json.loads(end)["error"]["code"]) == (2, "invalid_argument"), body


async def test_no_answer_is_taken_for_another_type_or_kept(service: Harness) -> None:
    await service.create_item("seat", 1)
    for reply in (
        await request(service, GET_ITEM, {"sku": "seat"}),
        await request(service, f"{GET_ITEM}?message=%7B%22sku%22:%22seat%22%7D"),
        await request(service, GET_ITEM, b"{", JSON),
    ):
        assert (reply.headers["cache-control"], reply.headers["x-content-type-options"]) == ("no-store", "nosniff")
    page = await request(service, "/openapi.json")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/../settings.py", "/%2e%2e/settings.py", "//etc/passwd", "/openapi.json/", "/site/index.html"):
        assert (await request(service, path)).status == 404, path
