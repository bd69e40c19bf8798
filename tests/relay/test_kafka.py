"""The relay to Kafka: CloudEvents in binary mode, keyed, at least once and in order, whatever dies.

The broker is that of librdkafka's tests (tests/support/kafka_broker.py): no registry that the project uses has Kafka.
"""

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from holdsvc.relay.broker import BrokerDown, KafkaSecurity, RelayError
from holdsvc.relay.cloud_event import CloudEvent
from holdsvc.relay.kafka import Kafka
from holdsvc.relay.relay import open_broker
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.relay.test_relay import relaying
from tests.support.certificates import Authority
from tests.support.harness import Harness
from tests.support.kafka_broker import kafka_broker
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with kafka_broker() as address:
        yield address


@asynccontextmanager
async def records(address: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Reads a topic from its begin, all partitions."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def take(consumer: AIOKafkaConsumer, count: int) -> list[Any]:
    """The next records."""
    found: list[Any] = []
    while len(found) < count:
        for batch in (await consumer.getmany(timeout_ms=60_000, max_records=count - len(found))).values():
            found += batch
    return found


async def test_every_event_is_a_keyed_cloud_event_in_binary_mode(service: Harness, address: str) -> None:
    await service.create_item("a", 10, pool="web")
    held = await service.reserve([("a", "web", 2)])
    with relaying(service, f"kafka://{address}/binary"):
        async with records(address, "binary") as consumer:
            by_key = {record.key.decode(): record for record in await take(consumer, 2)}
    assert set(by_key) == {"a/web", held.reservation_id}
    record = by_key[held.reservation_id]
    headers = {name: value.decode() for name, value in record.headers}
    assert headers["content-type"] == "application/json"
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_type"] == "inventoryhold.v1.reserved"
    assert headers["ce_source"] == "/holdsvc/default"
    assert headers["ce_subject"] == headers["ce_partitionkey"] == held.reservation_id
    assert headers["ce_id"].startswith(f"{json.loads(record.value)['event_id']}-")
    assert "ce_data" not in headers
    data = json.loads(record.value)
    assert data["lines"] == [{"sku": "a", "pool": "web", "quantity": "2"}]
    assert data["reservation"]["reservation_id"] == held.reservation_id


async def test_every_event_reaches_kafka_in_order_although_the_relay_is_killed(service: Harness, address: str) -> None:
    await service.create_item("a", 1000)
    reserve = pb.BatchReserveRequest(requests=[pb.ReserveRequest(lines=[{"sku": "a", "quantity": 1}])] * 60)
    held = (await service.reservations.BatchReserve(reserve)).results
    async with records(address, "killed") as consumer:
        with relaying(service, f"kafka://{address}/killed") as relay:
            told = await take(consumer, 10)
            relay.send_signal(signal.SIGKILL)
            relay.wait()
        cancels = [pb.CancelRequest(reservation_id=result.reservation.reservation_id) for result in held]
        await service.reservations.BatchCancel(pb.BatchCancelRequest(requests=cancels))
        with relaying(service, f"kafka://{address}/killed"):
            while len({_id(record) for record in told}) < 121:
                told += await take(consumer, 1)
    kinds: dict[str, list[str]] = {}
    for record in told:
        kinds.setdefault(record.key.decode(), []).append(dict(record.headers)["ce_type"].decode().rpartition(".")[2])
    assert kinds.pop("a")[0] == "item_created"
    assert len(kinds) == 60
    for seen in kinds.values():
        # What was not yet remembered as sent is sent again after the kill, in order too.
        assert seen in (["reserved", "cancelled"], ["reserved", "reserved", "cancelled"])
    # One key, one partition.
    assert len({(record.key, record.partition) for record in told}) == 61


def _id(record: Any) -> bytes:
    return bytes(dict(record.headers)["ce_id"])


def _event(number: int, size: int = 1) -> CloudEvent:
    attributes = {"id": str(number), "type": "t", "datacontenttype": "application/json", "data": "x" * size}
    return CloudEvent(str(number), "tenant", "reserved", f"key-{number}", attributes)


async def test_what_is_too_large_is_a_dead_letter_and_the_rest_goes_on(address: str) -> None:
    broker = Kafka(f"kafka://{address}/large", KafkaSecurity())
    await broker.open()
    try:
        refused = await broker.publish([_event(1), _event(2, size=2 * 1024 * 1024), _event(3)])
    finally:
        await broker.close()
    assert [event.id for event in refused] == ["2"]
    async with records(address, "large") as consumer:
        assert sorted(record.key for record in await take(consumer, 2)) == [b"key-1", b"key-3"]
    async with records(address, "large-dead-letters") as consumer:
        [dead] = await take(consumer, 1)
    assert dict(dead.headers)["content-type"] == b"application/cloudevents+json"
    letter = json.loads(dead.value)
    assert letter["id"] == "2"
    assert "MessageSizeTooLarge" in letter["holdsvcerror"]
    assert "data" not in letter


async def test_a_broker_that_dies_is_down_and_one_that_comes_back_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdsvc.relay.kafka.REQUEST_TIMEOUT_S", 1.0)
    with kafka_broker() as first:
        broker = Kafka(f"kafka://{first}/restarts", KafkaSecurity())
        await broker.open()
        assert await broker.publish([_event(1)]) == []
    with pytest.raises(BrokerDown):
        await broker.publish([_event(2)])
    with kafka_broker() as second:
        # Only its address is another one: the broker of these tests cannot choose its port.
        broker._options["bootstrap_servers"] = [second]
        assert await broker.publish([_event(2)]) == []
        await broker.close()
        async with records(second, "restarts") as consumer:
            assert [record.key for record in await take(consumer, 1)] == [b"key-2"]


async def test_a_broker_that_is_not_there_is_down_and_no_password_is_told() -> None:
    broker = Kafka(f"kafka://me:hunter2@127.0.0.1:{free_port()}/topic", KafkaSecurity())
    with pytest.raises(BrokerDown) as down:
        await broker.open()
    assert "hunter2" not in str(down.value)


@pytest.mark.parametrize(
    "to", ["kafka://host", "kafka:///topic", "kafka://host/a/b", "kafka://me@host/topic", "kafka://me:hunter2@host/"]
)
def test_what_is_no_url_of_kafka_is_refused_without_a_password(to: str) -> None:
    with pytest.raises(RelayError, match=r"--to: ") as refusal:
        open_broker(to, "holdsvc")
    assert "hunter2" not in str(refusal.value)


def test_tls_and_sasl_come_from_the_url_and_the_options(tmp_path: Path) -> None:
    authority = Authority("an authority")
    certificate, key = authority.issue("relay").write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    security = KafkaSecurity("SCRAM-SHA-256", "hunter2", tmp_path / "ca.pem", certificate, key)
    options = Kafka("kafkas://me@one:9093,two/topic", security)._options
    assert options["bootstrap_servers"] == ["one:9093", "two:9092"]
    assert options["security_protocol"] == "SASL_SSL"
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-256", "me")
    assert str(options["sasl_plain_password"]) == security.password
    assert options["ssl_context"] is not None
    plain = Kafka("kafka://one/topic", security)._options
    assert (plain["security_protocol"], plain["ssl_context"]) == ("PLAINTEXT", None)
    with pytest.raises(RelayError, match="certificates for Kafka"):
        Kafka("kafkas://one/topic", KafkaSecurity(ca=tmp_path / "none.pem"))
