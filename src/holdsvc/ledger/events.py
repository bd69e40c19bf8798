"""The event table: what happened, rebuilt from its rows."""

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from holdsvc.ledger.binding import bind
from holdsvc.ledger.database import Connection
from holdsvc.model import Event, EventType, Item, Line, Reservation, State


class EventRow(NamedTuple):
    """An event as the functions answer it."""

    event_id: int
    occur_day: date
    tenant: str
    type: int
    client: str
    key_id: str
    request_id: str | None
    reason: str | None
    occur_time: datetime
    revision: int
    line_sku: list[str]
    line_pool: list[str]
    line_quantity: list[int]
    reservation_id: UUID | None
    from_state: int | None
    state: int | None
    expire_time: datetime | None
    refunded_quantity: list[int] | None
    written_off_quantity: list[int] | None
    display_name: str | None
    capacity: int | None
    remaining: int | None
    held: int | None
    confirmed: int | None
    oversell_limit: int | None
    filters: list[int] | None
    """Of the reader's filters, those that want it."""


_LIST = bind("list_reservation_events", EventRow, "tenant", "reservation_id", "after", "limit")


def rebuild(r: EventRow, subject: Reservation | None) -> Event:
    """Makes the event of a row.

    `subject` is the event's reservation as it is by now: what never changes comes from it, what does from the row.
    """
    lines = [Line(*line) for line in zip(r.line_sku, r.line_pool, r.line_quantity, strict=True) if line[2] != 0]
    event = Event(
        event_id=r.event_id,
        type=EventType(r.type),
        lines=lines,
        client=r.client,
        key_id=r.key_id,
        request_id=r.request_id or "",
        reason=r.reason or "",
        occur_time=r.occur_time,
    )
    if r.written_off_quantity:
        event.written_off_lines = [
            Line(*line) for line in zip(r.line_sku, r.line_pool, r.written_off_quantity, strict=True) if line[2] != 0
        ]
    if subject is not None:
        event.reservation = _as_it_was(r, subject)
    elif r.capacity is not None:
        event.item = Item(
            r.line_sku[0], r.line_pool[0], r.display_name or "", r.capacity, r.remaining or 0, r.held or 0,
            r.confirmed or 0, r.oversell_limit or 0, r.revision, None, r.occur_time,
        )  # fmt: skip
    return event


def _as_it_was(row: EventRow, now: Reservation) -> Reservation:
    state = State(row.state or 0)
    sold = state in (State.CONFIRMED, State.REFUNDED)
    refunded = row.refunded_quantity or [0] * len(now.lines)
    return Reservation(
        reservation_id=now.reservation_id,
        client=now.client,
        holder=now.holder,
        reference=now.reference,
        state=state,
        lines=[
            line._replace(confirmed_quantity=line.confirmed_quantity if sold else 0, refunded_quantity=back)
            for line, back in zip(now.lines, refunded, strict=True)
        ],
        create_time=now.create_time,
        expire_time=row.expire_time or now.expire_time,
        metadata=now.metadata,
        order_id=now.order_id if sold else "",
        confirm_time=now.confirm_time if sold else None,
        cancel_time=row.occur_time if state is State.CANCELLED else None,
        refund_time=row.occur_time if row.type == EventType.REFUNDED else None,
        reason=row.reason or "",
        revision=row.revision,
    )


async def list_of_reservation(
    connection: Connection, tenant: str, subject: Reservation, after: int, limit: int
) -> list[Event]:
    """One page of a reservation's audit trail, oldest first, after the event `after`."""
    rows = await _LIST.fetch(connection, tenant=tenant, reservation_id=subject.reservation_id, after=after, limit=limit)
    return [rebuild(row, subject) for row in rows]
