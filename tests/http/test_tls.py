"""HTTP over TLS: the files of gRPC's port, their renewal, and callers' certificates."""

import asyncio
import http.client
import socket
import ssl
from pathlib import Path

import pytest

from holdsvc.http import server
from tests.support.certificates import Authority, Pair, shown_name
from tests.support.harness import Harness, StartService
from tests.support.http import Connect
from tests.support.polling import until

AUTHORITY = Authority("authority of the service")
CALLERS = Authority("authority of its callers")
OTHERS = Authority("authority of others")


def _status(service: Harness, folder: Path | None = None, client: Pair | None = None) -> int:
    context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    if client is not None and folder is not None:
        context.load_cert_chain(*client.write(folder, "client"))
    _, _, port = service.http_address.partition(":")
    connection = http.client.HTTPSConnection("localhost", int(port), timeout=30, context=context)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    finally:
        connection.close()


async def _start(start_service: StartService, folder: Path, **settings: object) -> Harness:
    certificate, key = AUTHORITY.issue("first").write(folder)
    return await start_service(http_listen="127.0.0.1:0", auth="api-key", tls_cert=certificate, tls_key=key, **settings)


async def test_it_speaks_tls_and_takes_up_renewed_files(start_service: StartService, tmp_path: Path) -> None:
    service = await _start(start_service, tmp_path)
    assert await asyncio.to_thread(_status, service) == 200
    assert await asyncio.to_thread(shown_name, service.http_address, AUTHORITY) == "first"
    AUTHORITY.issue("second").write(tmp_path)
    assert await asyncio.to_thread(shown_name, service.http_address, AUTHORITY) == "second"
    assert await asyncio.to_thread(shown_name, service.address, AUTHORITY) == "second"
    (tmp_path / "server.key").write_bytes(OTHERS.issue("other").key)
    assert await asyncio.to_thread(shown_name, service.http_address, AUTHORITY) == "second"


async def test_callers_show_a_certificate_where_one_is_asked_for(start_service: StartService, tmp_path: Path) -> None:
    authorities = tmp_path / "callers.pem"
    authorities.write_bytes(CALLERS.certificate)
    service = await _start(start_service, tmp_path, tls_client_ca=authorities)
    ours, other = CALLERS.issue("partner"), OTHERS.issue("partner")
    assert await asyncio.to_thread(_status, service, tmp_path, ours) == 200
    for client in (other, None):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            await asyncio.to_thread(_status, service, tmp_path, client)
    # Another authority from now on: who was trusted is not any more.
    authorities.write_bytes(OTHERS.certificate)
    assert await asyncio.to_thread(_status, service, tmp_path, other) == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        await asyncio.to_thread(_status, service, tmp_path, ours)


async def test_who_does_not_shake_hands_is_let_go(
    start_service: StartService, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdsvc.http.server.HANDSHAKE_MAX_S", 0.3)
    service = await _start(start_service, tmp_path)
    silent, plain = await connect(service), await connect(service)
    plain.send(b"GET / HTTP/1.1\r\n\r\n")
    assert b"HTTP" not in await plain.rest()
    assert await silent.rest() == b""
    assert await asyncio.to_thread(_status, service) == 200


async def test_the_oldest_handshakes_make_room_for_the_next_however_many_come_at_once(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await _start(start_service, tmp_path)
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 8)
    host, _, port = service.http_address.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        # Long before a handshake takes too long.
        await until(lambda: sum(map(_is_closed, silent)) >= 92, timeout_s=5)
        assert await asyncio.to_thread(_status, service) == 200
    finally:
        for each in silent:
            each.close()


def _is_closed(wire: socket.socket) -> bool:
    wire.setblocking(False)
    try:
        return wire.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
