"""The relay: reads complete events and publishes them, at least once, in order for each reservation and item.

Its position in the feed is in the database, under the relay's name, and is written after the broker has taken the
events: after a kill it publishes some again, with the same ids.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter, Gauge
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from holdsvc.api import convert
from holdsvc.engine import tasks
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.feed import Filter, Look, Position
from holdsvc.relay.broker import Broker, BrokerDown, KafkaSecurity, RelayError, Stdout
from holdsvc.relay.cloud_event import CloudEvent, cloud_event, waves
from holdsvc.streams.follower import Follower

log = structlog.get_logger(__name__)

BATCH_MAX = 200
LAG_LOG_S = 10.0

# On a page of its own: with the workers' metrics beside them, their database would seem to be down.
LAG = Gauge("holdsvc_relay_lag_seconds", "How far the relay is behind the event feed.")
BEHIND = Gauge("holdsvc_relay_behind_events", "Event ids between the relay's place and the feed's end.")
EVENTS = Counter("holdsvc_relay_events_total", "Events that the relay's broker has taken.")
DEAD_LETTERS = Counter("holdsvc_relay_dead_letters_total", "Events that the relay's broker has refused for good.")

_NATS = ("nats", "tls")
_KAFKA = ("kafka", "kafkas")
"""Schemes of URLs; the second of each is with TLS."""


def open_broker(url: str, prefix: str, security: KafkaSecurity = KafkaSecurity()) -> Broker:  # noqa: B008 - it is frozen
    """The broker of a URL: `stdout`, `nats://host:port` or `kafka://host:port/topic`; raises RelayError."""
    if url == "stdout":
        return Stdout()
    scheme, separator, _ = url.partition("://")
    if scheme not in (*_NATS, *_KAFKA) or not separator:
        # The rest may hold a password.
        named = f"{scheme}://… is no broker" if separator else "this is no broker"
        raise RelayError(f"--to: {named}: write stdout, nats://host:port or kafka://host:port/topic")
    try:
        urlsplit(url)
    except ValueError:
        raise RelayError(f"--to: the address after {scheme}:// is malformed: write {scheme}://host:port") from None
    try:
        if scheme in _NATS:
            from holdsvc.relay.nats import Nats

            return Nats(url, prefix)
        from holdsvc.relay.kafka import Kafka
    except ImportError as error:
        raise RelayError("the broker needs another package: pip install 'holdsvc[server,relay]'") from error
    return Kafka(url, security)


class Relay:
    """Publishes the feed from the position stored under the relay's name; `run` it."""

    def __init__(self, database: Database, broker: Broker, name: str, *, from_now: bool = False) -> None:
        self._database = database
        self._broker = broker
        self._name = name
        self._from_now = from_now
        self._follower = Follower(database)
        self._history = ""
        self._position: Position | None = None
        self._failure: RelayError | None = None
        self._stopped = asyncio.Event()
        self._open = False
        self._told = 0.0

    async def run(self) -> None:
        """Runs until `stop`; raises RelayError where going on would skip events."""
        loops = [
            asyncio.create_task(tasks.forever(name, step))
            for name, step in (
                ("primary", self._database.look),
                ("feed", self._follower.step),
                ("relay", self._step),
            )
        ]
        try:
            with self._follower.listening():
                await self._stopped.wait()
        finally:
            await tasks.end(loops)
            await self._broker.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Has `run` return."""
        self._stopped.set()

    async def _step(self) -> float:
        """Publishes what has become complete."""
        look = await self._follower.next_look()
        if look.fence is None or self._failure is not None:
            return 0.0
        try:
            async with self._database.connection() as connection:
                await self._read_on(connection, look, look.fence)
        except RelayError as failure:
            self._failure = failure
            self._stopped.set()
        return 0.0

    async def _read_on(self, connection: Connection, look: Look, fence: Position) -> None:
        if self._position is None or self._history != look.history:
            self._position = await self._place(connection, fence)
        while self._position.event_id < fence.event_id:
            found, reached = await feed.read(connection, [Filter(None)], self._position, fence, limit=BATCH_MAX)
            identity = await feed.identity(connection)
            if identity.history != self._history:
                # Not published: the next look reads the place again.
                self._position = None
                return
            if identity.floor > self._position.event_id:
                raise RelayError(f"relay {self._name}: retention has dropped events before they were published")
            self._tell(look, found[0].event.occur_time if found else None)
            await self._publish([cloud_event(event.tenant, convert.event(event.event), event.hash) for event in found])
            await feed.save_relay_position(connection, self._name, self._history, reached)
            self._position = reached
        self._tell(look, None)

    async def _place(self, connection: Connection, fence: Position) -> Position:
        identity = await feed.identity(connection)
        self._history = identity.history
        known = await feed.relay_position(connection, self._name)
        if known is None:
            return fence if self._from_now else Position(identity.floor, date.min)
        history, position = known
        if not identity.continues(history):
            raise RelayError(
                f"relay {self._name} has a position in another database or epoch ({history}, here {identity.history}),"
                " which says nothing about the events of this one: start a relay under a new --name"
            )
        # After a failover it is right too: it was written after the events up to it, so they are here as well.
        return position

    async def _publish(self, events: Sequence[CloudEvent]) -> None:
        for wave in waves(events):
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(BrokerDown), wait=wait_exponential(multiplier=0.1, max=5)
            ):
                with attempt:
                    await self._publish_wave(wave, attempt.retry_state.attempt_number)

    async def _publish_wave(self, wave: list[CloudEvent], attempt_number: int) -> None:
        try:
            if not self._open:
                await self._broker.open()
                self._open = True
            refused = await self._broker.publish(wave)
        except BrokerDown as error:
            log.warning("relay.broker_down", attempt=attempt_number, error=str(error))
            if self._open and attempt_number % 5 == 0:
                self._open = False
                await self._broker.close()
            raise
        EVENTS.inc(len(wave) - len(refused))
        DEAD_LETTERS.inc(len(refused))
        for event in refused:
            log.error("relay.refused", id=event.id, tenant=event.tenant, kind=event.kind)

    def _tell(self, look: Look, oldest: datetime | None) -> None:
        assert self._position is not None
        lag_s = max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0
        behind = look.last_event_id - self._position.event_id if oldest else 0
        BEHIND.set(behind)
        LAG.set(lag_s)
        now = asyncio.get_running_loop().time()
        if now >= self._told + LAG_LOG_S:
            self._told = now
            log.info(
                "relay.lag", name=self._name, event_id=self._position.event_id, behind=behind, lag_s=round(lag_s, 1)
            )
