"""`holdsvc serve` with HTTP, as processes: one port for all workers, a stop under load, callers without a key."""

import http.client
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.certificates import Authority, shown_name
from tests.support.http import GET_ITEM, RESERVE, post, send
from tests.support.polling import wait_until
from tests.support.program import Client, Program, command

CALLERS = 16
MEMORY_MAX = 100 * 1024 * 1024


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path_factory.mktemp("http") / "data"))


@contextmanager
def running(data_dir: Path, workers: int = 1, **settings: str) -> Iterator[tuple[Program, str]]:
    """A service, and its address for HTTP."""
    values: dict[str, Any] = {"http_listen": "127.0.0.1:0", "workers": str(workers), "drain_grace": "5s", **settings}
    with Program(data_dir, **values) as program:
        port = program.wait_for("http.serving")["port"]
        yield program.serving(workers), f"127.0.0.1:{port}"


def call(address: str, path: str, message: object, **headers: str) -> tuple[int, dict[str, object]]:
    reply = send(address, path, json.dumps(message).encode(), {"content-type": "application/json", **headers})
    return reply.status, reply.json


def test_workers_share_the_port_and_another_service_may_not(data_dir: Path, tmp_path: Path) -> None:
    with running(data_dir, workers=2) as (program, address):
        Client(program).create_item("shared", 1000)
        pids = set(program.children("spawn_main"))
        assert len(pids) == 2
        port = int(address.rpartition(":")[2])
        listening = {
            pid
            for pid in pids
            for each in psutil.Process(pid).net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port
        }
        assert listening == pids
        for _ in range(20):
            assert call(address, RESERVE, {"lines": [{"sku": "shared", "quantity": 1}]})[0] == 200
        with Program(tmp_path / "two", http_listen=address) as second:
            assert second.end() == 1
        assert f"HOLDSVC_HTTP_LISTEN: cannot listen on {address}" in second.output
        assert not (tmp_path / "two").exists()


def test_a_stop_under_load_resets_no_connection_and_loses_no_answer(data_dir: Path) -> None:
    with running(data_dir) as (program, address):
        Client(program).create_item("stopped", 1_000_000)
        begun = threading.Barrier(CALLERS + 1)

        def buy() -> int:
            """Reserves on one connection until it is told that an answer is the last."""
            connection = http.client.HTTPConnection(address, timeout=30)
            with closing(connection):
                body = json.dumps({"lines": [{"sku": "stopped", "quantity": 1}]})
                sold = count = 0
                while True:
                    connection.request("POST", RESERVE, body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    found = json.loads(answer.read())
                    sold += answer.status == 200
                    assert answer.status == 200 or found["code"] == "unavailable", found
                    count += 1
                    if count == 3:
                        begun.wait(30)
                    if answer.getheader("connection") == "close":
                        return sold

        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(buy) for _ in range(CALLERS)]
            begun.wait(30)
            program.terminate()
            sold = sum(each.result() for each in callers)
        assert program.end() == 0
    with running(data_dir) as (_, address):
        _, found = call(address, GET_ITEM, {"sku": "stopped"})
        assert found["item"]["held"] == str(sold)  # type: ignore[index]


def test_tls_is_that_of_grpc_and_a_signal_renews_it(data_dir: Path, tmp_path: Path) -> None:
    authority = Authority("authority of the service")
    certificate, key = authority.issue("first").write(tmp_path)
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    with running(data_dir, tls_cert=str(certificate), tls_key=str(key)) as (_, address):
        port = int(address.rpartition(":")[2])
        with closing(http.client.HTTPSConnection("localhost", port, timeout=30, context=context)) as connection:
            for _ in range(3):
                connection.request("POST", GET_ITEM, b'{"sku":"none"}', {"content-type": "application/json"})
                answer = connection.getresponse()
                assert (answer.status, json.loads(answer.read())["code"]) == (404, "not_found")
            assert shown_name(address, authority) == "first"
            authority.issue("second").write(tmp_path)
            assert shown_name(address, authority) == "second"
            # The connection goes on with what it began with.
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
        with socket.create_connection(("127.0.0.1", port), 30) as plain:
            plain.sendall(post(GET_ITEM, b"{}"))
            assert b"HTTP" not in _rest(plain)


def _rest(connection: socket.socket) -> bytes:
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


ATTACKS = {
    "idle connections": b"",
    "half heads": b"GET / HTTP/1.1\r\nx-nothing: ",
    "endless heads": b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 8000 + b"\r\n",
    "half bodies": post(RESERVE, b"", "x-api-key: none").replace(b"content-length: 0", b"content-length: 4000000"),
    "answers that are not read": b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10,
}


def test_callers_with_a_key_are_served_beside_floods_without_one(data_dir: Path) -> None:
    with running(data_dir, auth="api-key", log_calls_per_second="1") as (program, address):
        made = command("keys", "create", "--client", "web", "--scopes", "all", environment=program.environment)
        key = made.stdout.strip()
        call(
            address,
            "/inventoryhold.v1.InventoryService/CreateItem",
            {"item": {"sku": "kept", "capacity": 9}},
            **{"x-api-key": key},
        )
        [worker] = program.children("spawn_main")
        before = psutil.Process(worker).memory_info().rss
        host, _, port = address.partition(":")
        for name, data in ATTACKS.items():
            sockets = []
            for _ in range(400):
                attacker = socket.create_connection((host, int(port)), 10)
                attacker.setblocking(False)
                if data:
                    attacker.send(data)
                sockets.append(attacker)
            times = []
            for _ in range(10):
                start = time.monotonic()
                status, found = call(address, GET_ITEM, {"sku": "kept"}, **{"x-api-key": key})
                assert status == 200, (name, found)
                times.append(time.monotonic() - start)
            assert sorted(times)[5] < 1, name
            assert psutil.Process(worker).memory_info().rss - before < MEMORY_MAX, name
            for attacker in sockets:
                attacker.close()
        wait_until(lambda: len(psutil.Process(worker).net_connections("tcp")) < 60)
