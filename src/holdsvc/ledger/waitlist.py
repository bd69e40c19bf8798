"""The waitlists of items: joining, leaving and reading them, and serving the entries that wait."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from holdsvc import errors
from holdsvc.change_requests import Join
from holdsvc.entries import EntryState, PassReason, WaitlistEntry
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import Number, bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.requests import REQUEST, columns, inactive_feature, pool_list
from holdsvc.model import Again, Caller, Done, ItemKey, Line, Outcome, Part, Refused, Serve

OFFERS_MAX = 100
"""Offers that one transaction makes at most."""

LAPSED_MAX = 250
"""Entries that one transaction ends at most: their items are locked for as long as that takes."""

LOOKED_MAX = 2_000
"""Entries that one statement of a list looks at; a look at the pools of one takes the database some 9 µs."""

Result = Outcome[WaitlistEntry]


class _Answer(NamedTuple):
    """A row of type waitlist_answer; `outcome` None: done."""

    ix: int
    outcome: str | None
    at_sku: str | None
    at_pool: str | None
    other_id: UUID | None
    due: bool
    entry_id: UUID | None
    """None: there is no entry to see, and the columns that follow are None too."""
    client: str
    holder: str
    reference: str
    state: int
    position: int | None
    reservation_id: UUID | None
    line_sku: list[str]
    line_pool: list[str]
    line_quantity: list[int]
    priority: int
    sequence: int
    offer_ttl_us: int
    metadata: dict[str, str] | None
    create_time: datetime
    expire_time: datetime | None
    offer_time: datetime | None
    end_time: datetime | None
    pass_reason: int
    reason: str | None
    revision: int


class _Found(NamedTuple):
    ids: list[UUID]
    looked_rank: int | None
    looked_sequence: int | None


class Served(NamedTuple):
    """What one serve has done."""

    waited_us: list[int]
    """How long each of those had waited who were offered units."""
    lapsed_count: int
    more: bool
    """Whether there may be more to do at once."""


class Swept(NamedTuple):
    """What a sweep of entries has found."""

    lapsed_count: int
    due_tenants: list[str]
    """Those of which items are due to be served."""


class Totals(NamedTuple):
    """Entries of a tenant."""

    waiting: int
    offered: int


_JOIN = bind(
    "join_waitlist",
    _Answer,
    *("tenant", *REQUEST, "served", "entry_id", "holder", "reference", "priority", "offer_ttl_us", "expire_time"),
    *("metadata", "line_first", "line_sku", "line_pool", "line_quantity"),
)
_LEAVE = bind(
    "leave_waitlist", _Answer, *("tenant", "client", "key_id", "pools", "reads", "manages", "entry_id", "reason")
)
_GET = bind("get_waitlist_entry", _Answer, "tenant", "entry_id")
_FIND = bind_out(
    "find_waitlist_entries",
    _Found,
    *("tenant", "client", "states", "sku", "pool", "holder", "pools", "after_rank", "after_sequence", "limit"),
    "looked_max",
)
_READ = bind("read_waitlist_entries", _Answer, "tenant", "entry_id")
_SERVE = bind_out("serve_waitlist", Served, "tenant", "reservation_id", "skip_busy")
_SWEEP = bind_out("sweep_waitlist", Swept, "tenant", "max_count")
_TOTALS = bind_out("waitlist_totals", Totals, "tenant")
_PURGE = bind_scalar("purge_waitlist", Number, "age", "max_count")


class Filter(NamedTuple):
    """Which entries a list shows; None leaves a filter out."""

    client: str | None
    states: Sequence[int]
    sku: str | None
    pool: str | None
    holder: str | None


async def join(connection: Connection, tenant: str, requests: Sequence[Join]) -> list[Result]:
    """Puts each request's holder into the queues of its items."""
    first = [1]
    for request in requests:
        first.append(first[-1] + len(request.lines))
    rows = await _JOIN.fetch(
        connection,
        tenant=tenant,
        **columns(tenant, requests),
        served=arrays.flags(r.served for r in requests),
        entry_id=arrays.plain(r.entry_id for r in requests),
        holder=arrays.texts(r.holder for r in requests),
        reference=arrays.texts(r.reference for r in requests),
        priority=arrays.plain(r.priority for r in requests),
        offer_ttl_us=arrays.plain(r.offer_ttl_us for r in requests),
        expire_time=arrays.times(r.expire_time for r in requests),
        metadata=arrays.documents(r.metadata for r in requests),
        line_first=arrays.plain(first),
        line_sku=arrays.texts(line.sku for r in requests for line in r.lines),
        line_pool=arrays.texts(line.pool for r in requests for line in r.lines),
        line_quantity=arrays.plain(line.quantity for r in requests for line in r.lines),
    )
    return [_joined(request, row) for request, row in zip(requests, rows, strict=True)]


def _joined(request: Join, row: _Answer) -> Result:
    outcome = row.outcome
    if outcome in (None, "REPLAYED") and row.entry_id is not None:
        return Done(_entry_of(row), replayed=outcome is not None, due=row.due)
    if outcome == "RETRY":
        return Again()
    if outcome == "SERVE":
        return Serve([ItemKey(line.sku, line.pool) for line in request.lines])
    if outcome == "ITEM_NOT_FOUND":
        return errors.item_not_found(row.at_sku or "", row.at_pool or "")
    if outcome == "WAITLIST_CLOSED":
        return errors.waitlist_closed(row.at_sku or "", row.at_pool or "")
    if outcome == "ALREADY_WAITING":
        return errors.already_waiting(str(row.other_id))
    if outcome == "EXPIRE_TIME":
        return errors.invalid_field("expire_time", "must be in the future", outcome)
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request.request_id)
    if outcome == "REPLAYED":
        # It was removed after its end.
        return errors.waitlist_entry_not_found(request.entry_id)
    refused = inactive_feature(outcome or "")
    assert refused is not None, outcome
    return refused


async def leave(connection: Connection, caller: Caller, entry_id: str, reason: str) -> Result:
    """Takes an entry out of its queues, or gives back what it was offered."""
    row = await _LEAVE.one(
        connection,
        tenant=caller.tenant,
        client=caller.client,
        key_id=caller.key_id,
        pools=pool_list(caller),
        reads=caller.reads_waitlists,
        manages=caller.manages_waitlists,
        entry_id=entry_id,
        reason=reason or None,
    )
    if row.outcome is None:
        return Done(_entry_of(row), replayed=False, due=row.due)
    return Again() if row.outcome == "RETRY" else _not_left(row.outcome, entry_id)


def _not_left(outcome: str, entry_id: str) -> Refused:
    if outcome == "PERMISSION_DENIED":
        return errors.permission_denied("waitlist.manage")
    assert outcome == "WAITLIST_ENTRY_NOT_FOUND", outcome
    return errors.waitlist_entry_not_found(entry_id)


async def get(connection: Connection, tenant: str, entry_id: str) -> WaitlistEntry | None:
    """Reads an entry with its position; None where there is none."""
    row = await _GET.one(connection, tenant=tenant, entry_id=entry_id)
    return None if row.entry_id is None else _entry_of(row)


async def list_page(
    connection: Connection, tenant: str, wanted: Filter, pools: str | None, after: Sequence[str] | None, limit: int
) -> Part[WaitlistEntry]:
    """A part of the list in the order of the queue, after an entry with this priority and sequence.

    `pools` as `requests.pool_list` makes it.
    """
    priority, sequence = (int(after[0]), int(after[1])) if after else (2**31 - 1, -1)
    found = await _FIND.one(
        connection,
        tenant=tenant,
        client=wanted.client,
        states=arrays.plain(wanted.states),
        sku=wanted.sku,
        pool=wanted.pool,
        holder=wanted.holder,
        pools=pools,
        after_rank=-priority,
        after_sequence=sequence,
        limit=limit,
        looked_max=LOOKED_MAX,
    )
    rows = await _READ.fetch(connection, tenant=tenant, entry_id=arrays.plain(map(str, found.ids))) if found.ids else []
    looked_to = None if found.looked_rank is None else [str(-found.looked_rank), str(found.looked_sequence)]
    return Part([_entry_of(row) for row in rows], looked_to)


def _entry_of(row: _Answer) -> WaitlistEntry:
    return WaitlistEntry(
        entry_id=str(row.entry_id),
        client=row.client,
        holder=row.holder,
        reference=row.reference,
        state=EntryState(row.state),
        lines=[Line(*line) for line in zip(row.line_sku, row.line_pool, row.line_quantity, strict=True)],
        priority=row.priority,
        offer_ttl_us=row.offer_ttl_us,
        create_time=row.create_time,
        metadata=row.metadata or {},
        expire_time=row.expire_time,
        offer_time=row.offer_time,
        end_time=row.end_time,
        reservation_id="" if row.reservation_id is None else str(row.reservation_id),
        pass_reason=PassReason(row.pass_reason),
        reason=row.reason or "",
        revision=row.revision,
        position=row.position or 0,
        sequence=row.sequence,
    )


async def serve(connection: Connection, tenant: str, reservation_ids: Sequence[str], *, skip_busy: bool) -> Served:
    """Offers what is free to the entries that wait, under these ids: not more than there are.

    `skip_busy` leaves out what has an item that others keep locked; without it that is NothingRan, after a wait.
    """
    ids = arrays.plain(reservation_ids)
    return await _SERVE.one(connection, tenant=tenant, reservation_id=ids, skip_busy=skip_busy)


async def sweep(connection: Connection, tenant: str | None) -> Swept:
    """Ends entries whose time is over, of a tenant or of all, and tells who is to be served."""
    return await _SWEEP.one(connection, tenant=tenant, max_count=LAPSED_MAX)


async def totals(connection: Connection, tenant: str) -> Totals:
    """How many entries of a tenant wait, and how many are offered units."""
    return await _TOTALS.one(connection, tenant=tenant)


async def purge(connection: Connection, age: timedelta, max_count: int = 1000) -> int:
    """Forgets at most `max_count` entries that ended longer than `age` ago."""
    return (await _PURGE.one(connection, age=age, max_count=max_count)).number
