"""Reservations: their rows, and reading them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple, NotRequired, TypedDict
from uuid import UUID

from holdsvc import errors
from holdsvc.change_requests import Request
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind, bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.ledger.limits import LimitRefusal
from holdsvc.ledger.requests import pool_list
from holdsvc.model import Caller, Line, Original, Outcome, Refused, Reservation, ReservationLine, State

Result = Outcome[Reservation]


class Removed(TypedDict):
    """What all events of a removed reservation tell of it besides their snapshots, as remove_ended writes it."""

    client: str
    create_time: str
    order_id: str | None
    confirm_time: str | None
    refund_time: str | None
    fulfil_time: str | None
    pools: list[str]
    """Those of its lines."""
    lines: NotRequired[list[tuple[str, str, int, int]]]
    """With the confirmed quantity, in events since it was sold."""


class Snapshot(TypedDict):
    """What Modify and a partial Cancel change of a reservation, as reservation_snapshot writes it."""

    lines: list[tuple[str, str, int]]
    holder: str
    reference: str
    metadata: dict[str, str] | None
    removed: NotRequired[Removed]
    """There once retention has removed the reservation."""


class ReservationAnswer(NamedTuple):
    """A row of type reservation_answer; `outcome` None: done."""

    ix: int
    outcome: str | None
    short: list[tuple[str, str, int, int | None]] | LimitRefusal | None
    """The lines that a refusal is about: sku, pool, requested, available; None for an item that does not exist. Or the
    limit, where a refusal is about one."""
    other_id: UUID | None
    reservation_id: str | None
    """None: there is no reservation to see, and the columns that follow are None too."""
    client: str
    holder: str
    reference: str
    state: int
    line_key: list[list[str]]
    """Of each line sku and pool."""
    line_units: list[list[int]]
    """Of each line quantity, confirmed, refunded, fulfilled and returned."""
    order_id: str | None
    customer_name: str | None
    customer_email: str | None
    metadata: dict[str, str] | None
    create_time: datetime
    expire_time: datetime
    confirm_time: datetime | None
    cancel_time: datetime | None
    refund_time: datetime | None
    fulfil_time: datetime | None
    reason: str | None
    revision: int
    original: Snapshot | None
    entry_id: UUID | None
    due: bool
    """Whether units of an item of the tenant are due to entries that wait for them."""


class _Ids(NamedTuple):
    reservation_ids: list[UUID] | None


_GET = bind("get_reservations", ReservationAnswer, "tenant", "reservation_id")
_FIND_REFERENCE = bind_out("find_reference", _Ids, "tenant", "client", "pools", "reference")


def reservation_of(row: ReservationAnswer) -> Reservation:
    """The reservation of a row that has one."""
    assert row.reservation_id is not None
    return Reservation(
        reservation_id=row.reservation_id,
        client=row.client,
        holder=row.holder,
        reference=row.reference,
        state=State(row.state),
        lines=[
            ReservationLine(sku, pool, *units) for (sku, pool), units in zip(row.line_key, row.line_units, strict=True)
        ],
        create_time=row.create_time,
        expire_time=row.expire_time,
        metadata=row.metadata or {},
        order_id=row.order_id or "",
        customer_name=row.customer_name,
        customer_email=row.customer_email,
        confirm_time=row.confirm_time,
        cancel_time=row.cancel_time,
        refund_time=row.refund_time,
        fulfil_time=row.fulfil_time,
        reason=row.reason or "",
        revision=row.revision,
        original=None if row.original is None else original(row.original),
        entry_id="" if row.entry_id is None else str(row.entry_id),
    )


def original(snapshot: Snapshot) -> Original:
    """What a reservation was at the time of a snapshot."""
    return Original(
        [Line(*line) for line in snapshot["lines"]],
        snapshot["holder"],
        snapshot["reference"],
        snapshot["metadata"] or {},
    )


async def get(connection: Connection, tenant: str, ids: Sequence[str]) -> list[Reservation | None]:
    """Reads reservations by id, in order; None where there is none."""
    rows = await _GET.fetch(connection, tenant=tenant, reservation_id=arrays.plain(ids))
    return [reservation_of(row) if row.reservation_id is not None else None for row in rows]


async def find_reference(connection: Connection, caller: Caller, reference: str) -> list[str]:
    """The ids of the caller's own reservations with this reference, newest first, two at most."""
    row = await _FIND_REFERENCE.one(
        connection, tenant=caller.tenant, client=caller.client, pools=pool_list(caller), reference=reference
    )
    return [str(id_) for id_ in row.reservation_ids or []]


async def without_hidden(
    connection: Connection, tenant: str, requests: Sequence[Request], results: list[Result]
) -> list[Result]:
    """The results; refusals name no reservation that their caller may not see."""
    named: dict[int, str] = {}
    for index, (request, result) in enumerate(zip(requests, results, strict=True)):
        sees_all = request.caller.reads_all and not request.caller.pools
        if isinstance(result, Refused) and result.reason in _NAMING and not sees_all and result.metadata:
            named[index] = result.metadata["reservation_id"]
    if not named:
        return results
    found = await committed(connection, tenant, set(named.values()))
    for index, reservation_id in named.items():
        reservation, result = found.get(reservation_id), results[index]
        assert isinstance(result, Refused)
        if reservation is None or not requests[index].caller.sees(reservation):
            order_id = result.metadata.get("order_id")
            results[index] = (
                errors.duplicate_reservation(None) if order_id is None else errors.order_id_in_use(order_id, None)
            )
    return results


_NAMING = ("DUPLICATE_RESERVATION", "ORDER_ID_IN_USE")
"""Refusals that name another reservation than the request's own."""


async def committed(connection: Connection, tenant: str, ids: Collection[str]) -> dict[str, Reservation | None]:
    """The reservations with these ids, None for an unknown id; empty where the database does not answer."""
    wanted = sorted(ids)
    try:
        return dict(zip(wanted, await get(connection, tenant, wanted), strict=True))
    except (NothingRan, Unknown, Conflict, Failed):
        # The batch is committed: an error here must not make all of it look undone.
        return {}
