"""The relay: every event as a CloudEvent, at least once, in order, whatever dies."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js import JetStreamContext

from holdsvc.relay.broker import RelayError
from holdsvc.relay.cloud_event import CloudEvent, escaped, item_key, waves
from holdsvc.relay.relay import open_broker
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.faults.proxy import Proxy
from tests.support.forks import Piped
from tests.support.harness import Harness
from tests.support.polling import success
from tests.support.ports import free_port

NATS_SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")
PAYLOAD_MAX = 4096

needs_nats = pytest.mark.skipif(
    NATS_SERVER is None, reason="there is no nats-server here (Debian, Ubuntu: apt-get install nats-server)"
)


class NatsServer:
    """A nats-server with JetStream on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = folder / "nats.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nmax_payload: {PAYLOAD_MAX}\njetstream {{ store_dir: "{folder}/js" }}\n'
        )

    def start(self) -> None:
        assert NATS_SERVER is not None
        self._process = subprocess.Popen([NATS_SERVER, "-c", self._config], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


@contextmanager
def relaying(service: Harness, to: str, *arguments: str, dsn: str = "", anew: bool = False) -> Iterator[Any]:
    """A relay process, killed at the end if it still runs. A fork ends otherwise than an interpreter `anew`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    environment["HOLDSVC_DSN"] = dsn or service.owner_dsn
    process: subprocess.Popen[bytes] | Piped
    if anew:
        whole = [sys.executable, "-m", "holdsvc", "relay", "--to", to, *arguments]
        process = subprocess.Popen(whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    else:
        process = Piped(["relay", "--to", to, *arguments], environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


@asynccontextmanager
async def messages(url: str, subject: str) -> AsyncIterator[Any]:
    """Reads a JetStream's messages from its begin, once the relay has made it."""
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        stream = client.jetstream()
        yield await _subscribe(stream, subject)
    finally:
        await client.close()


async def _subscribe(stream: JetStreamContext, subject: str) -> Any:
    return await success(lambda: stream.subscribe(subject, ordered_consumer=True), nats.errors.Error)


async def take(subscription: Any, count: int) -> list[Any]:
    """The next messages."""
    return [await subscription.next_msg(timeout=60) for _ in range(count)]


async def wait_for(port: int) -> None:
    _, writer = await success(lambda: asyncio.open_connection("127.0.0.1", port), OSError)
    writer.close()


@needs_nats
async def test_every_event_reaches_nats_once_and_in_order_although_the_relay_is_killed(
    service: Harness, nats_server: NatsServer
) -> None:
    await service.create_item("a", 10_000)
    reserve = pb.BatchReserveRequest(
        requests=[pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="a", quantity=1)])] * 300
    )
    # The broker comes after the relay: it waits.
    with relaying(service, nats_server.url) as relay:
        held = (await service.reservations.BatchReserve(reserve)).results
        nats_server.start()
        await wait_for(nats_server.port)
        async with messages(nats_server.url, "holdsvc.>") as subscription:
            told = await take(subscription, 100)
            relay.send_signal(signal.SIGKILL)
            for result in held:
                cancel = pb.CancelRequest(reservation_id=result.reservation.reservation_id)
                await service.reservations.Cancel(cancel)
            relay.wait()
            with relaying(service, nats_server.url):
                told += await take(subscription, 501)
            with pytest.raises(TimeoutError):
                await subscription.next_msg(timeout=0.2)
    events = [json.loads(message.data) for message in told]
    committed = {row[0] for row in service.sql("SELECT event_id FROM holdsvc.event")}
    assert sorted(int(event["data"]["event_id"]) for event in events) == sorted(committed)
    by_key: dict[str, list[str]] = {}
    for event in events:
        by_key.setdefault(event["subject"], []).append(event["type"])
    assert by_key.pop("a") == ["inventoryhold.v1.item_created"]
    assert len(by_key) == 300
    assert {tuple(types) for types in by_key.values()} == {("inventoryhold.v1.reserved", "inventoryhold.v1.cancelled")}
    first = told[0]
    assert first.subject == "holdsvc.default.item_created"
    assert first.headers["Nats-Msg-Id"] == events[0]["id"]
    assert first.headers["Content-Type"] == "application/cloudevents+json"
    assert {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"} <= set(events[0])
    assert events[0]["specversion"] == "1.0"
    assert events[0]["source"] == "/holdsvc/default"


@needs_nats
async def test_what_the_broker_refuses_for_good_is_a_dead_letter_and_the_rest_goes_on(
    service: Harness, nats_server: NatsServer
) -> None:
    nats_server.start()
    await wait_for(nats_server.port)
    await service.create_item("a", 10)
    large = await service.reserve({"a": 1}, metadata={f"k{number}": "x" * 500 for number in range(10)})
    await service.reserve({"a": 1})
    with relaying(service, nats_server.url):
        async with messages(nats_server.url, "holdsvc.>") as subscription:
            kinds = [json.loads(message.data)["type"] for message in await take(subscription, 2)]
        async with messages(nats_server.url, "holdsvc-dead-letters.>") as subscription:
            [dead] = [json.loads(message.data) for message in await take(subscription, 1)]
    assert kinds == ["inventoryhold.v1.item_created", "inventoryhold.v1.reserved"]
    assert dead["subject"] == large.reservation_id
    assert "MaxPayload" in dead["holdsvcerror"]
    assert "data" not in dead


async def _lines(process: Any, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        return [json.loads(await asyncio.to_thread(process.stdout.readline)) for _ in range(count)]


async def test_on_standard_output_it_writes_json_lines_and_goes_on_where_it_was(service: Harness) -> None:
    await service.create_item("a", 10, pool="web", low_at=9)
    await service.create_item("a", 10)
    await service.reserve([("a", "web", 1)])
    with relaying(service, "stdout") as relay:
        lines = await _lines(relay, 4)
        assert [line["type"] for line in lines[1:]] == [
            "inventoryhold.v1.item_created",
            "inventoryhold.v1.reserved",
            "inventoryhold.v1.level_changed",
        ]
        assert (lines[3]["subject"], lines[3]["data"]["level_change"]) == (
            "a/web", {"from": "STOCK_LEVEL_AVAILABLE", "to": "STOCK_LEVEL_LOW"}
        )  # fmt: skip
        # The place is written after the lines: the next one shows that it was.
        await service.reserve({"a": 1})
        await _lines(relay, 1)
        relay.send_signal(signal.SIGTERM)
        await asyncio.to_thread(relay.wait, 60)
        assert relay.returncode == 0
    last = await service.reserve({"a": 1})
    with relaying(service, "stdout") as relay:
        while (line := (await _lines(relay, 1))[0])["subject"] != last.reservation_id:
            assert line["type"] == "inventoryhold.v1.reserved"


async def test_a_relay_that_would_skip_events_says_so_and_ends(service: Harness) -> None:
    await service.create_item("a", 10)
    service.sql("SELECT save_relay_position('relay', feed_history(), 1, '2026-01-01')")
    service.sql("SELECT begin_epoch()")
    with relaying(service, "stdout") as relay:
        assert await asyncio.to_thread(relay.wait, 60) == 1


def _event(id_: str, key: str) -> CloudEvent:
    return CloudEvent(id_, "t", "reserved", key, {})


def test_events_of_one_key_never_go_out_together() -> None:
    events = [_event(str(number), key) for number, key in enumerate("aabcab")]
    assert ["".join(event.key for event in wave) for wave in waves(events)] == ["a", "abc", "ab"]


def test_names_become_one_word_of_a_subject() -> None:
    assert escaped("a.b >*é") == "a%2Eb%20%3E%2A%C3%A9"
    assert escaped("") == "%"


NAMES = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.text("ab/%:", max_size=6)
    | st.uuids().map(str)
)


@given(st.lists(st.tuples(NAMES.filter(bool), NAMES), min_size=2, unique=True))
def test_an_items_key_can_be_read_back_one_way_only_and_is_no_reservations(items: list[tuple[str, str]]) -> None:
    keys = [item_key(sku, pool) for sku, pool in items]
    assert len({*keys}) == len(items)
    for key, (sku, pool) in zip(keys, items, strict=True):
        assert key.count("/") == bool(pool)
        assert tuple(unquote(part) for part in (*key.split("/"), "")[:2]) == (sku, pool)
        assert key.isascii()
        assert not re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", key)


@pytest.mark.parametrize("events_follow", [True, False])
async def test_the_relay_ends_when_the_reader_of_its_standard_output_has_ended(
    service: Harness, events_follow: bool
) -> None:
    await service.create_item("a", 10)
    with relaying(service, "stdout", anew=True) as relay:
        await _lines(relay, 1)
        if events_follow:
            for _ in range(3):
                await service.reserve({"a": 1})
        relay.stdout.close()
        relay.stdout = None
        _, errors = await asyncio.to_thread(relay.communicate, None, 60)
        assert relay.returncode == 0
        assert b"Traceback" not in errors
        assert b"BrokenPipe" not in errors


async def test_a_relay_that_starts_before_its_database_waits_for_it(service: Harness) -> None:
    await service.create_item("a", 10)
    proxy = Proxy(service.owner_dsn)
    with relaying(service, "stdout", dsn=proxy.dsn) as relay:
        while b"relay.database_awaited" not in await asyncio.to_thread(relay.stderr.readline):
            assert relay.poll() is None
        async with proxy:
            [line] = await _lines(relay, 1)
            assert line["type"] == "inventoryhold.v1.item_created"
            relay.terminate()
            assert await asyncio.to_thread(relay.wait, 60) == 0


async def test_a_brokers_password_is_in_no_log(service: Harness) -> None:
    await service.create_item("a", 10)
    with relaying(service, "nats://me:hunter2@127.0.0.1:1") as relay:
        errors = b""
        while errors.count(b"ConnectionRefusedError") < 2:
            line = await asyncio.to_thread(relay.stderr.readline)
            assert line, errors
            errors += line
        assert b"hunter2" not in errors


@pytest.mark.parametrize("to", ["amqp://me:hunter2@x", "amqp:hunter2@x", "hunter2", ""])
def test_an_unknown_broker_is_refused_without_a_password(to: str) -> None:
    with pytest.raises(
        RelayError, match="no broker: write stdout, nats://host:port or kafka://host:port/topic"
    ) as refusal:
        open_broker(to, "holdsvc")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("to", ["nats://me:hunter2@[x", "kafka://me:hunter2@[x/topic"])
def test_a_malformed_address_of_a_broker_is_refused_without_a_password(to: str) -> None:
    with pytest.raises(RelayError, match="malformed") as refusal:
        open_broker(to, "holdsvc")
    assert "hunter2" not in str(refusal.value)


def test_an_address_for_metrics_that_cannot_be_used_is_one_line(service: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for address, message in (
            ("nowhere", b"--metrics-listen: 'nowhere' is not an address"),
            (f"127.0.0.1:{taken.getsockname()[1]}", b"--metrics-listen: cannot listen on 127.0.0.1:"),
        ):
            with relaying(service, "stdout", "--metrics-listen", address) as relay:
                relay.wait(60)
                errors = relay.stderr.read()
                assert (relay.returncode, len(errors.splitlines())) == (1, 1)
                assert message in errors
