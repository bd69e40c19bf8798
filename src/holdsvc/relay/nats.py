"""NATS JetStream: one message for each event, with a `Nats-Msg-Id` by which it drops repeats; dead letters apart."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError
from nats.js.api import StreamConfig
from nats.js.errors import APIError, BadRequestError

from holdsvc.relay.broker import BrokerDown
from holdsvc.relay.cloud_event import CONTENT_TYPE, CloudEvent, escaped

log = structlog.get_logger(__name__)

ACK_TIMEOUT_S = 5.0
STREAM = "HOLDSVC"
DEAD_LETTERS = "HOLDSVC-DEAD-LETTERS"
SUBJECT_IN_USE = 10065
NAME_IN_USE = 10058


class Nats:
    """Publishes to `<prefix>.<tenant>.<type>`, dead letters to `<prefix>-dead-letters.<tenant>.<type>`.

    The streams are made where no stream takes those subjects yet; a stream of the operator's stays as it is.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._address = urlsplit(url).netloc.rpartition("@")[2]
        self._prefix = prefix
        self._client: Client | None = None

    async def open(self) -> None:
        """Connects and makes the streams that are missing; raises BrokerDown."""
        try:
            self._client = await nats.connect(
                self._url, connect_timeout=2, max_reconnect_attempts=-1, allow_reconnect=True, error_cb=_tell
            )
            stream = self._client.jetstream()
            for name, subject in ((STREAM, self._prefix), (DEAD_LETTERS, f"{self._prefix}-dead-letters")):
                try:
                    await stream.add_stream(StreamConfig(name=name, subjects=[f"{subject}.>"]))
                except APIError as error:
                    if error.err_code not in (SUBJECT_IN_USE, NAME_IN_USE):
                        raise
        except (Error, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerDown(f"{self._address}: {error!r}") from error

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Publishes all of them at once and waits for every acknowledgement."""
        answers = await asyncio.gather(*(self._send(event) for event in events), return_exceptions=True)
        refused = []
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, (MaxPayloadError, BadRequestError)):
                await self._bury(event, repr(answer))
                refused.append(event)
            elif isinstance(answer, (Error, OSError, TimeoutError)):
                raise BrokerDown(repr(answer)) from answer
            elif isinstance(answer, BaseException):
                raise answer
        return refused

    async def _send(self, event: CloudEvent) -> None:
        await self._put(self._prefix, event, event.encode())

    async def _bury(self, event: CloudEvent, why: str) -> None:
        try:
            await self._put(f"{self._prefix}-dead-letters", event, event.refused(why))
        except (Error, OSError, TimeoutError) as error:
            raise BrokerDown(f"dead letter: {error!r}") from error

    async def _put(self, prefix: str, event: CloudEvent, payload: bytes) -> None:
        assert self._client is not None
        await self._client.jetstream().publish(
            f"{prefix}.{escaped(event.tenant)}.{event.kind}",
            payload,
            timeout=ACK_TIMEOUT_S,
            headers={"Nats-Msg-Id": event.id, "Content-Type": CONTENT_TYPE},
        )

    async def close(self) -> None:
        """Disconnects."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


async def _tell(error: Exception) -> None:
    log.warning("relay.nats", error=repr(error))
