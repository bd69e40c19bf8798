"""Sends events to webhooks: at least once, in order for each reservation and item.

Each webhook has one sender at a time among all processes: a lease in the database, with the place up to which events
are sent. A sender reads the webhook's events as a stream does, so what several readers want is read once. One that
fails gives its webhook back until the next attempt is due, so a dead endpoint delays its own webhook alone.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

import structlog
from yarl import URL

from holdsvc.addresses import parse_networks
from holdsvc.engine import tasks
from holdsvc.errors import HoldError
from holdsvc.ledger import webhooks
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.ledger.feed import Identity, Poll, Position
from holdsvc.ledger.proofs import nothing_told
from holdsvc.ledger.webhooks import Attempt, Lease, Place, Report, Webhook
from holdsvc.relay.cloud_event import CloudEvent, cloud_event, source, waves
from holdsvc.relay.endpoints import Endpoints
from holdsvc.settings import Settings
from holdsvc.streams.events import Batch, EventHub
from inventoryhold.v1 import event_pb2, event_service_pb2

if TYPE_CHECKING:
    from holdsvc.relay.endpoint import Endpoint

log = structlog.get_logger(__name__)

LEASE_S = 30.0
RENEW_S = 3.0
"""How long a webhook is its sender's, and how often that is renewed: within so long a revoked key ends it."""

CLAIM_S = 0.5
CLAIM_MAX = 50
"""How often a process looks for webhooks that are due, and how many it takes at once: others take some too."""

SENDERS_MAX = 500
"""Webhooks that one process sends to at the same time."""

WAVE_MAX = 8
"""Events that are sent to one webhook at once; before its first success, one."""

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 3600.0
RETRY_AFTER_MAX_S = 24 * 3600.0
"""The pause after a failed attempt doubles each time between these; an endpoint may ask for more."""

OUTAGE_PAUSE_S = 1.0
"""The pause after the feed could not be read."""

GONE = 410

STOP_S = 2.0
"""The longest that the last report of a stop may take."""


class WebhookObserver(Protocol):
    """Receives what the metrics show of webhooks."""

    def webhook_attempted(self, reason: str) -> None:
        """An event was sent: OK, or why that failed."""

    def webhook_disabled(self, reason: str) -> None:
        """A webhook was disabled."""


class _Failed(Exception):
    """An attempt failed."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt.error)
        self.attempt = attempt


class _OtherTimeline(Exception):
    """Another server is the primary now: how far the webhook has come is what its row there says."""


class _Dropped(Exception):
    """Retention has dropped events that were not sent."""


class Webhooks:
    """One per process. `start` it on the loop that serves, `stop` it before the streams, `close` it after the calls."""

    def __init__(self, settings: Settings, database: Database, hub: EventHub, observer: WebhookObserver) -> None:
        self.hub = hub
        self.observer = observer
        self.database = database
        self.failing_max = settings.webhook_failing_max
        self.endpoints = Endpoints(parse_networks(settings.webhook_networks), settings.webhook_timeout.total_seconds())
        self._senders: set[_Sender] = set()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to look for webhooks."""
        for name, step in (("webhooks", self._claim), ("webhook_leases", self._renew)):
            self._tasks.append(asyncio.create_task(tasks.forever(name, step)))

    async def stop(self) -> None:
        """Ends the senders and hands their webhooks to other processes."""
        await tasks.end(self._tasks)
        senders = list(self._senders)
        await tasks.end([sender.task for sender in senders])
        try:
            async with asyncio.timeout(STOP_S):
                await self._report(senders, lease_s=0.0)
        except (NothingRan, Unknown, Conflict, TimeoutError) as error:
            log.warning("webhooks.not_handed_over", error=type(error).__name__)

    async def close(self) -> None:
        """Ends what is left; after this no test can be sent."""
        await self.endpoints.close()

    async def _claim(self) -> float:
        room = min(CLAIM_MAX, SENDERS_MAX - len(self._senders))
        if room <= 0:
            return CLAIM_S
        end = self._loop.time() + LEASE_S
        async with self.database.connection() as connection:
            found = await webhooks.claim(connection, timedelta(seconds=LEASE_S), room)
        for lease in found:
            sender = _Sender(self, lease, end)
            self._senders.add(sender)
            sender.task.add_done_callback(partial(self._ended, sender))
        return CLAIM_S

    def _ended(self, sender: "_Sender", task: asyncio.Task[None]) -> None:
        self._senders.discard(sender)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhook.fault", webhook_id=str(sender.lease.webhook_id), exc_info=error)

    async def _renew(self) -> float:
        """Keeps the leases; ends the senders that have lost theirs."""
        senders = list(self._senders)
        if senders:
            end = self._loop.time() + LEASE_S
            kept = await self._report(senders, lease_s=LEASE_S)
            for sender in senders:
                if sender.lease.lease_id in kept:
                    sender.end = end
                else:
                    sender.task.cancel()
        return RENEW_S

    async def _report(self, senders: "Sequence[_Sender]", *, lease_s: float) -> set[UUID]:
        reports = [sender.report() for sender in senders]
        if not reports:
            return set()
        async with self.database.connection() as connection:
            return await webhooks.renew(connection, timedelta(seconds=lease_s), reports)

    async def reaches(self, tenant: str, url: str) -> bool:
        """Whether a webhook may have this URL, as far as its name says so now; what it connects to is checked again."""
        return await self.endpoints.reaches(tenant, URL(url, encoded=True))

    async def test(self, tenant: str, webhook: Webhook, secret: bytes) -> Attempt:
        """Sends a test event to a webhook and tells what came of it."""
        id_ = f"test-{uuid4()}"
        event = CloudEvent(
            id_,
            tenant,
            "webhook_test",
            webhook.webhook_id,
            {
                "specversion": "1.0",
                "id": id_,
                "source": source(tenant),
                "type": "inventoryhold.v1.webhook_test",
                "subject": webhook.webhook_id,
                "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "datacontenttype": "application/json",
                "data": {"webhook_id": webhook.webhook_id},
            },
        )
        endpoint = await self.endpoints.open(tenant, webhook.url, secret)
        try:
            return await self.attempt(endpoint, event)
        finally:
            await endpoint.close()

    async def attempt(self, endpoint: "Endpoint", event: CloudEvent) -> Attempt:
        """Sends one event and counts it."""
        attempt = await endpoint.send(event.id, event.encode())
        self.observer.webhook_attempted(attempt.error or "OK")
        return attempt


class _Sender:
    """One webhook, while this process has its lease."""

    def __init__(self, owner: Webhooks, lease: Lease, end: float) -> None:
        self._owner = owner
        self._place = lease.place
        self._begun = False
        """Whether it has begun to send: from then on it may have come further than its row says."""
        self._proven = False
        """Whether an attempt has succeeded; `_succeeded`: since the last report."""
        self._succeeded = False
        self._loop = asyncio.get_running_loop()
        self.lease = lease
        self.end = end
        """Until when the webhook is this process's, on the loop's clock."""
        self.task = asyncio.create_task(self._run())

    def report(self) -> Report:
        """How far it has come; what succeeds from now on belongs to the next report."""
        report = Report(self.lease, self._place, self._succeeded)
        self._succeeded = False
        return report

    async def _run(self) -> None:
        endpoint = await self._owner.endpoints.open(self.lease.tenant, self.lease.url, self.lease.secret)
        try:
            while True:
                try:
                    await self._send(endpoint)
                except HoldError as error:
                    if error.reason == "RESUME_TOKEN_EXPIRED":
                        raise _Dropped from None
                    # The feed cannot be read, or has become another one.
                    await asyncio.sleep(OUTAGE_PAUSE_S)
        except _Failed as error:
            await self._give_back(error.attempt)
        except _Dropped:
            await self._give_back(None, "EVENTS_DROPPED")
        except _OtherTimeline:
            await self._release()
        except TimeoutError:
            # The lease could not be renewed: another process may have the webhook.
            log.warning("webhook.lease_lost", webhook_id=str(self.lease.webhook_id))
        except Exception:
            log.exception("webhook.fault", webhook_id=str(self.lease.webhook_id))
            self._owner.observer.webhook_attempted("INTERNAL")
            await self._give_back(Attempt("INTERNAL", 0, 0.0))
        finally:
            await endpoint.close()

    async def _send(self, endpoint: "Endpoint") -> None:
        """Sends events as they come, until something fails."""
        hub = self._owner.hub
        identity, last = await hub.look(self.lease.tenant)
        start = await self._start(identity, last)
        proof = nothing_told(start, self.lease.filter, proven=False)
        async with aclosing(hub.stream(self.lease.filter, start, identity.history, proof)) as batches:
            async for batch in batches:
                await self._send_batch(endpoint, batch)
                self._place = Place(
                    identity.history, batch.position, hub.told_until(batch.position) or self._place.event_time
                )

    async def _start(self, identity: Identity, last: Poll) -> Position:
        place = self._place
        if identity.continues(place.history):
            if place.history != identity.history and self._begun:
                raise _OtherTimeline
            # The place of a row is right on any timeline: it was written after the events up to it.
            if place.position.event_id < identity.floor:
                raise _Dropped
            self._begun = True
            self._place = place._replace(history=identity.history)
            return place.position
        async with self._owner.database.connection() as connection:
            start = await webhooks.place_at(connection, self.lease.tenant, place.event_time - webhooks.REWIND)
        while start is None:
            begun = await self._owner.hub.begin(last, self.lease.filter)
            start = None if begun is None else begun.place
        self._begun = True
        self._place = Place(identity.history, start, place.event_time)
        return start

    async def _send_batch(self, endpoint: "Endpoint", batch: Batch) -> None:
        history, day = self._place.history, self._place.position.day
        made: list[tuple[event_pb2.Event, CloudEvent]] = []
        for told in batch.events:
            [event] = event_service_pb2.StreamEventsResponse.FromString(told.payload).events
            if _concerns(event, self.lease.sku_prefix):
                made.append((event, cloud_event(self.lease.tenant, event, told.hash)))
        done = 0
        while done < len(made):
            # Before its first success it may be a dead endpoint: one attempt is enough to know.
            wave = next(waves((cloud for _, cloud in made[done:]), WAVE_MAX if self._proven else 1))
            if self._loop.time() + self._owner.endpoints.timeout_s > self.end:
                raise TimeoutError
            attempts = await asyncio.gather(*(self._owner.attempt(endpoint, cloud) for cloud in wave))
            for (event, _), attempt in zip(made[done : done + len(wave)], attempts, strict=True):
                if attempt.error:
                    raise _Failed(attempt)
                self._proven = self._succeeded = True
                self._place = Place(history, Position(event.event_id, day), event.occur_time.ToDatetime(UTC))
            done += len(wave)

    async def _release(self) -> None:
        """Lets any process take it up at once, from the place in its row."""
        try:
            async with self._owner.database.connection() as connection:
                await webhooks.release(
                    connection, self.lease, None, pause=timedelta(), failing_max=self._owner.failing_max
                )
        except (NothingRan, Unknown, Conflict) as error:
            # Its lease ends by itself.
            log.warning("webhook.not_given_back", webhook_id=str(self.lease.webhook_id), error=type(error).__name__)

    async def _give_back(self, failed: Attempt | None, disable_reason: str | None = None) -> None:
        owner, lease = self._owner, self.lease
        count = (0 if self._proven else lease.failure_count) + 1
        pause = pause_s(count, failed.retry_after_s if failed else 0.0)
        if failed is not None and failed.status == GONE:
            disable_reason = "GONE"
        try:
            async with owner.database.connection() as connection:
                await webhooks.renew(connection, timedelta(seconds=LEASE_S), [self.report()])
                disabled = await webhooks.release(
                    connection,
                    lease,
                    failed,
                    pause=timedelta(seconds=pause),
                    failing_max=owner.failing_max,
                    disable_reason=disable_reason,
                )
        except (NothingRan, Unknown, Conflict) as error:
            # Its lease ends by itself, and then it is tried again.
            log.warning("webhook.not_given_back", webhook_id=str(lease.webhook_id), error=type(error).__name__)
            return
        words = {"tenant": lease.tenant, "webhook_id": str(lease.webhook_id)}
        if failed is not None:
            log.info("webhook.failed", **words, error=failed.error, status=failed.status, pause_s=round(pause, 1))
        if disabled is not None:
            owner.observer.webhook_disabled(disabled)
            log.warning("webhook.disabled", **words, reason=disabled)


def pause_s(failures: int, retry_after_s: float) -> float:
    """The pause after so many failures in a row, with jitter, or what the endpoint asks for if that is longer."""
    longest = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(failures - 1, 20))
    return max(longest * random.uniform(0.5, 1.0), min(retry_after_s, RETRY_AFTER_MAX_S))


def _concerns(event: event_pb2.Event, sku_prefix: str) -> bool:
    """Whether an event is about an item of the prefix."""
    if not sku_prefix:
        return True
    skus = (line.sku for lines in (event.lines, event.reservation.lines) for line in lines)
    return event.item.sku.startswith(sku_prefix) or any(sku.startswith(sku_prefix) for sku in skus)
