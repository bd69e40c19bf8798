"""Webhooks in the tables: what callers see of them, and the leases of those who send."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from holdsvc import errors
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import Nothing, Number, bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import Filter, Position
from holdsvc.model import Answer, Caller, Done

REWIND = timedelta(minutes=10)
"""How far before the last event sent a webhook begins in another history of events."""


class Attempt(NamedTuple):
    """What came of sending one event to a webhook."""

    error: str
    """As in the contract: `STATUS`, `TIMEOUT`, …; empty: the endpoint took it."""
    status: int
    """Of the endpoint's answer; 0: there was none."""
    seconds: float
    retry_after_s: float = 0.0
    """When the endpoint wants to be asked again; 0: it did not say."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events are sent, and how that fares; without its secret."""

    webhook_id: str
    client: str
    url: str
    types: Sequence[int]
    sku_prefix: str
    pools: Sequence[str]
    create_time: datetime
    disable_reason: str | None
    """None: it is not disabled."""
    failure_count: int
    """Attempts that failed since the last success."""
    fail_time: datetime | None
    last_error: str
    last_status: int
    success_time: datetime | None
    next_time: datetime


class _WebhookRow(NamedTuple):
    outcome: str | None
    webhook_id: UUID
    client: str
    url: str
    types: list[int]
    sku_prefix: str
    reads_all: bool
    pools: list[str]
    create_time: datetime
    state: int
    disable_reason: str | None
    failure_count: int
    fail_time: datetime | None
    last_error: str | None
    last_status: int | None
    success_time: datetime | None
    due_time: datetime


class Place(NamedTuple):
    """How far a webhook has come."""

    history: str
    """The history of events in which the position means something."""
    position: Position
    event_time: datetime
    """Events until then are sent."""


class Lease(NamedTuple):
    """A webhook that its sender alone serves, for a time."""

    tenant: str
    webhook_id: UUID
    client: str
    url: str
    types: list[int]
    sku_prefix: str
    reads_all: bool
    pools: list[str]
    secret: bytes
    epoch: str
    event_id: int
    event_day: date
    event_time: datetime
    failure_count: int
    lease_id: UUID

    @property
    def place(self) -> Place:
        """Where it begins."""
        return Place(self.epoch, Position(self.event_id, self.event_day), self.event_time)

    @property
    def filter(self) -> Filter:
        """The events that it may see and wants; its `sku_prefix` besides."""
        client = None if self.reads_all else self.client
        return Filter(self.tenant, client, frozenset(self.types), frozenset(self.pools))


class Report(NamedTuple):
    """What a sender reports of a webhook from time to time."""

    lease: Lease
    place: Place
    succeeded: bool
    """Whether an attempt has succeeded since the report before."""


class Totals(NamedTuple):
    """Webhooks of all tenants by how they are."""

    active: int
    failing: int
    disabled: int
    overdue: timedelta | None
    """For how long the one that waits longest has been due without a sender; None: none has."""


class _PlaceRow(NamedTuple):
    event_id: int
    event_day: date


class _Secret(NamedTuple):
    secret: bytes | None


class _Id(NamedTuple):
    lease_id: UUID


class _Reason(NamedTuple):
    reason: str | None


_CREATE = bind(
    "create_webhook",
    _WebhookRow,
    *("tenant", "webhook_id", "client", "key_id", "url", "types", "sku_prefix", "reads_all", "pools", "secret"),
    *("epoch", "event_id", "event_day", "max"),
)
_LIST = bind(
    "list_webhooks",
    _WebhookRow,
    *("tenant", "client", "caller_pools", "webhook_id", "before_time", "before_id", "limit"),
)
_DELETE = bind_scalar("delete_webhook", Number, "tenant", "client", "caller_pools", "webhook_id")
_SECRET = bind_scalar("webhook_secret", _Secret, "tenant", "webhook_id")
_ENABLE = bind_scalar("enable_webhook", Nothing, "tenant", "webhook_id", "key_id", "reads_all")
_CLAIM = bind("claim_webhooks", Lease, "lease", "limit")
_RENEW = bind_scalar(
    "renew_webhooks",
    _Id,
    *("lease", "webhook_id", "lease_id", "epoch", "event_id", "event_day", "event_time", "succeeded"),
)
_RELEASE = bind_scalar(
    "release_webhook",
    _Reason,
    *("tenant", "lease_id", "webhook_id", "pause", "error", "status", "disable_reason", "failing_max"),
)
_PLACE_AT = bind_out("feed_place_at", _PlaceRow, "tenant", "from")
_TOTALS = bind_out("webhook_totals", Totals)


async def create(
    connection: Connection,
    *,
    tenant: str,
    webhook_id: UUID,
    client: str,
    key_id: str,
    url: str,
    types: Sequence[int],
    sku_prefix: str,
    reads_all: bool,
    pools: Sequence[str],
    secret: bytes,
    place: Place,
    webhooks_max: int,
) -> Answer[Webhook]:
    """Stores a webhook that begins at a place; refuses where the tenant has `webhooks_max` of them."""
    row = await _CREATE.one(
        connection,
        tenant=tenant,
        webhook_id=webhook_id,
        client=client,
        key_id=key_id,
        url=url,
        types=arrays.plain(types),
        sku_prefix=sku_prefix,
        reads_all=reads_all,
        pools=list(pools),
        secret=secret,
        epoch=place.history,
        event_id=place.position.event_id,
        event_day=place.position.day,
        max=webhooks_max,
    )
    if row.outcome is not None:
        return errors.too_many_webhooks(webhooks_max)
    return Done(_webhook(row), replayed=False)


def _webhook(row: _WebhookRow) -> Webhook:
    return Webhook(
        webhook_id=str(row.webhook_id),
        client=row.client,
        url=row.url,
        types=row.types,
        sku_prefix=row.sku_prefix,
        pools=row.pools,
        create_time=row.create_time,
        disable_reason=row.disable_reason,
        failure_count=row.failure_count,
        fail_time=row.fail_time,
        last_error=row.last_error or "",
        last_status=row.last_status or 0,
        success_time=row.success_time,
        next_time=row.due_time,
    )


class Sight(NamedTuple):
    """Which webhooks a caller may see."""

    tenant: str
    client: str | None
    """None: those of every client."""
    pools: Sequence[str] | None
    """None: whatever pools they are limited to."""


async def list_page(
    connection: Connection, sight: Sight, before: tuple[datetime, UUID] | None, limit: int
) -> list[Webhook]:
    """One page, newest first, after the webhook `before`."""
    before_time, before_id = before or (None, None)
    return await _listed(connection, sight, None, before_time, before_id, limit)


async def find(connection: Connection, sight: Sight, webhook_id: str) -> Webhook | None:
    """One webhook; None: the caller sees no such webhook."""
    found = await _listed(connection, sight, UUID(webhook_id), None, None, 1)
    return found[0] if found else None


async def _listed(
    connection: Connection,
    sight: Sight,
    webhook_id: UUID | None,
    before_time: datetime | None,
    before_id: UUID | None,
    limit: int,
) -> list[Webhook]:
    rows = await _LIST.fetch(
        connection,
        tenant=sight.tenant,
        client=sight.client,
        caller_pools=None if sight.pools is None else list(sight.pools),
        webhook_id=webhook_id,
        before_time=before_time,
        before_id=before_id,
        limit=limit,
    )
    return [_webhook(row) for row in rows]


async def delete(connection: Connection, sight: Sight, webhook_id: str) -> Answer[None]:
    """Deletes a webhook that the caller sees."""
    found = await _DELETE.one(
        connection,
        tenant=sight.tenant,
        client=sight.client,
        caller_pools=None if sight.pools is None else list(sight.pools),
        webhook_id=UUID(webhook_id),
    )
    return Done(None, replayed=False) if found.number else errors.webhook_not_found(webhook_id)


async def secret(connection: Connection, tenant: str, webhook_id: str) -> bytes | None:
    """What a webhook signs with; None: there is no such webhook."""
    return (await _SECRET.one(connection, tenant=tenant, webhook_id=UUID(webhook_id))).secret


async def enable(connection: Connection, caller: Caller, webhook_id: str) -> None:
    """Lets a webhook go on at once, with no more rights than the caller where its own key has ended."""
    await _ENABLE.one(
        connection,
        tenant=caller.tenant,
        webhook_id=UUID(webhook_id),
        key_id=caller.key_id,
        reads_all=caller.reads_all,
    )


async def claim(connection: Connection, time: timedelta, limit: int) -> list[Lease]:
    """Takes webhooks of whatever tenants that are due."""
    return await _CLAIM.fetch(connection, lease=time, limit=limit)


async def renew(connection: Connection, time: timedelta, reports: Sequence[Report]) -> set[UUID]:
    """Keeps webhooks and remembers how far they have come; returns the leases that still stand, by their ids."""
    rows = await _RENEW.fetch(
        connection,
        lease=time,
        webhook_id=arrays.plain(str(report.lease.webhook_id) for report in reports),
        lease_id=arrays.plain(str(report.lease.lease_id) for report in reports),
        epoch=arrays.texts(report.place.history for report in reports),
        event_id=arrays.plain(report.place.position.event_id for report in reports),
        event_day=arrays.plain(report.place.position.day.isoformat() for report in reports),
        event_time=arrays.times(report.place.event_time for report in reports),
        succeeded=arrays.flags(report.succeeded for report in reports),
    )
    return {row.lease_id for row in rows}


async def release(
    connection: Connection,
    lease: Lease,
    failed: Attempt | None,
    *,
    pause: timedelta,
    failing_max: timedelta,
    disable_reason: str | None = None,
) -> str | None:
    """Gives a webhook back after an attempt that failed, due again after a pause; None: none failed.

    It is disabled with `disable_reason`, or where its attempts have failed for `failing_max`. Returns why it is
    disabled now; None: it is not.
    """
    row = await _RELEASE.one(
        connection,
        tenant=lease.tenant,
        lease_id=lease.lease_id,
        webhook_id=lease.webhook_id,
        pause=pause,
        error=failed.error if failed else None,
        status=failed.status if failed else None,
        disable_reason=disable_reason,
        failing_max=failing_max,
    )
    return row.reason


async def place_at(connection: Connection, tenant: str, since: datetime) -> Position | None:
    """Where the tenant's events of a time begin; None: there are none since."""
    rows = await _PLACE_AT.fetch(connection, tenant=tenant, **{"from": since})
    return Position(rows[0].event_id, rows[0].event_day) if rows else None


async def totals(connection: Connection) -> Totals:
    """Counts the webhooks of all tenants."""
    return await _TOTALS.one(connection)
