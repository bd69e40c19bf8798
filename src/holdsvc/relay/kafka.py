"""Kafka: a record for each event, a CloudEvent in binary mode keyed by its reservation or item; dead letters apart.

The producer is idempotent and waits for every in-sync replica, so its own retries neither lose nor repeat a record.
"""

import asyncio
import ssl
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)

from holdsvc.engine import tasks
from holdsvc.relay.broker import BrokerDown, KafkaSecurity, RelayError
from holdsvc.relay.cloud_event import CONTENT_TYPE, CloudEvent

log = structlog.get_logger(__name__)

PORT = 9092
CLIENT_ID = "holdsvc-relay"
REQUEST_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0

STRUCTURED = CONTENT_TYPE.encode()
"""Of a dead letter, which is the event itself without its data."""

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError)

Headers = list[tuple[str, bytes]]


class Kafka:
    """Publishes to one topic, dead letters to `<topic>-dead-letters`; the broker makes them, or its operator."""

    def __init__(self, url: str, security: KafkaSecurity) -> None:
        """Takes `kafka://[user@]host[:port][,host[:port]]/topic`, or `kafkas://…` with TLS; raises RelayError."""
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        user, _, password = user.partition(":")
        self._topic = parts.path.strip("/")
        self._dead_letters = f"{self._topic}-dead-letters"
        self._servers = [host if ":" in host else f"{host}:{PORT}" for host in hosts.split(",") if host]
        if not self._servers or not self._topic or "/" in self._topic or parts.query or parts.fragment:
            raise RelayError("--to: write kafka://host:port/topic, or kafkas://host:port/topic for TLS")
        tls = parts.scheme == "kafkas"
        password = security.password or unquote(password)
        if user and not password:
            raise RelayError("--to: the user of a Kafka broker needs a password: set KAFKA_PASSWORD")
        self._options: dict[str, object] = {
            "bootstrap_servers": self._servers,
            "client_id": CLIENT_ID,
            "request_timeout_ms": int(REQUEST_TIMEOUT_S * 1000),
            "security_protocol": ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT"),
            "ssl_context": _tls(security) if tls else None,
        }
        if user:
            self._options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": unquote(user),
                "sasl_plain_password": password,
            }
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """Connects and looks for the topics; raises BrokerDown."""
        await self.close()
        try:
            async with asyncio.timeout(2 * REQUEST_TIMEOUT_S):
                producer = AIOKafkaProducer(**self._options, enable_idempotence=True, acks="all")
                # Kept before it has started, so that whatever happens it is closed.
                self._producer = producer
                await producer.start()
                for topic in (self._topic, self._dead_letters):
                    await producer.partitions_for(topic)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerDown(f"{','.join(self._servers)}: {error!r}") from error

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Sends all of them at once and waits for every acknowledgement."""
        try:
            if self._producer is None:
                await self.open()
            # An idempotent producer tries without end by itself.
            async with asyncio.timeout(2 * REQUEST_TIMEOUT_S):
                refused = await self._publish(events)
        except (KafkaError, OSError, TimeoutError) as error:
            # An idempotent producer that has failed may take nothing more: the next attempt opens another.
            await self.close()
            raise BrokerDown(repr(error)) from error
        return refused

    async def _publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        answers = await asyncio.gather(*(self._send(event) for event in events), return_exceptions=True)
        refused = []
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, TOO_LARGE):
                refused += await self._send_alone(event)
            elif isinstance(answer, BaseException):
                raise answer
        return refused

    async def _send_alone(self, event: CloudEvent) -> list[CloudEvent]:
        """Sends an event that failed with its batch, which may have been too large where the event is not."""
        try:
            await self._send(event)
        except TOO_LARGE as error:
            await self._put(self._dead_letters, event, event.refused(repr(error)), [("content-type", STRUCTURED)])
            return [event]
        return []

    async def _send(self, event: CloudEvent) -> None:
        await self._put(self._topic, event, event.encode_data(), _headers(event))

    async def _put(self, topic: str, event: CloudEvent, value: bytes, headers: Headers) -> None:
        assert self._producer is not None
        await self._producer.send_and_wait(topic, value, key=event.key.encode(), headers=headers)

    async def close(self) -> None:
        """Disconnects; what was not acknowledged is not waited for."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        # Its own stop would first send what waits, without end where the broker is away.
        sender = producer._sender  # noqa: SLF001 - the library has no other way to give up
        if sender is not None and sender.sender_task is not None:
            await tasks.end([sender.sender_task])
        producer._closed = True  # noqa: SLF001
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await producer.client.close()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("relay.kafka_not_closed", error=repr(error))


def _headers(event: CloudEvent) -> Headers:
    """The attributes as headers, as the Kafka binding of CloudEvents has them in binary mode."""
    attributes = {name: value for name, value in event.attributes.items() if name not in ("data", "datacontenttype")}
    content_type = str(event.attributes["datacontenttype"])
    return [("content-type", content_type.encode())] + [
        (f"ce_{name}", str(value).encode()) for name, value in attributes.items()
    ]


def _tls(security: KafkaSecurity) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca)
        if security.certificate is not None:
            context.load_cert_chain(security.certificate, security.key)
    except (OSError, ssl.SSLError) as error:
        raise RelayError(f"the certificates for Kafka cannot be used: {error}") from error
    return context
