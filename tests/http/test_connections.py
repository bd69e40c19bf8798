"""What a connection may send and hold, in what order it is answered, and how it ends."""

import asyncio
import fcntl
import json
import os
import socket
import sys
import termios

import pytest

from holdsvc.api import bodies
from holdsvc.http import connection, server
from holdsvc.telemetry import metrics
from tests.support.harness import Harness, StartService
from tests.support.http import GET_ITEM, RESERVE, Connect, Reply, post, request
from tests.support.partners import new_caller
from tests.support.polling import until

MISSING = post(GET_ITEM, b'{"sku":"nothing"}')


def _connections(service: Harness) -> int:
    assert service.service._http is not None
    return service.service._http.connections


async def test_requests_on_one_connection_are_answered_in_their_order(service: Harness, connect: Connect) -> None:
    for number in range(3):
        await service.create_item(f"seat-{number}", number + 1)
    wire = await connect(service)
    wanted = [f"seat-{number}" for number in range(3)] * 2
    # All at once, then byte by byte.
    wire.send(b"".join(post(GET_ITEM, json.dumps({"sku": sku}).encode()) for sku in wanted))
    assert [(await wire.reply()).json["item"]["sku"] for _ in wanted] == wanted
    for byte in post(GET_ITEM, b'{"sku":"seat-1"}'):
        wire.send(bytes((byte,)))
        await wire.writer.drain()
    assert (await wire.reply()).json["item"]["capacity"] == "2"


async def test_a_head_that_comes_with_a_large_body_before_it_is_read(service: Harness, connect: Connect) -> None:
    await service.create_item("seat", 5)
    wire = await connect(service)
    large = post(GET_ITEM, b'{"sku":"seat"}'.ljust(20_000))
    wire.send(large + large[:30])
    assert (await wire.reply()).status == 200
    wire.send(large[30:])
    assert (await wire.reply()).status == 200


async def test_a_body_in_chunks_and_one_that_waits_to_be_asked_for_are_read(service: Harness, connect: Connect) -> None:
    await service.create_item("seat", 5)
    head = f"POST {GET_ITEM} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    wire = await connect(service)
    wire.send(head + b'transfer-encoding: chunked\r\n\r\n6\r\n{"sku"\r\n8\r\n:"seat"}\r\n0\r\n\r\n')
    assert (await wire.reply()).json["item"]["sku"] == "seat"
    wire.send(head + b"expect: 100-continue\r\ncontent-length: 14\r\n\r\n")
    assert (await wire.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(b'{"sku":"seat"}')
    assert (await wire.reply()).json["item"]["sku"] == "seat"


async def test_an_offer_of_another_protocol_is_ignored(service: Harness, connect: Connect) -> None:
    for number in range(4):
        await service.create_item(f"seat-{number}", number + 1)
    wire = await connect(service)
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
    first, second, third, fourth = (f'{{"sku":"seat-{number}"}}'.encode() for number in range(4))
    # A body with the head, one after it, one in chunks, and a request that follows at once.
    wire.send(post(GET_ITEM, first, *offer))
    assert (await wire.reply()).json["item"]["capacity"] == "1"
    wire.send(post(GET_ITEM, second, *offer)[: -len(second)])
    await wire.writer.drain()
    wire.send(second)
    assert (await wire.reply()).json["item"]["capacity"] == "2"
    chunks = post(GET_ITEM, b"", *offer).replace(b"content-length: 0", b"transfer-encoding: chunked")
    wire.send(chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(third), third) + post(GET_ITEM, fourth))
    assert [(await wire.reply()).json["item"]["capacity"] for _ in range(2)] == ["3", "4"]
    wire.send(f"GET {GET_ITEM}?message=%7B%22sku%22:%22seat-0%22%7D HTTP/1.1\r\nhost: localhost\r\n".encode())
    wire.send("\r\n".join((*offer, "", "")).encode())
    assert (await wire.reply()).json["item"]["capacity"] == "1"
    wire.send(b"CONNECT elsewhere.example.com:443 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await wire.reply()).headers["connection"] == "close"


async def test_who_has_no_key_is_answered_before_the_body_is_read(guarded: Harness, connect: Connect) -> None:
    for line in ("expect: 100-continue", "x-nothing: 1"):
        wire = await connect(guarded)
        request_line = post(RESERVE, b"", line).replace(b"content-length: 0", b"content-length: 100000000")
        wire.send(request_line + b"x" * 1000)
        reply = await wire.reply()
        assert (reply.status, reply.reason, reply.headers["connection"]) == (401, "UNAUTHENTICATED", "close")


async def test_a_body_that_is_too_large_is_refused_by_its_head(guarded: Harness, connect: Connect) -> None:
    [(_, secret)] = new_caller(guarded, "web")
    wire = await connect(guarded)
    head = post(RESERVE, b"", f"x-api-key: {secret}").replace(b"content-length: 0", b"content-length: 262145")
    wire.send(head)
    reply = await wire.reply()
    assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
    chunked = post(RESERVE, b"", f"x-api-key: {secret}").replace(b"content-length: 0", b"transfer-encoding: chunked")
    wire = await connect(guarded)
    wire.send(chunked + b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(5)))
    reply = await wire.reply()
    assert (reply.status, reply.reason) == (400, "INVALID_FIELD")
    # The peer is still sending: closed at once, the connection would be reset and the answer lost.
    wire.send(b"10000\r\n" + b" " * 0x10000)


HEADS = {
    "a long target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n", 431),
    "a header that never ends": (b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000, 431),
    "long headers": (b"GET / HTTP/1.1\r\n" + (b"x: " + b"a" * 4000 + b"\r\n") * 5, 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"x:\r\n" * 110, 431),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "two lengths": (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    "a length and chunks": (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: example.org\r\n\r\n", 400),
    "chunks of gzip": (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


async def test_what_is_no_head_of_a_request_is_refused_and_ends_the_connection(
    service: Harness, connect: Connect
) -> None:
    for name, (head, status) in HEADS.items():
        wire = await connect(service)
        # In two parts, so that the bound does not depend on how the bytes arrive.
        wire.send(head[:100])
        await wire.writer.drain()
        wire.send(head[100:])
        reply = await wire.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close"), name
        wire.writer.write_eof()
        assert await wire.rest() == b"", name


async def test_a_head_is_waited_for_only_so_long(
    service: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    silent, slow, blank = [await connect(service) for _ in range(3)]
    slow.send(b"GET / HTTP/1.1\r\nx: ")
    async with asyncio.timeout(10):
        for _ in range(6):
            # Each byte arrives in time; the head does not.
            slow.send(b"a")
            blank.send(b"\r\n")
            await asyncio.sleep(0.1)
        assert (await slow.reply()).status == 408
        assert await silent.rest() == await blank.rest() == b""
    await until(lambda: _connections(service) == 0)


async def test_open_connections_are_counted_in_the_metrics(service: Harness, connect: Connect) -> None:
    wires = [await connect(service) for _ in range(3)]
    await until(lambda: metrics.HTTP_CONNECTIONS._value.get() == 3)
    for wire in wires:
        await wire.close()
    await until(lambda: metrics.HTTP_CONNECTIONS._value.get() == 0)


async def test_an_idle_connection_is_closed_after_a_while(
    service: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.5)
    wire = await connect(service)
    wire.send(MISSING)
    assert (await wire.reply()).status == 404
    assert await wire.rest() == b""


async def test_a_connection_that_is_old_ends_with_its_next_answer(
    start_service: StartService, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(http_listen="127.0.0.1:0", connection_age="1h")
    loop = asyncio.get_running_loop()
    wire, now = await connect(service), loop.time
    for hours, kept in ((0.0, True), (0.85, True), (1.15, False)):
        monkeypatch.setattr(loop, "time", lambda hours=hours: now() + hours * 3600)
        wire.send(MISSING)
        reply = await wire.reply()
        assert ("connection" not in reply.headers) == kept
        monkeypatch.setattr(loop, "time", now)
    assert await wire.rest() == b""


async def test_the_longest_idle_connection_makes_room_for_the_next(
    service: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 5)
    streams = [await connect(service) for _ in range(2)]
    for stream in streams:
        stream.send(b"GET /watch HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await stream.reader.readuntil(b"snapshotComplete")
    idle = [await connect(service) for _ in range(3)]
    await until(lambda: _connections(service) == 5)
    last = await connect(service)
    last.send(MISSING)
    assert (await last.reply()).status == 404
    assert await idle[0].rest() == b""
    for wire in idle[1:]:
        wire.send(MISSING)
        assert (await wire.reply()).status == 404
    await service.create_item("seat", 1)
    for stream in streams:
        await stream.reader.readuntil(b'"sku":"seat"')


async def test_a_reader_that_does_not_read_is_cut_off_and_holds_up_nobody(
    service: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.5)
    deaf = await connect(service)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    page = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    # Several MB of answers to one connection: more than the kernel takes.
    asked = 0
    async with asyncio.timeout(30):
        while _connections(service) or not asked:
            deaf.send(page * 20)
            asked += 20
            assert (await request(service, GET_ITEM, {"sku": "nothing"})).status == 404
            await asyncio.sleep(0.05)
    assert asked < 20_000


async def test_answers_that_are_not_read_take_little_memory(service: Harness, connect: Connect) -> None:
    deaf = await connect(service)
    deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
    assert service.service._http is not None
    [held] = service.service._http._connections
    page = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    while held._drain is None:
        # What the peer's own kernel takes is the peer's.
        deaf.send(page * 15)
        assert (await request(service, "/livez")).status == 200
    assert held._transport is not None
    kept = fcntl.ioctl(held._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    assert int.from_bytes(kept, sys.byteorder) <= 4 * server.SEND_BUFFER_BYTES


async def test_a_slow_body_is_given_up(
    start_service: StartService, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    guarded = await start_service(http_listen="127.0.0.1:0", auth="api-key")
    [(_, secret)] = new_caller(guarded, "web")
    wire = await connect(guarded)
    wire.send(post(RESERVE, b"", f"x-api-key: {secret}").replace(b"content-length: 0", b"content-length: 100"))
    reply = await wire.reply()
    assert (reply.status, reply.reason) == (429, "OVERLOADED")


async def test_garbage_ends_its_connection_and_nothing_else(service: Harness, connect: Connect) -> None:
    await service.create_item("seat", 1)
    good = post(GET_ITEM, b'{"sku":"seat"}')

    async def throw(data: bytes) -> bytes:
        wire = await connect(service)
        wire.send(data)
        wire.writer.write_eof()
        return await wire.rest()

    for length in (1, 10, 1000, 100_000):
        await asyncio.gather(*(throw(os.urandom(length)) for _ in range(5)))
    for at in range(0, len(good), 7):
        broken = good[:at] + bytes((good[at] ^ 0x55,)) + good[at + 1 :]
        await throw(broken)
    assert (await request(service, GET_ITEM, {"sku": "seat"})).json["item"]["capacity"] == "1"
    await until(lambda: _connections(service) == 0)


async def test_a_stop_resets_no_connection_that_is_in_use(service: Harness, connect: Connect) -> None:
    await service.create_item("seat", 1)
    answers: list[Reply] = []

    async def call() -> int:
        """Calls until an answer says that it is the last; returns how many were answered."""
        wire, count = await connect(service), 0
        while True:
            wire.send(post(GET_ITEM, b'{"sku":"seat"}'))
            reply = await wire.reply()
            answers.append(reply)
            count += 1
            if reply.headers.get("connection") == "close":
                assert await wire.rest() == b""
                return count

    calls = [asyncio.create_task(call()) for _ in range(40)]
    await until(lambda: len(answers) > 400)
    stopping = asyncio.create_task(service.stop())
    assert all(count > 0 for count in await asyncio.gather(*calls))
    await stopping
    assert {reply.status for reply in answers} <= {200, 503}
    assert {reply.reason for reply in answers if reply.status == 503} <= {"SHUTTING_DOWN"}


async def test_a_connection_that_the_kernel_has_made_is_served_by_a_service_that_stops(service: Harness) -> None:
    host, _, port = service.http_address.partition(":")
    assert service.service._http is not None
    # Nothing is awaited in between: the service has not accepted it.
    with socket.create_connection((host, int(port))) as waiting:
        service.service._http.drain()
        waiting.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(waiting, MISSING)
        async with asyncio.timeout(5):
            head = await loop.sock_recv(waiting, 4096)
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in head


async def test_a_stop_does_not_wait_for_who_is_silent(start_service: StartService, connect: Connect) -> None:
    service = await start_service(http_listen="127.0.0.1:0", drain_grace="500ms")
    idle = await connect(service)
    half = await connect(service)
    half.send(MISSING[:-5])
    await until(lambda: _connections(service) == 2)
    async with asyncio.timeout(5):
        await service.stop()
    assert await idle.rest() == b""
    await half.rest()


async def test_health_needs_no_key_and_follows_the_stop(guarded: Harness) -> None:
    for path in ("/livez", "/readyz"):
        reply = await request(guarded, path)
        assert (reply.status, reply.body) == (200, b"ok\n")
    assert guarded.service._services is not None
    guarded.service._services.health.stop()
    assert [(await request(guarded, path)).status for path in ("/livez", "/readyz")] == [200, 503]
    reply = await request(guarded, "/readyz", method="HEAD")
    assert (reply.status, reply.body) == (503, b"")
